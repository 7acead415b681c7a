"""Trees that are laid out as the licensed databases are."""

import licensed
import pytest


@pytest.fixture(scope="session")
def bu3dfe(database, tmp_path_factory):
    root = tmp_path_factory.mktemp("bu3dfe")
    licensed.write_bu3dfe(root, database, database.subjects)
    return root


@pytest.fixture(scope="session")
def bosphorus(database, tmp_path_factory):
    root = tmp_path_factory.mktemp("bosphorus")
    licensed.write_bosphorus(root, database, database.subjects)
    return root
