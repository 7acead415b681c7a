"""One small database for all tests, made once in a folder of its own."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from driver import tiny_request

from drfer.cli import main
from drfer.datasets.anny3dfe.database import Anny3DFE
from drfer.evaluation.collect import collect
from drfer.evaluation.engine import run_here
from drfer.evaluation.plan import Job, Request, plan
from drfer.evaluation.presets import PRESETS
from drfer.evaluation.protocol import drawn_subjects, protocol_keys
from drfer.evaluation.result import Result
from drfer.evaluation.store import Store
from drfer.preprocessing.faceset import preprocess


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a GPU")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """The cache folder of this test run: nothing of the user's is read or written."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["DRFER_CACHE"] = str(folder)
    # but for the tables of the head model, which take a minute and 3.4 GB of memory to make
    os.environ.setdefault("ANNY_CACHE_DIR", str(Path.home() / ".cache" / "anny"))
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
    """For batches this small a second thread saves nothing, and costs much on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class Finished:
    """A tiny evaluation, done in this process in one go."""

    request: Request
    jobs: dict[str, Job]
    store: Store
    folder: Path
    result: Result


@pytest.fixture(scope="session")
def finished(faces, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    request, store = tiny_request(), Store(folder / "store")
    jobs = plan(request, faces, store)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert run_here(jobs, faces, store) == []
    torch.set_num_threads(threads)
    return Finished(request, jobs, store, folder, collect(request, faces, store, folder))


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs a command of `drfer` in this process: gives its exit code, and what it said."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["drfer", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code
        return code, capsys.readouterr()

    return run
