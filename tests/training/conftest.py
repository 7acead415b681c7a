"""What all tests of training share."""

import pytest
from random_faces import fold_data, random_faces


@pytest.fixture(scope="module")
def faces():
    return random_faces()


@pytest.fixture(scope="module")
def data(faces):
    return fold_data(faces)
