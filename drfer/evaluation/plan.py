"""The whole evaluation as a graph of jobs: rows of tables and measurements, over folds and repeats.

A job is a stage to train or a measurement of a run's finished stages; its result stands in the store under the hash
of all that determined it. So the plan of an evaluation is a list of names, what is in the store is done, and the
same plan run again after anything finishes what is missing.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from drfer import datasets
from drfer.common.errors import DrferError, check_known
from drfer.common.files import written_whole
from drfer.datasets.scan import EXPRESSIONS, NEUTRAL, ScanKey
from drfer.evaluation import diagnosis, disentanglement
from drfer.evaluation import features as planes
from drfer.evaluation.experiment import (
    BASELINE,
    METHOD,
    PARENTS,
    ROWS,
    SENSITIVITY,
    Preset,
    Run,
    assemble,
    name_of,
    provenance,
    run_stage,
)
from drfer.evaluation.protocol import drawn_subjects, protocol_keys
from drfer.evaluation.store import Store
from drfer.models.drfer import DrFER
from drfer.preprocessing.faceset import FaceSet, preprocess
from drfer.preprocessing.head_pose import (
    POSES,
    PosedFaces,
    pose_faces,
    pose_scan,
    poses_hash,
    turned_back,
)
from drfer.training.stages import FoldData, predict

MEASURED_STAGES = {BASELINE: ROWS[BASELINE].stage, METHOD: ROWS[METHOD].stage}
"""the two models that are compared beyond their accuracy"""


ALL_ROWS = ROWS | SENSITIVITY


@dataclass(frozen=True)
class Source:
    """A dataset by name, so that another process can open it."""

    name: str = "anny3dfe"
    root: Path | None = None
    up: str = "y"


@dataclass(frozen=True)
class Request:
    """What an evaluation is to run. rows: of table III and our own. folds, repeats: which of them. seed: of the first
    repeat; each later one takes the next."""

    preset: Preset
    rows: tuple[str, ...] = (BASELINE, METHOD)
    measures: tuple[str, ...] = ()
    folds: tuple[int, ...] = tuple(range(10))
    repeats: int = 1
    seed: int = 0

    @classmethod
    def of_names(cls, preset, rows, measures, folds, repeats, seed) -> Request:
        """A request by names of rows and measures, or of groups of them. Raises DrferError for unknown ones."""
        groups = {"main": (BASELINE, METHOD), "table3": tuple(ROWS), "readings": tuple(SENSITIVITY)}
        rows = tuple(dict.fromkeys(row for name in rows for row in groups.get(name, (name,))))
        measures = tuple(MEASURES) if "all" in measures else tuple(dict.fromkeys(measures))
        for row in rows:
            check_known("row", row, (*groups, *ALL_ROWS))
        for measure in measures:
            check_known("measure", measure, ("all", *MEASURES))
        if repeats < 1:
            raise DrferError(f"{repeats} repeats are none; give 1 or more")
        request = cls(preset, rows, measures, tuple(sorted(set(folds))), repeats, seed)
        precision = request.runs()[0].precision()  # runs() refuses folds that there are not
        # what this machine takes holds for all: a mixed cluster would store different numbers under one name
        return replace(request, preset=replace(preset, precision=precision))

    def runs(self) -> list[Run]:
        """DrFER itself on every fold of every repeat."""
        return [
            Run(self.preset, fold, self.seed + repeat, repeat)
            for repeat in range(self.repeats)
            for fold in self.folds
        ]


@dataclass(frozen=True)
class Job:
    """A stage or a measurement of a run. name: of its result. parents: names of the results that it starts from."""

    what: str
    run: Run
    name: str
    parents: tuple[str, ...]


class Bench:
    """What jobs are done with, opened once in a process: dataset, preprocessed scans, store."""

    def __init__(self, source: Source, preset: Preset, store: Store) -> None:
        self.dataset = datasets.open_dataset(
            source.name, source.root, preset.dataset_subjects, source.up
        )
        self.faces, self.store = prepare_faces(self.dataset, preset), store
        self._data: tuple[Run, FoldData] | None = None

    @cached_property
    def turned(self) -> PosedFaces:
        return pose_faces(self.dataset, self.faces)

    def prepare(self, jobs: dict[str, Job]) -> None:
        """Turn the heads, if a missing job needs them: once, before workers would each do it for themselves."""
        reading = [job.name for job in jobs.values() if job.what == "pose" or job.run.turned]
        if any(self.store.record(name) is None for name in reading):
            _ = self.turned

    def data(self, run: Run) -> FoldData:
        """The scans of a run's fold; the last ones asked for are kept."""
        wanted = (run.fold, run.repeat, run.turned, run.preset.sizes.points)
        if self._data is None or self._data[0] != wanted:
            self._data = wanted, run.data(self.faces, self.turned if run.turned else None)
        return self._data[1]

    def do(self, job: Job) -> None:
        """Make a job's result, unless it is there; its parents' must be."""
        if job.what in PARENTS:
            run_stage(job.run, job.what, self.faces, self.data(job.run), self.store)
            return
        with self.store.lock(job.name):
            if self.store.record(job.name) is None:
                started = time.perf_counter()
                arrays, measured = MEASURES[job.what].function(self, job.run)
                tensors = {
                    key: torch.from_numpy(np.ascontiguousarray(array))
                    for key, array in arrays.items()
                }
                seconds = round(time.perf_counter() - started, 1)
                self.store.save(
                    job.name,
                    tensors,
                    {"measured": measured, "seconds": seconds, "provenance": provenance()},
                )


