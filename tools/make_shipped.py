"""Make the trained model that comes with the kit: `python -m tools.make_shipped`.

It is the preset `classroom`, trained on all subjects of the open faces, since nobody has to be kept
back for a test: how good such a training is, the cross-validation says.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from drfer.common.device import keep_freed_memory
from drfer.common.files import cache_folder, written_whole
from drfer.evaluation.experiment import Experiment, prepare_faces
from drfer.evaluation.origin import provenance
from drfer.evaluation.presets import PRESETS, Preset
from drfer.evaluation.result import load_results
from drfer.evaluation.rows import METHOD
from drfer.evaluation.run import Run
from drfer.evaluation.statistics import accuracy_by_fold
from drfer.evaluation.store import Store
from drfer.models.drfer import DrFER
from drfer.models.shipped import PATH
from drfer.preprocessing.faceset import VERSION, FaceSet
from drfer.training.stages import STAGES

RANK = 64
"""Of the product that stands for a decoder's last layer."""
DECODERS = ("expression.decoder", "identity.decoder", "fusion.layers")


@dataclass(frozen=True)
class Everyone(Run):
    """A run that keeps nobody back for a test."""

    def split(self, faces: FaceSet) -> tuple[list[str], list[str]]:
        """Return all subjects to train on, and none to test."""
        return faces.subjects, []


def make(preset: Preset, faces: FaceSet, store: Store, accuracy: dict, path: Path = PATH) -> None:
    """Train on all scans, unless the store has that already, and write the file.

    Args:
        preset: sizes and lengths.
        faces: the scans.
        store: for the trainings.
        accuracy: what the card says of it, from cross-validation: accuracy by fold, in %.
        path: the file to write.
    """
    experiment = Experiment(Everyone(preset, fold=0), faces, store)
    experiment.train("iii")
    records = {stage: store.record(experiment.name(stage)) for stage in STAGES}
    model = experiment.model("iii").eval()
    clouds = experiment.data.clouds[experiment.data.train]
    card = {
        "preset": preset.name,
        "sizes": asdict(preset.sizes),
        "dataset": faces.dataset.name,
        "data hash": faces.hash,
        "preprocessing": VERSION,
        "training subjects": faces.subjects,
        "training scans": len(clouds),
        "accuracy by fold, % (cross-validation; other models of the same training, subjects unseen)": accuracy,
        "seed": experiment.run.seed,
        "loss of the last epoch": {
            stage: record["curves"][-1] for stage, record in records.items() if record
        },
        "provenance": provenance(),
    }
    with written_whole(path) as target:
        save_file(compact(model, clouds), target, {"card": json.dumps(card)})
        target.chmod(0o644)  # an installed package is read by others than its owner
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, from {experiment.name('iii')}")


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
    """Make the kit's own model, with the accuracy that the committed evaluation has."""
    from drfer.datasets import open_dataset

    keep_freed_memory()
    preset, dataset = PRESETS["classroom"], open_dataset("anny3dfe")
    results = load_results(Path(__file__).parents[1] / "figures")
    [result] = [result for result in results if result.name == f"{dataset.name}-{preset.name}"]
    by_fold = accuracy_by_fold(result.tests(METHOD))
    accuracy = {str(fold): round(value, 2) for (_, fold), value in by_fold.items()}
    everyone = replace(preset, protocol=replace(preset.protocol, subjects=len(dataset.subjects)))
    make(everyone, prepare_faces(dataset, everyone), Store(cache_folder() / "shipped"), accuracy)


if __name__ == "__main__":
    main()
