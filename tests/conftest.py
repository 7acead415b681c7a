"""One small database for all tests, made once in a folder of its own."""

import os

import pytest
import torch

from drfer.datasets.anny3dfe import Anny3DFE
from drfer.experiment import PRESETS
from drfer.preprocessing import preprocess
from drfer.protocol import drawn_subjects, protocol_keys


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """The cache folder of this test run: nothing of the user's is read or written."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["DRFER_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def database(cache):
    return Anny3DFE(PRESETS["smoke"].dataset_subjects)


@pytest.fixture(scope="session")
def faces(database):
    protocol = PRESETS["smoke"].protocol
    return preprocess(database, protocol_keys(drawn_subjects(database.subjects, protocol), protocol))


@pytest.fixture(scope="module")
def one_thread():
    """For batches this small a second thread is no faster, and much slower where the machine has other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