def prepare_faces(dataset, preset: Preset) -> FaceSet:
    """The protocol's scans of a dataset, preprocessed; made or read from the cache."""
    protocol = replace(preset.protocol, levels=dataset.levels)
    subjects = dataset.subjects if protocol.redraw else drawn_subjects(dataset.subjects, protocol)
    return preprocess(dataset, protocol_keys(subjects, protocol))


# ---------------------------------------------------------------------------------------------- measurements


@dataclass(frozen=True)
class Measure:
    """A measurement of finished stages: `function` gives arrays and a JSON-able record."""

    function: Callable[[Bench, Run], tuple[dict[str, np.ndarray], dict]]
    stages: tuple[str, ...]
    version: int = 1


@torch.no_grad()
def _head_pose(bench: Bench, run: Run) -> tuple[dict, dict]:
    """Test scans in all poses, as they stand and turned back: what each model says of them."""
    data, turned = bench.data(run), bench.turned
    test = [bench.faces.keys[number] for number in data.test]
    place = {key: number for number, key in enumerate(turned.keys)}
    members = [place[key] for key in test]
    clouds = turned.clouds[members][:, :, : run.preset.sizes.points]
    predicted = {}
    for row, stage in MEASURED_STAGES.items():
        model = assemble(run, (stage,), bench.faces, data, bench.store)
        raw = [_predicted(model, clouds[:, number]) for number in range(len(POSES))]
        back = [
            _predicted(model, turned_back(clouds[:, number], pose))
            for number, pose in enumerate(POSES)
        ]
        predicted[row] = {"trained": raw} if run.turned else {"raw": raw, "registered": back}
    truth = [EXPRESSIONS.index(key.expression) for key in test]
    return {}, {"truth": truth, "predicted": predicted}


def _predicted(model, clouds: np.ndarray) -> list[int]:
    return (
        predict(model, torch.from_numpy(clouds).to(next(model.parameters()).device))[1]
        .argmax(axis=1)
        .tolist()
    )


def _features(bench: Bench, run: Run) -> tuple[dict, dict]:
    """Test features of both models on a plane, with silhouette and purity in feature space."""
    data, measured = bench.data(run), {}
    labels = data.labels[data.test].cpu().numpy()
    for row, stage in MEASURED_STAGES.items():
        features, _ = predict(
            assemble(run, (stage,), bench.faces, data, bench.store), data.clouds[data.test]
        )
        measured[row] = {
            "tsne": np.round(planes.tsne(features, run.seed).astype(float), 3).tolist(),
            "silhouette": round(planes.silhouette(features, labels), 4),
            "purity": round(planes.neighbour_purity(features, labels), 4),
        }
    return {}, {"labels": labels.tolist(), "rows": measured}


def _disentanglement(bench: Bench, run: Run) -> tuple[dict, dict]:
    models = _after_each_stage(bench, run)
    return {}, disentanglement.measure(
        *models, bench.data(run), bench.faces, bench.dataset, run.seed
    )


def _after_each_stage(bench: Bench, run: Run) -> list[DrFER]:
    chain = [("i-expression", "i-identity"), ("ii-expression", "ii-identity", "i-fusion"), ("iii",)]
    return [assemble(run, stages, bench.faces, bench.data(run), bench.store) for stages in chain]


def _diagnosis(bench: Bench, run: Run) -> tuple[dict, dict]:
    """Of the later stages, with the weights that each starts from and ends with."""
    data, models = bench.data(run), _after_each_stage(bench, run)
    norms = {
        stage: {
            when: diagnosis.gradient_norms(
                stage, model, data, run.preset.training(stage), run.losses, run.seed
            )
            for when, model in zip(("start", "end"), models[place:])
        }
        for place, stage in enumerate(("ii-expression", "iii"))
    }
    return {}, {
        "gradient norm": norms,
        "feature movement": {
            row: diagnosis.feature_movement(before, after, data)
            for row, before, after in zip(("stage i + ii", METHOD), models, models[1:])
        },
    }


