"""The one parser of result.json and samples.npz: everything that is not as it should be is refused.

Each function raises ValueError, KeyError, TypeError or AttributeError for a file of another form.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import numpy as np

from drfer.datasets.scan import EXPRESSIONS
from drfer.evaluation.measures import MEASURES
from drfer.evaluation.protocol import Protocol
from drfer.evaluation.rows import ROWS

FORMAT = 2
"""Of result.json; raised when older files can no longer be read."""


def parse_result(text: str) -> tuple[dict, dict[str, dict]]:
    """Return heading and entries of a result.json."""
    content = json.loads(text, parse_constant=_refuse_constant)
    if content["format"] != FORMAT:
        raise ValueError(f"it has format {content['format']}, not {FORMAT}")
    heading, entries = content["heading"], content["entries"]
    texts = [heading[name] for name in ("dataset", "data hash", "preset", "precision")]
    _require(all(isinstance(text, str) for text in texts), "a text in its heading is none")
    _require(_is_count(heading["seed"]), "its seed is no number")
    _require(heading["expressions"] == list(EXPRESSIONS), "its expressions are others")
    _check_protocol(heading["protocol"])
    for axis, degrees in heading["poses"]:
        _require(isinstance(axis, str) and isinstance(degrees, int), "a pose is none")
    for entry in entries.values():
        _require(_is_count(entry["repeat"]) and _is_count(entry["fold"]), "an entry has no fold")
        _require(isinstance(entry["result"], str), "an entry names no result")
        _check_of(entry["kind"])(entry, len(heading["poses"]))
    _require(len(set(map(place_of, entries.values()))) == len(entries), "entries repeat")
    return heading, entries


def place_of(entry: dict) -> tuple:
    """Return where an entry stands in tables and figures; two of one place would count twice."""
    names = ("kind", "repeat", "fold", "row", "setting", "stage")
    return tuple(entry.get(name) for name in names)


def _check_protocol(fields: dict) -> None:
    Protocol(**fields)  # refuses unknown fields
    counts = [fields["subjects"], fields["folds"], fields["draw_seed"], *fields["intensities"]]
    _require(all(map(_is_count, counts)), "its protocol has no numbers")
    _require(2 <= fields["folds"] <= fields["subjects"], "its protocol has no folds")
    _require(isinstance(fields["redraw"], bool), "its protocol redraws neither yes nor no")


def _check_test(entry: dict, poses: int) -> None:
    _require(entry["row"] in ROWS, "it has an unknown row")
    _check_labels(entry["truth"])
    _check_labels(entry["predicted"])
    _require(len(entry["truth"]) == len(entry["predicted"]) > 0, "a fold lacks predictions")


def _check_pose(entry: dict, poses: int) -> None:
    _require(entry["row"] in ROWS and isinstance(entry["setting"], str), "it has an unknown row")
    _check_labels(entry["truth"])
    _require(len(entry["predicted"]) == poses, "a pose lacks predictions")
    for predicted in entry["predicted"]:
        _check_labels(predicted)
        _require(len(predicted) == len(entry["truth"]) > 0, "a pose lacks predictions")


def _check_features(entry: dict, poses: int) -> None:
    _require(entry["row"] in ROWS, "it has an unknown row")
    _check_labels(entry["labels"])
    _require(np.shape(entry["tsne"]) == (len(entry["labels"]), 2), "a scan has no features")
    numbers = [*np.ravel(entry["tsne"]).tolist(), entry["silhouette"], entry["purity"]]
    _require(all(map(_is_number, numbers)), "features are no numbers")


def _check_measured(entry: dict, poses: int) -> None:
    def check(value) -> None:
        if isinstance(value, dict):
            for inner in value.values():
                check(inner)
        else:
            _require(_is_number(value), "a measure is no number")

    _require(isinstance(entry["measured"], dict), "a measure is missing")
    check(entry["measured"])


def _check_curves(entry: dict, poses: int) -> None:
    _require(isinstance(entry["stage"], str) and isinstance(entry["title"], str), "no stage")
    _require(isinstance(entry["curves"], list) and len(entry["curves"]) > 0, "no curves")
    for epoch in entry["curves"]:
        _require(epoch.keys() == entry["curves"][0].keys(), "an epoch lacks a loss term")
        _require(all(map(_is_number, epoch.values())), "a loss is no number")


def _check_fold(entry: dict, poses: int) -> None:
    subjects = entry["test subjects"]
    _require(isinstance(subjects, list), "a fold has no subjects")
    _require(all(isinstance(subject, str) for subject in subjects), "a fold has no subjects")


_CHECKS: dict[str, Callable[[dict, int], None]] = {
    "fold": _check_fold,
    "test": _check_test,
    "pose": _check_pose,
    "features": _check_features,
    "curves": _check_curves,
}


def _check_of(kind: str) -> Callable[[dict, int], None]:
    return _CHECKS[kind] if kind in _CHECKS or kind not in MEASURES else _check_measured


def parse_samples(content: bytes, poses: int) -> dict[str, np.ndarray]:
    """Return the arrays of a samples.npz, for results with so many head poses."""
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        samples = {name: stored[name] for name in stored.files}
    for name, array in samples.items():
        _require(
            array.dtype.kind in "fiu" and bool(np.isfinite(array).all()), f"{name!r} is broken"
        )
    scans = len(samples.get("manifold features", ()))
    for name in ("features", "expression", "intensity", "subject"):
        if "manifold features" in samples:
            _require(len(samples[f"manifold {name}"]) == scans, "the manifold's arrays differ")
    if "posed clouds" in samples:
        shapes = samples["posed clouds"].shape[:2], samples["posed left"].shape
        _require(shapes == ((2, poses), (2, poses)), "the turned heads are not two at every pose")
    if "sample labels" in samples:
        faces = {name for name in samples if name.startswith("sample ")} - {"sample labels"}
        for name in faces:
            _require(
                samples[name].shape[:1] == samples["sample labels"].shape, f"{name!r} is broken"
            )
            _require(samples[name].shape[2:] == (3,), f"{name!r} is broken")
    return samples


def _check_labels(labels) -> None:
    _require(isinstance(labels, list), "labels are missing")
    _require(all(_is_count(label) and label < len(EXPRESSIONS) for label in labels), "no label")


def _is_count(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def _refuse_constant(name: str):
    raise ValueError(f"it holds {name}")
