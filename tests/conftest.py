"""One small database for all tests, made once in a folder of its own."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from driver import TINY, tiny_request

from drfer.datasets.anny3dfe.database import Anny3DFE
from drfer.evaluation.engine import run_here
from drfer.evaluation.experiment import PRESETS
from drfer.evaluation.plan import Bench, Job, Source, collect, plan
from drfer.evaluation.protocol import drawn_subjects, protocol_keys
from drfer.evaluation.store import Store
from drfer.preprocessing.faceset import preprocess


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
    return preprocess(
        database, protocol_keys(drawn_subjects(database.subjects, protocol), protocol)
    )


@pytest.fixture(scope="module")
def one_thread():
    """For batches this small a second thread is no faster, and much slower where the machine has other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class Finished:
    """A tiny evaluation, done in one process in one go."""

    bench: Bench
    jobs: dict[str, Job]
    folder: Path
    result: dict


@pytest.fixture(scope="session")
def finished(faces, tmp_path_factory):
    folder, threads = tmp_path_factory.mktemp("finished"), torch.get_num_threads()
    torch.set_num_threads(1)
    bench, request = Bench(Source(), TINY, Store(folder / "store")), tiny_request()
    jobs = plan(request, faces)
    assert run_here(jobs, bench) == []
    torch.set_num_threads(threads)
    return Finished(bench, jobs, folder, collect(request, Source(), faces, bench.store, folder))