def _samples(bench: Bench, run: Run) -> tuple[dict, dict]:
    """What figures 1 and 4 show: latent features of the test subjects' faces by level, and two turned heads in mm."""
    data, test_subjects = bench.data(run), run.test_subjects(bench.faces)
    shown = [
        ScanKey(subject, "surprise", bench.dataset.levels[-1]) for subject in test_subjects[:2]
    ]
    posed, left = zip(*(pose_scan(bench.dataset, bench.faces, key) for key in shown))
    keys = [key for key in bench.dataset.keys() if key.subject in test_subjects]
    faces = preprocess(bench.dataset, keys)
    clouds = torch.from_numpy(faces.clouds[:, : run.preset.sizes.points]).to(data.clouds.device)
    features, _ = predict(assemble(run, ("iii",), bench.faces, data, bench.store), clouds)
    arrays = {
        "posed clouds": np.stack(posed) * bench.faces.settings.frame_length,
        "posed left": np.stack(left),
        "manifold features": features,
        "manifold expression": np.array(
            [-1 if key.expression == NEUTRAL else EXPRESSIONS.index(key.expression) for key in keys]
        ),
        "manifold level": np.array([key.level for key in keys]),
        "manifold subject": np.array([test_subjects.index(key.subject) for key in keys]),
    }
    return arrays, {"shown": [str(key) for key in shown], "fold": run.fold, "repeat": run.repeat}


MEASURES = {
    "pose": Measure(_head_pose, ("i-expression", "iii")),
    "features": Measure(_features, ("i-expression", "iii")),
    "disentanglement": Measure(_disentanglement, ("i-identity", "iii"), version=2),
    "diagnosis": Measure(_diagnosis, ("i-identity", "iii")),
    "samples": Measure(_samples, ("iii",)),
}


# ------------------------------------------------------------------------------------------------------ plan


def plan(request: Request, faces: FaceSet) -> dict[str, Job]:
    """All jobs of an evaluation by the names of their results, parents before children, each once."""
    jobs: dict[str, Job] = {}
    for number, run in enumerate(request.runs()):
        for row in request.rows:
            _add_stage(jobs, run.change(ALL_ROWS[row]), ALL_ROWS[row].stage, faces)
        for what in request.measures:
            if what != "samples" or number == 0:
                _add_measure(jobs, what, run, faces)
            if what == "pose":
                _add_measure(jobs, what, replace(run, turned=True), faces)
    return jobs


def _add_stage(jobs: dict[str, Job], run: Run, stage: str, faces: FaceSet) -> str:
    name = run.result_name(stage, faces)
    if name not in jobs:
        parents = tuple(_add_stage(jobs, run, parent, faces) for parent in PARENTS[stage])
        jobs[name] = Job(stage, run, name, parents)
    return name


def _add_measure(jobs: dict[str, Job], what: str, run: Run, faces: FaceSet) -> None:
    parents = tuple(_add_stage(jobs, run, stage, faces) for stage in MEASURES[what].stages)
    name = _measure_name(what, run, faces)
    jobs[name] = Job(what, run, name, parents)


def _measure_name(what: str, run: Run, faces: FaceSet) -> str:
    measure = MEASURES[what]
    determined_by = {
        "measure": what,
        "version": measure.version,
        "seed": run.seed,
        "turned": poses_hash(faces) if what in ("pose", "samples") else None,
        "parents": [run.result_name(stage, faces) for stage in measure.stages],
    }
    return name_of(what, determined_by)


# --------------------------------------------------------------------------------------------------- results


def collect(request: Request, source: Source, faces: FaceSet, store: Store, folder: Path) -> dict:
    """Write what is done of an evaluation: evaluation.json, the same to the byte whenever and wherever its jobs ran in
    which order, on one kind of machine; samples.npz; and provenance.json, which says where and how long. Returns the first.

    What the folder already has of the same data and settings, by the names of the results, stays: an evaluation may
    grow by one command after the other, and on another machine whose store has only the newest.
    """
    result = _heading(request, source, faces)
    before = _read_json(folder / "evaluation.json")
    same = all(before.get(name) == result[name] for name in ("data hash", "preset", "seed"))
    before, origin = (before, _read_json(folder / "provenance.json")) if same else ({}, {})
    jobs = plan(request, faces)
    records = {name: record for name in jobs if (record := store.record(name))}
    for run in _all_runs(request, before):
        result["folds"].append({**_place(run), "test subjects": run.test_subjects(faces)})
        _add_rows(result, run, request, faces, records, before)
        _add_measures(result, run, request, faces, records, before)
    _write_json(folder / "evaluation.json", result)
    _write_json(folder / "provenance.json", _origin(jobs, records, origin))
    samples = "samples" in request.measures and store.load(
        _measure_name("samples", request.runs()[0], faces)
    )
    if samples:
        with written_whole(folder / "samples.npz") as target:
            np.savez_compressed(
                target, **{name: tensor.numpy() for name, tensor in samples[0].items()}
            )
    return result


