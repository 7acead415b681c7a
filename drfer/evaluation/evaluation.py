"""An evaluation: rows and measures over folds or draws, from a dataset's name to its result."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from drfer.common.errors import DrferError
from drfer.evaluation import engine
from drfer.evaluation.collect import collect, earlier_result
from drfer.evaluation.draws import DrawFaces
from drfer.evaluation.experiment import prepare_faces
from drfer.evaluation.plan import Job, Request, plan, without_looks, without_truth
from drfer.evaluation.protocol import Draws
from drfer.evaluation.result import Result, folder_name
from drfer.evaluation.store import Store
from drfer.preprocessing.faceset import FaceSet


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A request on a set of faces, with the folder for its result and the store beside it."""

    request: Request
    """What is to be run."""
    faces: FaceSet | DrawFaces
    """On which scans; of draws, those of any draw."""
    out: Path
    """Holds the store, and a folder for the result."""

    @classmethod
    def open(cls, request: Request, dataset, out: Path, to_run: bool = True) -> Evaluation:
        """Preprocess a dataset's scans, and refuse what could not be run before anything runs.

        Those of draws are made when the draw begins.

        Args:
            request: what is to be run.
            dataset: of which scans; None for draws.
            out: where everything is written.
            to_run: whether it shall be run, and not only be looked at.

        Raises:
            DrferError: nothing can be written there, the dataset has too few subjects, or the
                folder for the result holds other results.
        """
        if to_run:
            Store(out / "store").check_writable()
        protocol = request.preset.protocol
        drawn = isinstance(protocol, Draws)
        request = without_looks(request) if drawn else without_truth(request, dataset)
        faces = DrawFaces(protocol) if drawn else prepare_faces(dataset, request.preset)
        evaluation = cls(request, faces, out)
        if to_run:
            earlier_result(request, evaluation.faces, evaluation.store, evaluation.folder)
        return evaluation

    def run(self) -> Result:
        """Do what is missing in this process, and collect the result."""
        drawn = isinstance(self.faces, DrawFaces)
        run = engine.run_draws_here if drawn else engine.run_here
        return self._collected(run(self.jobs, self.faces, self.store))

    def run_on_ray(
        self, address: str | None, workers: int | None, gpus: float, threads: int
    ) -> Result:
        """Do what is missing on a Ray cluster (see `engine.run_on_ray`), and collect the result."""
        return self._collected(
            engine.run_on_ray(self.jobs, self.faces, self.store, address, workers, gpus, threads)
        )

    def status(self) -> str:
        """Say how far it is."""
        return engine.status(self.jobs, self.store)

    @property
    def store(self) -> Store:
        """Where weights and records are kept."""
        return Store(self.out.absolute() / "store")  # workers may stand in another folder

    @property
    def folder(self) -> Path:
        """Where the result is written."""
        preset, seed = self.request.preset, self.request.seed
        name = self.faces.dataset.name
        return self.out / folder_name(name, preset.name, preset.protocol, seed)

    @cached_property
    def jobs(self) -> dict[str, Job]:
        """The plan."""
        return plan(self.request, self.faces, self.store)

    def _collected(self, failed: list[str]) -> Result:
        result = collect(self.request, self.faces, self.store, self.folder)
        if failed:
            raise DrferError(
                f"{len(failed)} of {len(self.jobs)} jobs failed or wait for one that did; what was "
                f"done stands in {self.folder}; `drfer status` says why"
            )
        return result
