"""Make the trained models that come with the kit: `python -m tools.make_shipped`.

Two models that have met a thousand people of many kinds (`tools/many_people.py`): DrFER with all its
stages, which the notebooks take apart and `--start shipped` begins with; and the recogniser, which
`drfer predict` asks. The first run makes faces for half an hour and trains for an hour on two cores;
it may be stopped and goes on. `python -m tools.make_shipped ii-expression` trains no further than a
stage, so that stages can be trained side by side; "recogniser" is one of them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from scipy.optimize import minimize
from scipy.special import logsumexp
from torch import Tensor, nn

from drfer.common.device import keep_freed_memory
from drfer.common.files import cache_folder, written_whole
from drfer.evaluation.experiment import Experiment
from drfer.evaluation.origin import provenance
from drfer.evaluation.presets import PRESETS, Preset
from drfer.evaluation.run import Run
from drfer.evaluation.store import Store
from drfer.models import recogniser as recogniser_file
from drfer.models.drfer import DrFER
from drfer.models.recogniser import CLASSES, COLDEST, Recogniser
from drfer.models.shipped import PATH
from drfer.preprocessing.faceset import VERSION, FaceSet
from drfer.preprocessing.resampling import OTHER_FACES, template_clouds
from drfer.training.data import Augmentation, DataSettings
from drfer.training.stages import STAGES
from tools.many_people import APART, NARROW, TRAINING, Population, Warped, many_people
from tools.unseen_people import labels_in, of_benchmark, right_of, unseen, worth_of

RANK = 40
"""Of the product that stands for a decoder's last layer."""
DECODERS = ("expression.decoder", "identity.decoder", "fusion.layers")
EPOCHS = {
    "i-expression": 36,
    "i-identity": 20,
    "i-fusion": 8,
    "ii-expression": 10,
    "ii-identity": 12,
    "iii": 3,
}
"""Twenty times as many people as in a fold: fewer epochs are more steps, three times as many."""
EPOCHS_OF_RECOGNISER = 80
"""Right on more scans of development people than after 36."""
BEYOND = DataSettings(input="template", neutral_class=True)
"""What the recogniser is shown: the row beyond the paper that did best on development people."""
MILD = Augmentation(largest_dropout=0.5, scale=(0.95, 1.05))
"""Of the recogniser: after as many epochs of the paper's, it knew even those badly whom it had met."""
DIRECTIONS = 32
"""Of the features, along which the recogniser measures how unlike a face is."""
DEVELOPMENT = (1101, 40)
"""A population of the benchmark's kind, and how many of its people are apart, too."""
UNLIKE = 99
"""So many percent of people apart are not unlike the known faces."""


@dataclass(frozen=True)
class Everyone(Run):
    """A run that keeps nobody back for a test."""

    def split(self, faces: FaceSet) -> tuple[list[str], list[str]]:
        """Return all subjects to train on, and none to test."""
        return faces.subjects, []


def make(
    preset: Preset, faces: FaceSet, store: Store, right: Callable[[DrFER], dict], path: Path = PATH
) -> None:
    """Train on all scans, unless the store has that already, and write the file.

    Args:
        preset: sizes and lengths.
        faces: the scans.
        store: for the trainings.
        right: says of the finished model how well it does on people whom it never saw.
        path: the file to write.
    """
    experiment = Experiment(Everyone(preset, fold=0), faces, store)
    experiment.train("iii")
    records = {stage: store.record(experiment.name(stage)) for stage in STAGES}
    model = experiment.model("iii").eval()
    clouds = experiment.data.clouds[experiment.data.train]
    card = _how(experiment) | {
        "loss of the last epoch": {
            stage: record["curves"][-1] for stage, record in records.items() if record
        },
        "right on unseen people, %": right(model),
    }
    _write(path, compact(model, clouds), card)


@torch.no_grad()
def make_recogniser(
    preset: Preset,
    faces: FaceSet,
    apart: list[FaceSet],
    store: Store,
    worth: Callable[[Recogniser], dict],
    path: Path = recogniser_file.PATH,
) -> None:
    """Train the recogniser, unless the store has that already, and write the file.

    Args:
        preset: sizes, and the length of stage i.
        faces: the scans.
        apart: scans of other people of some kinds, by all of which the temperature is set, and by
            the first the limit.
        store: for the training.
        worth: says of the finished recogniser what its card says of people whom it never saw.
        path: the file to write.
    """
    experiment = Experiment(_of_recogniser(preset), faces, store)
    model = experiment.model("i-expression").eval()
    card = _how(experiment) | {"temperature": [1.0, 0.0], "limit": np.inf, "directions": DIRECTIONS}
    made = Recogniser(card).eval().to(experiment.data.clouds.device)
    made.encoder.load_state_dict(model.expression.encoder.state_dict())
    made.classifier.load_state_dict(model.expression.classifier.state_dict())
    data = experiment.data
    features = made.features(data.clouds[data.train])
    labels = data.labels[data.train]
    made.means = torch.stack([features[labels == c].mean(dim=0) for c in range(len(CLASSES))])
    made.directions = whitening(features - made.means[labels])
    made.card |= calibration(made, apart)
    made.card |= worth(made)
    tensors = {
        name: tensor.half() if tensor.dim() > 1 else tensor
        for name, tensor in made.state_dict().items()
        if tensor.is_floating_point()
    }
    _write(path, tensors, made.card)


def whitening(deviations: Tensor) -> Tensor:
    """Return the directions in which rows vary most, scaled so that they vary by 1; (d, k)."""
    variance, directions = torch.linalg.eigh(torch.cov(deviations.T))
    return directions[:, -DIRECTIONS:] / variance[-DIRECTIONS:].sqrt()