def _heading(request: Request, source: Source, faces: FaceSet) -> dict:
    """What is evaluated, with room for what it gave."""
    levels = tuple(sorted({key.level for key in faces.keys if key.expression != NEUTRAL}))
    return {
        "dataset": source.name,
        "data hash": faces.hash,
        "preset": request.preset.name,
        "precision": request.runs()[0].precision(),
        "seed": request.seed,
        "protocol": asdict(
            replace(request.preset.protocol, levels=levels)
        ),  # the dataset's, not the preset's
        "expressions": EXPRESSIONS,
        "rows": {},
        "poses": [
            ["frontal", 0] if pose.degrees == 0 else [pose.axis, pose.degrees] for pose in POSES
        ],
        **{section: [] for section in SECTIONS},
        "folds": [],
    }


SECTIONS = ("pose", "features", "disentanglement", "diagnosis")
"""the measurements that evaluation.json has a list of"""


def _all_runs(request: Request, before: dict) -> list[Run]:
    """Those that are asked for, and those that an earlier evaluation had, in order."""
    places = {(run.repeat, run.fold) for run in request.runs()}
    places |= {(fold["repeat"], fold["fold"]) for fold in before.get("folds", [])}
    return [
        Run(request.preset, fold, request.seed + repeat, repeat) for repeat, fold in sorted(places)
    ]


def _place(run: Run) -> dict[str, int]:
    return {"repeat": run.repeat, "fold": run.fold}


def _add_rows(
    result: dict, run: Run, request: Request, faces: FaceSet, records: dict, before: dict
) -> None:
    for row, change in ALL_ROWS.items():
        old = before.get("rows", {}).get(row, [])
        if row in request.rows or old:
            name = run.change(change).result_name(change.stage, faces)
            new = [records[name]["test"]] if name in records else []
            if found := _new_or_old(name, run, new, old):
                result["rows"].setdefault(row, []).extend(found)


def _add_measures(
    result: dict, run: Run, request: Request, faces: FaceSet, records: dict, before: dict
) -> None:
    for what in SECTIONS:
        old = before.get(what, [])
        if what in request.measures or old:
            for posed in (run, replace(run, turned=True)) if what == "pose" else (run,):
                name = _measure_name(what, posed, faces)
                measured = records[name]["measured"] if name in records else {}
                result[what] += _new_or_old(name, run, _entries(what, measured), old)


def _new_or_old(name: str, run: Run, new: list[dict], old: list[dict]) -> list[dict]:
    """A result's entries, with their place and its name; those that were there before, if the store has none."""
    return [{**_place(run), "result": name, **entry} for entry in new] or [
        entry for entry in old if entry.get("result") == name
    ]


def _entries(what: str, measured: dict) -> list[dict]:
    """A measurement as the entries of its section: one for each row of the table that it compares, if it does."""
    if what == "pose":
        return [
            {"setting": setting, "row": row, "truth": measured["truth"], "predicted": predicted}
            for row, settings in measured.get("predicted", {}).items()
            for setting, predicted in settings.items()
        ]
    if what == "features":
        return [
            {"row": row, "labels": measured["labels"], **values}
            for row, values in measured.get("rows", {}).items()
        ]
    return [measured] if measured else []


def _origin(jobs: dict[str, Job], records: dict[str, dict], before: dict) -> dict:
    """When, where and with what the jobs ran, and the median seconds of each kind; with what was said of them before."""
    origins = [record["provenance"] for record in records.values()]
    dates = [origin["date"] for origin in origins] + [
        before[end] for end in ("first", "last") if before.get(end)
    ]
    median = {
        kind: statistics.median(
            record["seconds"] for name, record in records.items() if jobs[name].what == kind
        )
        for kind in sorted({jobs[name].what for name in records})
    }
    return {
        "jobs done": len(records),
        "jobs planned": len(jobs),
        "first": min(dates, default=None),
        "last": max(dates, default=None),
        **{
            what: sorted({origin[what] for origin in origins} | set(before.get(what, [])))
            for what in ("drfer", "torch", "device", "machine")
        },
        "median seconds": before.get("median seconds", {}) | median,
    }


def _read_json(path: Path) -> dict:
    """An earlier result; empty if there is none, or if it is damaged, when the store makes it anew."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def _write_json(path: Path, content) -> None:
    with written_whole(path) as target:
        target.write_text(json.dumps(content, indent=None, separators=(",", ":")) + "\n")
