"""The one parser of an evaluation's files: everything that is not as it should be is refused.

Each `parse` function raises some exception for content of another form; its text says why.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable

import numpy as np

from drfer.evaluation.measures import MEASURES
from drfer.evaluation.protocol import MOST_DRAWS, Draws, Protocol, protocol_of
from drfer.evaluation.rows import CONTROL, ROWS
from drfer.training.stages import STAGES

FORMAT = 2
"""Of result.json; raised when older files can no longer be read."""
HEADING = (
    "dataset",
    "data hash",
    "preset",
    "precision",
    "seed",
    "protocol",
    "expressions",
    "poses",
)
"""What the heading of a result says."""
POSE_SETTINGS = ("raw", "registered", "trained")
"""How scans at head poses are read: as they are, turned back, or by a model trained with them."""
SAMPLE_FACES = ("input", "de-identified", "de-expressed", "exp, then id", "id, then exp", "fused")
"""A scan and what the model makes of it, in the order of figure 2."""
SAMPLE_GROUPS = (
    ("manifold features", "manifold expression", "manifold intensity", "manifold subject"),
    ("posed clouds", "posed left"),
    ("sample labels", *(f"sample {face}" for face in SAMPLE_FACES)),
)
"""The arrays of samples.npz; those of a group come together or not at all."""
LARGEST_COUNT = 2**31 - 1


def parse_result(text: str) -> tuple[dict, dict[str, dict]]:
    """Return heading and entries of a result.json."""
    content = json.loads(text, parse_constant=_refuse_constant)
    if content["format"] != FORMAT:
        raise ValueError(f"it has format {content['format']!r}, not {FORMAT}")
    heading, entries = content["heading"], content["entries"]
    protocol = _check_heading(heading)
    for entry in entries.values():
        _require(_is_count(entry["repeat"]) and _is_count(entry["fold"]), "an entry has no fold")
        _require(entry["fold"] < protocol.folds, "there is no such fold")
        drawn = not isinstance(protocol, Draws) or 1 <= entry["repeat"] <= MOST_DRAWS
        _require(drawn, "there is no such draw")
        _require(isinstance(entry["result"], str), "an entry names no result")
        _check_of(entry["kind"])(entry, heading)
    _require(len(set(map(position_of, entries.values()))) == len(entries), "entries repeat")
    curves = [entry for entry in entries.values() if entry["kind"] == "curves"]
    terms = {(entry["stage"], tuple(sorted(entry["curves"][0]))) for entry in curves}
    _require(len(terms) == len({stage for stage, _ in terms}), "a stage has other terms in a fold")
    return heading, entries


def position_of(entry: dict) -> tuple:
    """Return where an entry stands in result.json, which is in the order of the tables.

    Two entries of one position would count twice.
    """
    kind = entry["kind"]
    has_row = kind in ("test", "pose", "features")
    return (
        ["fold", "test", *MEASURES].index(kind),
        list(ROWS).index(entry["row"]) if has_row else 0,
        entry["repeat"],
        entry["fold"],
        list(STAGES).index(entry["stage"]) if kind == "curves" else 0,
        POSE_SETTINGS.index(entry["setting"]) if kind == "pose" else 0,
    )


def parse_provenance(text: str) -> dict[str, dict]:
    """Return what a provenance.json says of each result."""
    content = json.loads(text)
    _require(isinstance(content, dict), "it does not name results")
    _require(all(isinstance(of, dict) for of in content.values()), "it says nothing of a result")
    return content


def parse_samples(content: bytes, heading: dict) -> dict[str, np.ndarray]:
    """Return the arrays of the samples.npz beside a result.json of this heading."""
    poses, classes = len(heading["poses"]), len(heading["expressions"])
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        samples = {name: stored[name] for name in stored.files}
    present = [group for group in SAMPLE_GROUPS if not samples.keys().isdisjoint(group)]
    _require(samples.keys() == {name for group in present for name in group}, "arrays are missing")
    for name, array in samples.items():
        _require(array.dtype.kind in "fiu" and array.size > 0, f"{name!r} holds no numbers")
        _require(np.isfinite(array).all(), f"{name!r} holds something that is no finite number")
    if "manifold features" in samples:
        _check_manifold(samples, classes)
    if "posed clouds" in samples:
        clouds, left = samples["posed clouds"], samples["posed left"]
        right = clouds.shape[:2] == left.shape == (2, poses) and clouds.shape[3:] == (3,)
        _require(right, "the turned heads are not two at every pose")
    if "sample labels" in samples:
        _check_sample_faces(samples, classes)
    return samples


def _check_heading(heading: dict) -> Protocol | Draws:
    _require(heading.keys() == set(HEADING), "its heading says more or less")
    for name in ("dataset", "preset"):  # folders are named by them
        _require(re.fullmatch(r"[\w-]+", heading[name]), f"its {name} is no name")
    texts = (heading["data hash"], heading["precision"])
    _require(all(isinstance(text, str) for text in texts), "a text in its heading is none")
    _require(_is_count(heading["seed"]), "its seed is no number")
    _check_texts(heading["expressions"], "its expressions have no names")
    _require(len(set(heading["expressions"])) == len(heading["expressions"]) > 0, "no expressions")
    protocol = _checked_protocol(heading["protocol"])
    _require(isinstance(heading["poses"], list), "its poses are missing")
    for axis, degrees in heading["poses"]:
        _require(axis in ("frontal", "yaw", "pitch"), "a pose has no axis")
        _require(_is_count(abs(degrees)) and abs(degrees) <= 180, "a pose has no angle")
    return protocol


def _checked_protocol(fields: dict) -> Protocol | Draws:
    _require(isinstance(fields["intensities"], list), "its protocol has no intensities")
    protocol = protocol_of(fields)  # refuses unknown fields
    if isinstance(protocol, Draws):
        counts = [fields[f"{of}_subjects"] for of in ("train", "test", "measured")]
        _require(
            all(map(_is_count, [*counts, *fields["intensities"]])), "its draws have no numbers"
        )
        _require(isinstance(fields["development"], bool), "its draws' people are unknown")
        factors = (fields.get("identity", 1.0), fields.get("wrong_labels", 0.0))
        _require(all(map(_is_number, factors)), "its draws' factors are no numbers")
        return protocol
    counts = [fields["subjects"], fields["folds"], fields["draw_seed"], *fields["intensities"]]
    _require(all(map(_is_count, counts)), "its protocol has no numbers")
    _require(2 <= fields["folds"] <= fields["subjects"], "its protocol has no folds")
    _require(isinstance(fields["redraw"], bool), "its protocol redraws neither yes nor no")
    _require(_is_number(fields.get("train_share", 1.0)), "its protocol has no share")
    return protocol


def _check_fold(entry: dict, heading: dict) -> None:
    _check_texts(entry["test subjects"], "a fold has no subjects")


def _check_test(entry: dict, heading: dict) -> None:
    _require(entry["row"] in ROWS, "it has an unknown row")
    _check_labels(entry["truth"], heading)
    _check_labels(entry["predicted"], heading)
    _require(len(entry["truth"]) == len(entry["predicted"]) > 0, "a fold lacks predictions")


def _check_pose(entry: dict, heading: dict) -> None:
    _require(entry["row"] in ROWS, "it has an unknown row")
    _require(entry["setting"] in POSE_SETTINGS, "it has an unknown setting of head poses")
    _check_labels(entry["truth"], heading)
    _require(len(entry["predicted"]) == len(heading["poses"]), "a pose lacks predictions")
    for predicted in entry["predicted"]:
        _check_labels(predicted, heading)
        _require(len(predicted) == len(entry["truth"]) > 0, "a pose lacks predictions")


def _check_features(entry: dict, heading: dict) -> None:
    _require(entry["row"] in ROWS, "it has an unknown row")
    _check_labels(entry["labels"], heading)
    plane = []
    if entry["row"] != CONTROL:  # which is not drawn
        _require(np.shape(entry["tsne"]) == (len(entry["labels"]), 2), "a scan has no features")
        plane = [value for point in entry["tsne"] for value in point]
    numbers = [*plane, entry["silhouette"], entry["purity"]]
    _require(all(map(_is_number, numbers)), "features are no numbers")


def _check_curves(entry: dict, heading: dict) -> None:
    _require(entry["stage"] in STAGES and isinstance(entry["title"], str), "no stage")
    _require(isinstance(entry["curves"], list) and len(entry["curves"]) > 0, "no curves")
    _require(len(entry["curves"][0]) > 0, "no loss terms")
    for epoch in entry["curves"]:
        _require(epoch.keys() == entry["curves"][0].keys(), "an epoch lacks a loss term")
        _require(all(map(_is_number, epoch.values())), "a loss is no number")


def _check_samples(entry: dict, heading: dict) -> None:
    _check_texts(entry["shown"], "samples are of no scans")


def _check_measured(entry: dict, heading: dict) -> None:
    def check(value) -> None:
        if isinstance(value, dict):
            for inner in value.values():
                check(inner)
        else:
            _require(_is_number(value), "a measure is no number")

    _require(isinstance(entry["measured"], dict), "a measure is missing")
    check(entry["measured"])


_CHECKS: dict[str, Callable[[dict, dict], None]] = {
    "fold": _check_fold,
    "test": _check_test,
    "pose": _check_pose,
    "features": _check_features,
    "curves": _check_curves,
    "samples": _check_samples,
}


def _check_of(kind: str) -> Callable[[dict, dict], None]:
    return _CHECKS[kind] if kind in _CHECKS or kind not in MEASURES else _check_measured


def _check_manifold(samples: dict[str, np.ndarray], classes: int) -> None:
    scans = (len(samples["manifold features"]),)
    _require(samples["manifold features"].ndim == 2, "the manifold has no features")
    for name in ("manifold expression", "manifold intensity", "manifold subject"):
        array = samples[name]
        _require(array.shape == scans and array.dtype.kind in "iu", "the manifold's arrays differ")
    expression = samples["manifold expression"]
    in_range = (expression >= -1) & (expression < classes)
    _require(in_range.all(), "the manifold has an unknown expression")
    subject = samples["manifold subject"]
    neutral = set(subject[expression == -1].tolist())
    _require(neutral == set(subject.tolist()), "a subject has no neutral scan")


def _check_sample_faces(samples: dict[str, np.ndarray], classes: int) -> None:
    labels = samples["sample labels"]
    _require(labels.ndim == 1 and labels.dtype.kind in "iu", "sample faces have no labels")
    known = (labels >= 0) & (labels < classes)
    _require(known.all(), "a sample face has an unknown expression")
    for name, faces in samples.items():
        if name.startswith("sample ") and name != "sample labels":
            right = faces.shape[:1] == labels.shape and faces.shape[2:] == (3,)
            _require(right, f"{name!r} is not a face for each label")


def _check_texts(texts, otherwise: str) -> None:
    _require(isinstance(texts, list) and all(isinstance(text, str) for text in texts), otherwise)


def _check_labels(labels, heading: dict) -> None:
    classes = len(heading["expressions"])
    _require(isinstance(labels, list), "labels are missing")
    _require(all(_is_count(label) and label < classes for label in labels), "no label")


def _is_count(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_COUNT


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _require(holds: object, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def _refuse_constant(name: str):
    raise ValueError(f"it holds {name}")
