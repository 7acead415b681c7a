"""From what the store has of an evaluation to its result.json, provenance.json and samples.npz."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from drfer.common.errors import DrferError
from drfer.common.files import write_json
from drfer.datasets.scan import NEUTRAL
from drfer.evaluation.draws import DrawFaces, faces_of
from drfer.evaluation.experiment import Experiment
from drfer.evaluation.measures import MEASURES
from drfer.evaluation.plan import Request, measured_runs, plan
from drfer.evaluation.protocol import fields_of
from drfer.evaluation.result import Result, load_result
from drfer.evaluation.result_format import parse_provenance
from drfer.evaluation.rows import ROWS
from drfer.evaluation.run import Run
from drfer.evaluation.store import Store
from drfer.preprocessing.faceset import FaceSet
from drfer.preprocessing.head_pose import POSES


def collect(request: Request, faces: FaceSet | DrawFaces, store: Store, folder: Path) -> Result:
    """Write what is done of an evaluation, beside what its folder already has.

    Args:
        request: what was asked for.
        faces: on which scans; of draws, those of any draw.
        store: where the jobs' results are.
        folder: the evaluation's folder; it may grow by one command after the other, and on another
            machine whose store has only the newest.

    Returns:
        All that the folder then has.

    Raises:
        DrferError: the folder holds other results (see `earlier_result`), or cannot be written.
    """
    result = earlier_result(request, faces, store, folder)
    entries = [entry for run in request.runs() for entry in _entries_of(run, request, faces, store)]
    found = {_entry_name(entry): entry for entry in entries}
    result = result.merged(Result(result.heading, found, _samples(request, faces, store)))
    origin = _load_provenance(folder)
    for name in plan(request, faces, store):
        if record := store.record(name):
            origin[name] = {**record["provenance"], "seconds": record["seconds"]}
    result.save(folder)
    write_json(folder / "provenance.json", dict(sorted(origin.items())))
    return result


def earlier_result(
    request: Request, faces: FaceSet | DrawFaces, store: Store, folder: Path
) -> Result:
    """Return what an evaluation's folder already has, or a result without entries.

    Raises:
        DrferError: the folder holds results of other data, another preset, seed or protocol, or of
            another version of the code, which would be lost or mixed with those of today; or files
            that are no results.
    """
    _load_provenance(folder)
    empty = Result(_heading(request, faces))
    if not (folder / "result.json").exists():
        return empty
    earlier = load_result(folder)
    try:
        result = earlier.merged(empty)
        if not all(_is_of_today(entry, request, faces, store) for entry in result.entries.values()):
            raise DrferError("results of another version of drfer cannot be put together")
    except DrferError as error:
        raise DrferError(f"{folder}: {error}; choose another --out, or move it away") from None
    return result


def _is_of_today(entry: dict, request: Request, faces: FaceSet | DrawFaces, store: Store) -> bool:
    """Whether an entry has the name that today's code gives to what it is of."""
    kind, repeat, fold = entry["kind"], entry["repeat"], entry["fold"]
    if kind == "fold":
        return True
    run = Run(request.preset, fold, request.seed + repeat, repeat)
    faces = faces_of(faces, run)
    if kind == "test":
        row = ROWS[entry["row"]]
        return entry["result"] == Experiment(run.change(row), faces, store).name(row.stage)
    runs = measured_runs(kind, run)
    return entry["result"] in [Experiment(each, faces, store).measure_name(kind) for each in runs]


def _heading(request: Request, faces: FaceSet | DrawFaces) -> dict:
    run = request.runs()[0]
    faces = faces_of(faces, run)
    keys = [key for key in faces.keys if key.expression != NEUTRAL]
    intensities = tuple(sorted({key.intensity for key in keys}))  # the dataset's, not the preset's
    heading = {
        "dataset": faces.dataset.name,
        "data hash": faces.hash,
        "preset": request.preset.name,
        "precision": run.precision,
        "seed": request.seed,
        "protocol": fields_of(replace(request.preset.protocol, intensities=intensities)),
        "expressions": faces.expressions,
        "poses": [["frontal", 0] if p.degrees == 0 else [p.axis, p.degrees] for p in POSES],
    }
    return json.loads(json.dumps(heading))


def _entries_of(run: Run, request: Request, faces: FaceSet | DrawFaces, store: Store) -> list[dict]:
    """The entries that the store has of one fold or draw."""
    faces = faces_of(faces, run)
    found = []
    for row in request.rows:
        experiment = Experiment(run.change(ROWS[row]), faces, store)
        name = experiment.name(ROWS[row].stage)
        if record := store.record(name):
            tested = record["best look" if ROWS[row].best_look else "test"]
            if tested:  # nobody looks at very many scans
                found.append({"kind": "test", "result": name, "row": row, **tested})
    for what in request.measures:
        for measured in measured_runs(what, run):
            name = Experiment(measured, faces, store).measure_name(what)
            if record := store.record(name):
                made = MEASURES[what].entries(record["measured"])
                found += [{"kind": what, "result": name, **entry} for entry in made]
    tested = run.split(faces)[1]
    found.append({"kind": "fold", "result": "", "test subjects": tested})
    return [{**entry, "repeat": run.repeat, "fold": run.fold} for entry in found]


def _samples(request: Request, faces: FaceSet | DrawFaces, store: Store) -> dict[str, np.ndarray]:
    """The arrays of the first run, if they were asked for and are there."""
    run = request.runs()[0]
    experiment = Experiment(run, faces_of(faces, run), store)
    name = experiment.measure_name("samples")
    if "samples" not in request.measures or store.record(name) is None:
        return {}
    stored = store.load(name)
    if stored is None:  # only now it was seen to be damaged
        experiment.measure("samples")
        stored = store.load(name)
    return {key: tensor.numpy() for key, tensor in stored[0].items()}


def _entry_name(entry: dict) -> str:
    parts = (entry["kind"], f"repeat {entry['repeat']}", f"fold {entry['fold']}")
    more = [entry[name] for name in ("row", "setting", "stage", "result") if entry.get(name)]
    return " / ".join((*parts, *more))


def _load_provenance(folder: Path) -> dict[str, dict]:
    path = folder / "provenance.json"
    try:
        return parse_provenance(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        reason = error.strerror or error
        raise DrferError(f"{path} cannot be read ({reason}); make it readable") from None
    except Exception as error:  # whatever json makes of wrong bytes
        raise DrferError(
            f"{path} is not what this version of drfer wrote ({error!r}): take it away"
        ) from None