def calibration(recogniser: Recogniser, apart: list[FaceSet]) -> dict:
    """Return the temperature under which people's answers are likeliest, and the limit.

    Both are as the recogniser's card has them: the temperature at a class and its rise with the
    distance from it, and the distance from which on a face is unlike the known ones.
    """
    features = [
        recogniser.features(
            torch.from_numpy(template_clouds(part.vertices, part.missing, recogniser.points))
        )
        for part in apart
    ]
    distances = [recogniser.distance(part).cpu().numpy() for part in features]
    scores = recogniser.classifier(torch.cat(features)).cpu().double().numpy()
    labels = np.concatenate([labels_in(CLASSES, part) for part in apart])
    rows, distance = np.arange(len(labels)), np.concatenate(distances)

    def surprise(temperature: np.ndarray) -> float:
        divided = scores / np.maximum(temperature[0] + temperature[1] * distance, COLDEST)[:, None]
        return float((logsumexp(divided, axis=1) - divided[rows, labels]).mean())

    found = minimize(surprise, [1.0, 0.0], method="Nelder-Mead")
    return {
        "temperature": found.x.tolist(),
        "limit": float(np.percentile(distances[0], UNLIKE)),
    }


@torch.no_grad()
def compact(model: DrFER, clouds: Tensor) -> dict[str, Tensor]:
    """Return a model's weights in few bytes.

    Args:
        model: in evaluation.
        clouds: faces on which its answers are to stay the same, shape (n, P, 3), frame units.

    Returns:
        Tensors by name: those of the state dict, in half precision if they are matrices; the weight
        of a decoder's last layer as `weight.left` @ `weight.right`, along the directions in which
        its output varies over the faces.
    """
    tensors = {
        name: tensor.half() if tensor.dim() > 1 else tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith("identity.classifier") and tensor.is_floating_point()
    }
    for name, (layer, inputs) in _inputs_of_last_layers(model, clouds).items():
        out = inputs @ layer.weight.T
        mean = out.mean(dim=0)
        directions = torch.linalg.svd(out - mean, full_matrices=False).Vh[:RANK]
        tensors[f"{name}.bias"] = layer.bias + layer.UNIT * (
            mean - directions.T @ (directions @ mean)
        )
        del tensors[f"{name}.weight"]
        tensors[f"{name}.weight.left"] = directions.T.half().contiguous()
        tensors[f"{name}.weight.right"] = (directions @ layer.weight).half()
    return {name: tensor.cpu() for name, tensor in tensors.items()}


def _inputs_of_last_layers(model: DrFER, clouds: Tensor) -> dict[str, tuple[nn.Linear, Tensor]]:
    """By the name of a decoder's last layer: the layer, and all that enters it for these clouds."""
    entered: dict[str, list[Tensor]] = {}
    layers: dict[str, nn.Linear] = {}
    hooks = []
    for decoder in DECODERS:
        stack = model.get_submodule(decoder).layers
        name = f"{decoder}.layers.{len(stack) - 1}"
        layers[name], entered[name] = stack[-1], []
        hooks.append(stack[-1].register_forward_pre_hook(_keep_in(entered[name])))
    for part in clouds.split(24):
        model.disentangle(part)
    for hook in hooks:
        hook.remove()
    return {name: (layer, torch.cat(entered[name])) for name, layer in layers.items()}


def _keep_in(inputs: list[Tensor]):
    return lambda layer, given: inputs.append(given[0])


def main() -> None:
    """Make the kit's own models."""
    keep_freed_memory()
    faces, store = many_people(TRAINING, NARROW), Store(cache_folder() / "shipped")
    classroom = PRESETS["classroom"]
    schedules = {
        name: replace(classroom.schedule(STAGES[name]), epochs=epochs)
        for name, epochs in EPOCHS.items()
    }
    preset = replace(classroom, name="many people", schedules=schedules)
    for stage in sys.argv[1:]:
        if stage == "recogniser":
            Experiment(_of_recogniser(preset), faces, store).train("i-expression")
        else:
            Experiment(Everyone(preset, fold=0), faces, store).train(stage)
    if sys.argv[1:]:
        return
    strangers = unseen()
    make(preset, faces, store, lambda model: right_of(model, strangers))
    apart = [many_people(APART, OTHER_FACES, kind) for kind in (Population, Warped)]
    apart.append(of_benchmark(*DEVELOPMENT))
    make_recogniser(preset, faces, apart, store, lambda made: worth_of(made, strangers))


def _of_recogniser(preset: Preset) -> Everyone:
    """The run that trains it: stage i, of which nothing else is needed."""
    stage = preset.schedule(STAGES["i-expression"])
    schedule = replace(stage, augmentation=MILD, epochs=EPOCHS_OF_RECOGNISER)
    return Everyone(replace(preset, schedules={"i-expression": schedule}), fold=0, data=BEYOND)


def _how(experiment: Experiment) -> dict:
    run, faces = experiment.run, experiment.faces
    return {
        "sizes": asdict(run.preset.sizes),
        "data": asdict(run.data),
        "data hash": faces.hash,
        "preprocessing": VERSION,
        "training people": len(faces.subjects),
        "training scans": len(experiment.data.train),
        "epochs": {name: schedule.epochs for name, schedule in run.preset.schedules.items()},
        "seed": run.seed,
        "provenance": provenance(),
    }


def _write(path: Path, tensors: dict[str, Tensor], card: dict) -> None:
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    with written_whole(path) as target:
        save_file(tensors, target, {"card": json.dumps(card)})
        target.chmod(0o644)  # an installed package is read by others than its owner
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    print(json.dumps(card, indent=1))


if __name__ == "__main__":
    main()
