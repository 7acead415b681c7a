"""The plan of an evaluation: rows of tables and measures, over folds or draws, as a list of jobs.

A job is a stage to train or a measure to take; its result lies in the store under the hash of all
that determined it. So what is in the store is done, and the same plan, run again after anything
happened, finishes what is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from drfer.common.errors import DrferError, check_known
from drfer.datasets import has_neutral
from drfer.evaluation.draws import DrawFaces, faces_of
from drfer.evaluation.experiment import Experiment, parents_of
from drfer.evaluation.linear import CLASSIFIERS
from drfer.evaluation.measures import MEASURES
from drfer.evaluation.presets import Preset
from drfer.evaluation.protocol import MOST_DRAWS, Draws
from drfer.evaluation.rows import BASELINE, CONTROL, METHOD, ROWS, names_in
from drfer.evaluation.run import Run
from drfer.evaluation.store import Store
from drfer.preprocessing.faceset import FaceSet
from drfer.training.data import DataSettings
from drfer.training.stages import STAGES

MOST_REPEATS = 1000
"""Ten times as many as the paper has; a plan is held in memory."""


@dataclass(frozen=True)
class Request:
    """What an evaluation is to run."""

    preset: Preset
    rows: tuple[str, ...] = (BASELINE, METHOD)
    """Names of rows."""
    measures: tuple[str, ...] = ()
    """Names of measures."""
    folds: tuple[int, ...] = tuple(range(10))
    """Which folds of each repeat."""
    repeats: int = 1
    """How often all folds are run, each time with the subjects shuffled anew; or how many draws."""
    seed: int = 0
    """Of the first repeat; each later one takes the next. Draw k takes this and k."""

    @classmethod
    def of_names(
        cls,
        preset: Preset,
        rows: Sequence[str],
        measures: Sequence[str],
        folds: Sequence[int],
        repeats: int,
        seed: int,
    ) -> Request:
        """Return a request by names of rows and measures, or of groups of them.

        Args:
            preset: sizes and lengths.
            rows: names of rows, or "main", "table3", "control", "bounds", "beyond", "readings".
            measures: names of measures, or "all".
            folds: which folds; all if none is named.
            repeats: how often they are run, or how many draws there are.
            seed: of the first repeat.

        Raises:
            DrferError: a name is unknown, or there is no such fold, seed or number of repeats.
        """
        groups = {
            "main": (BASELINE, METHOD),
            "table3": (*names_in("table3"), CONTROL),
            "control": names_in("control"),
            "bounds": names_in("bound"),
            "beyond": names_in("beyond"),
            "readings": names_in("reading"),
        }
        for row in rows:
            check_known("row", row, (*groups, *ROWS))
        for measure in measures:
            check_known("measure", measure, ("all", *MEASURES))
        drawn = isinstance(preset.protocol, Draws)
        most, unit = (MOST_DRAWS, "draws") if drawn else (MOST_REPEATS, "repeats")
        if not 1 <= repeats <= most:
            raise DrferError(f"{repeats} {unit} cannot be run; give 1 to {most}")
        rows = tuple(dict.fromkeys(name for row in rows for name in groups.get(row, (row,))))
        measures = tuple(MEASURES) if "all" in measures else tuple(dict.fromkeys(measures))
        folds = tuple(sorted(set(folds))) or tuple(range(preset.protocol.folds))
        request = cls(preset, rows, measures, folds, repeats, seed)
        for run in request.runs():  # refuses folds and seeds that there are not
            precision = run.precision
        # what this machine takes holds for all: else a mixed cluster would store different numbers
        # under one name
        return replace(request, preset=replace(preset, precision=precision))

    def runs(self) -> list[Run]:
        """Return DrFER itself on every fold of every repeat, or in every draw."""
        protocol = self.preset.protocol
        first = protocol.first_repeat
        data = DataSettings(wrong_labels=protocol.wrong_labels)
        return [
            Run(self.preset, fold, self.seed + repeat, repeat, data=data)
            for repeat in range(first, first + self.repeats)
            for fold in self.folds
        ]


@dataclass(frozen=True)
class Job:
    """A stage to train, or a measure to take."""

    what: str
    """Name of the stage or measure."""
    run: Run
    """The settings."""
    name: str
    """Of its result in the store."""
    parents: tuple[str, ...]
    """Names of the results that it starts from."""

    def do(self, faces: FaceSet | DrawFaces, store: Store) -> None:
        """Make the result from the run's faces, unless the store has it."""
        experiment = Experiment(self.run, faces, store)
        if self.what in MEASURES:
            experiment.measure(self.what)
        else:
            experiment.train(self.what)

    @property
    def needs_poses(self) -> bool:
        """Whether it reads the scans at all head poses."""
        return self.run.posed or (self.what in MEASURES and MEASURES[self.what].poses)


