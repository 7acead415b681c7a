"""What is measured of an experiment's finished stages, beyond accuracy: one entry a measure.

To add a measure, write a function of an experiment and add an entry to `MEASURES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from drfer.datasets import has_neutral
from drfer.datasets.scan import ScanKey
from drfer.evaluation import diagnosis, disentanglement
from drfer.evaluation import features as planes
from drfer.evaluation.rows import BASELINE, CONTROL, METHOD, ROWS
from drfer.models.drfer import DrFER
from drfer.preprocessing.faceset import preprocess
from drfer.preprocessing.head_pose import POSES, pose_scan, turned_back
from drfer.training.data import labels_of
from drfer.training.stages import STAGES
from drfer.training.trainer import predict

if TYPE_CHECKING:
    from drfer.evaluation.experiment import Experiment

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Measure:
    """One measurement of an experiment."""

    name: str
    """As the command line calls it."""
    explains: str
    """One sentence that says what it is."""
    stages: tuple[str, ...]
    """The stages that it looks at."""
    function: Callable[[Experiment], tuple[Arrays, dict]]
    """Gives arrays, and a record that JSON can hold."""
    entries: Callable[[dict], list[dict]] = lambda measured: [{"measured": measured}]
    """Makes of the record the entries of a `Result`."""
    poses: bool = False
    """Whether it needs the scans at all head poses."""
    posed_training: bool = False
    """Whether it is also taken of the run whose training scans stand at all head poses."""
    once: bool = False
    """Whether it is taken of the first run of an evaluation only."""
    version: int = 1
    """Is raised when its numbers may come out differently."""


COMPARED = {row: ROWS[row].stage for row in (BASELINE, METHOD)}
"""The two models that are compared beyond their accuracy: row and stage."""
WITH_CONTROL = COMPARED | {CONTROL: ROWS[CONTROL].stage}
"""They and the control, which says what training as long does to features."""


def _head_pose(experiment: Experiment) -> tuple[Arrays, dict]:
    """What each model says of the test scans at all head poses, as they stand and turned back."""
    data, posed = experiment.data, experiment.posed_faces
    keys = [experiment.faces.keys[scan] for scan in data.test]
    row_of = {key: row for row, key in enumerate(posed.keys)}
    points, classes = experiment.run.preset.sizes.points, len(experiment.faces.expressions)
    clouds = posed.clouds[[row_of[key] for key in keys]][:, :, :points]
    predicted = {}
    for row, stage in WITH_CONTROL.items():
        model = experiment.model(stage)
        raw = [_predicted(model, clouds[:, number], classes) for number in range(len(POSES))]
        if experiment.run.posed:
            predicted[row] = {"trained": raw}
        else:
            back = [turned_back(clouds[:, number], pose) for number, pose in enumerate(POSES)]
            predicted[row] = {
                "raw": raw,
                "registered": [_predicted(model, each, classes) for each in back],
            }
    truth = data.labels[data.test].tolist()
    return {}, {"truth": truth, "predicted": predicted}


def _head_pose_entries(measured: dict) -> list[dict]:
    return [
        {"row": row, "setting": setting, "truth": measured["truth"], "predicted": predicted}
        for row, settings in measured["predicted"].items()
        for setting, predicted in settings.items()
    ]


def _features(experiment: Experiment) -> tuple[Arrays, dict]:
    """Silhouette and purity of the test features of three models, and two of them on a plane."""
    data = experiment.data
    labels = data.labels[data.test].cpu().numpy()
    rows = {}
    for row, stage in WITH_CONTROL.items():
        features, _ = predict(experiment.model(stage), data.clouds[data.test])
        rows[row] = {
            "silhouette": round(planes.silhouette(features, labels), 4),
            "purity": round(planes.neighbour_purity(features, labels), 4),
        }
        if row in COMPARED:
            plane = planes.tsne(features, experiment.run.seed)
            rows[row]["tsne"] = np.round(plane.astype(float), 3).tolist()
    return {}, {"labels": labels.tolist(), "rows": rows}


def _feature_entries(measured: dict) -> list[dict]:
    return [
        {"row": row, "labels": measured["labels"], **values}
        for row, values in measured["rows"].items()
    ]


def _disentanglement(experiment: Experiment) -> tuple[Arrays, dict]:
    models = _after_each_stage(experiment)
    seed = experiment.run.seed
    return {}, disentanglement.measure(*models, experiment.data, experiment.faces, seed)


def _diagnosis(experiment: Experiment) -> tuple[Arrays, dict]:
    """Gradients of the later stages at the weights that each starts from and ends with."""
    run, data = experiment.run, experiment.data
    models = _after_each_stage(experiment)
    norms, movement = {}, {}
    for number, row in enumerate(("stage i + ii", METHOD)):
        stage = STAGES[ROWS[row].stage]
        before, after = models[number], models[number + 1]
        norms[stage.name] = {
            when: diagnosis.gradient_norms(
                stage, model, data, run.preset.schedule(stage), run.losses, run.seed
            )
            for when, model in (("start", before), ("end", after))
        }
        movement[row] = diagnosis.feature_movement(before, after, data)
    return {}, {"gradient norm": norms, "feature movement": movement}


def _curves(experiment: Experiment) -> tuple[Arrays, dict]:
    """Loss terms over the epochs of all stages of the method."""
    stages = _with_ancestors(ROWS[METHOD].stage)
    records = {stage: experiment.train(stage) for stage in stages}
    return {}, {stage: record["curves"] for stage, record in records.items()}


def _curve_entries(measured: dict) -> list[dict]:
    return [
        {"stage": stage, "title": STAGES[stage].title, "curves": curves}
        for stage, curves in measured.items()
    ]


def _samples(experiment: Experiment) -> tuple[Arrays, dict]:
    """Arrays for figures: features by intensity, two turned heads, and faces of each expression."""
    model = experiment.model(ROWS[METHOD].stage)
    shown, heads = _turned_heads(experiment)
    arrays = heads | _features_by_intensity(experiment, model) | _sample_faces(experiment, model)
    return arrays, {"shown": [str(key) for key in shown]}


def _turned_heads(experiment: Experiment) -> tuple[list[ScanKey], Arrays]:
    faces = experiment.faces
    highest, classes = faces.dataset.intensities[-1], faces.expressions
    expression = "surprise" if "surprise" in classes else classes[-1]
    shown = [ScanKey(person, expression, highest) for person in experiment.test_subjects[:2]]
    clouds, left = zip(*(pose_scan(faces, key) for key in shown))
    in_mm = np.round(np.stack(clouds) * faces.settings.frame_length, 2)
    return shown, {"posed clouds": in_mm, "posed left": np.stack(left)}


def _features_by_intensity(experiment: Experiment, model: DrFER) -> Arrays:
    dataset, tested = experiment.faces.dataset, experiment.test_subjects
    if not has_neutral(dataset):
        return {}  # its trajectories begin there
    if hasattr(dataset, "at_all_intensities"):
        dataset = dataset.at_all_intensities(tested)
    keys = [key for key in dataset.keys() if key.subject in tested]
    faces = preprocess(dataset, keys)
    clouds = faces.clouds[:, : experiment.run.preset.sizes.points]
    features, _ = predict(model, _to_device_of(model, clouds))
    return {
        "manifold features": features,
        "manifold expression": labels_of(faces),
        "manifold intensity": np.array([key.intensity for key in keys]),
        "manifold subject": np.array([tested.index(key.subject) for key in keys]),
    }


@torch.no_grad()
def _sample_faces(experiment: Experiment, model: DrFER) -> Arrays:
    """One test scan of each expression that was tested, and every face that the model makes of it."""
    data = experiment.data
    labels = data.labels[data.test].cpu().numpy()
    samples = [int(np.flatnonzero(labels == label)[-1]) for label in np.unique(labels)]
    clouds = data.clouds[data.test][samples]
    out = model.eval().disentangle(clouds)
    columns = {
        "input": clouds,
        "de-identified": out.expression_face,
        "de-expressed": out.identity_face,
        "exp, then id": out.identity_of_expression_face,
        "id, then exp": out.expression_of_identity_face,
        "fused": out.fused_face,
    }
    length = experiment.faces.settings.frame_length
    arrays = {
        f"sample {name}": np.round(face.cpu().numpy() * length, 2)  # 0.01 mm is enough for pictures
        for name, face in columns.items()
    }
    return arrays | {"sample labels": labels[samples]}


def _after_each_stage(experiment: Experiment) -> tuple[DrFER, DrFER, DrFER]:
    """Models after stage i, after stages i and ii with the fusion module of stage i, after all."""
    return (
        experiment.model("i-expression", "i-identity"),
        experiment.model("ii-expression", "ii-identity", "i-fusion"),
        experiment.model("iii"),
    )


def _with_ancestors(stage: str) -> list[str]:
    parents = [ancestor for parent in STAGES[stage].parents for ancestor in _with_ancestors(parent)]
    return sorted({*parents, stage}, key=list(STAGES).index)


def _predicted(model: DrFER, clouds: np.ndarray, classes: int) -> list[int]:
    return predict(model, _to_device_of(model, clouds), classes)[1].argmax(axis=1).tolist()


def _to_device_of(model: DrFER, clouds: np.ndarray) -> Tensor:
    return torch.tensor(clouds, device=next(model.parameters()).device)


_ALL_MEASURES = (
    Measure(
        "pose",
        "Accuracy on the test scans at 17 head poses, in the settings that they can be read in.",
        tuple(WITH_CONTROL.values()),
        _head_pose,
        _head_pose_entries,
        poses=True,
        posed_training=True,
        version=2,
    ),
    Measure(
        "features",
        "t-SNE, silhouette and purity of the expression features; of the control without t-SNE.",
        tuple(WITH_CONTROL.values()),
        _features,
        _feature_entries,
        version=2,
    ),
    Measure(
        "disentanglement",
        "Leakage, and errors of decoded, fused and transferred faces in mm.",
        ("i-identity", "iii"),
        _disentanglement,
        version=4,
    ),
    Measure(
        "diagnosis",
        "Which loss term moves the expression branch, and how far its features move.",
        ("i-identity", "iii"),
        _diagnosis,
    ),
    Measure("curves", "Loss terms over the epochs.", ("iii",), _curves, _curve_entries),
    Measure(
        "samples",
        "Faces and features of the first run, for pictures.",
        ("iii",),
        _samples,
        lambda measured: [measured],
        poses=True,
        once=True,
        version=2,
    ),
)

MEASURES: dict[str, Measure] = {measure.name: measure for measure in _ALL_MEASURES}
"""All measures by name."""