def plan(request: Request, faces: FaceSet | DrawFaces, store: Store) -> dict[str, Job]:
    """Return all jobs of an evaluation by the names of their results, parents before children.

    Args:
        request: what is to be run.
        faces: on which scans; of draws, those of any draw.
        store: where results will be.

    Raises:
        DrferError: a row is to be tested after a stage that nobody is tested after.
    """
    jobs: dict[str, Job] = {}
    for row in request.rows:
        if ROWS[row].stage in STAGES and not STAGES[ROWS[row].stage].tested:
            raise DrferError(
                f"the row {row!r} is tested after {ROWS[row].stage}, where `tested` is False: set "
                "it in the list of stages"
            )
    for number, run in enumerate(request.runs()):
        of_run = faces_of(faces, run)
        for row in request.rows:
            experiment = Experiment(run.change(ROWS[row]), of_run, store)
            _add_stage(jobs, experiment, ROWS[row].stage)
        for what in request.measures:
            if MEASURES[what].once and number > 0:
                continue
            for measured in measured_runs(what, run):
                _add_measure(jobs, Experiment(measured, of_run, store), what)
    return jobs


def without_truth(request: Request, dataset) -> Request:
    """Return a request without the rows that need what a dataset does not have; say so."""
    left = []
    for row in request.rows:
        linear = CLASSIFIERS.get(ROWS[row].stage)
        on_neutral = "neutral_class" in ROWS[row].data or (linear and linear.needs_neutral)
        if linear and linear.needs_truth and not hasattr(dataset, "truth"):
            print(f"{row} is left out: nobody knows the truth of {dataset.name}")
        elif on_neutral and not has_neutral(dataset):
            print(f"{row} is left out: {dataset.name} has no neutral scans")
        else:
            left.append(row)
    return replace(request, rows=tuple(left))


def without_looks(request: Request) -> Request:
    """Return a request of draws without the rows of best epochs; say so.

    The test scans of draws are too many to be looked at after each epoch.
    """
    best = [row for row in request.rows if ROWS[row].best_look]
    for row in best:
        print(f"{row} is left out: nobody looks at the test scans of draws epoch by epoch")
    return replace(request, rows=tuple(row for row in request.rows if row not in best))


def measured_runs(what: str, run: Run) -> list[Run]:
    """Return the runs of which a measure is taken, for a run that an evaluation asks for."""
    return [run, run.at_all_poses()] if MEASURES[what].posed_training else [run]


def _add_stage(jobs: dict[str, Job], experiment: Experiment, stage: str) -> str:
    name = experiment.name(stage)
    if name not in jobs:
        parents = [_add_stage(jobs, experiment, parent) for parent in parents_of(stage)]
        jobs[name] = Job(stage, experiment.run, name, tuple(parents))
    return name


def _add_measure(jobs: dict[str, Job], experiment: Experiment, what: str) -> None:
    parents = [_add_stage(jobs, experiment, stage) for stage in MEASURES[what].stages]
    name = experiment.measure_name(what)
    jobs[name] = Job(what, experiment.run, name, tuple(parents))
