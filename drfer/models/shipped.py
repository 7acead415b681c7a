"""The trained model that comes with the kit: a `classroom` DrFER of all the open subjects, in one file below 10 MB.

Most of a DrFER's weights are in the last layers of its three decoders, and what those say of faces has few dimensions:
they are kept as products of two thin matrices, and all matrices in half precision. `python -m drfer.shipped` made it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from drfer.common.device import device, keep_freed_memory
from drfer.common.errors import DrferError
from drfer.common.files import cache_folder, written_whole
from drfer.evaluation.experiment import PRESETS, Run, assemble, provenance, run_stage
from drfer.evaluation.protocol import Protocol, accuracy_by_fold
from drfer.evaluation.store import Store
from drfer.models.drfer import DrFER
from drfer.preprocessing.faceset import VERSION, FaceSet
from drfer.training.stages import FoldData

PATH = Path(__file__).with_name("shipped.safetensors")
PRESET = "classroom"
RANK = 64
"""of a decoder's last layer"""
DECODERS = ("expression.decoder", "identity.decoder", "fusion.layers")


@dataclass(frozen=True)
class Everyone(Run):
    """A run that keeps nobody back for a test."""

    def test_subjects(self, faces: FaceSet) -> list[str]:
        return []


def load(path: Path | None = None) -> tuple[DrFER, dict] | None:
    """The kit's own model, or that of a file that `make` wrote, in evaluation, and its card: how it was trained, on whom,
    how well the cross-validation did. None if there is no such file."""
    path = path or PATH
    if not path.exists():
        return None
    with safe_open(path, "pt") as stored:
        card = json.loads(stored.metadata()["card"])
        tensors = {name: stored.get_tensor(name).float() for name in stored.keys()}
    for layer in {name.removesuffix(".left") for name in tensors if name.endswith(".left")}:
        tensors[layer] = tensors.pop(f"{layer}.left") @ tensors.pop(f"{layer}.right")
    model = DrFER(PRESETS[PRESET].sizes, len(card["training subjects"]))
    missing, extra = model.load_state_dict(tensors, strict=False)
    # the identity branch's classifier and batch norm's counts serve training alone
    missing = [
        n
        for n in missing
        if not n.startswith("identity.classifier") and not n.endswith("num_batches_tracked")
    ]
    if missing or extra:
        raise DrferError(f"{path} is not of this version's model: {', '.join((*missing, *extra))}")
    return model.to(device()).eval(), card


@torch.no_grad()
def compact(model: DrFER, clouds: Tensor) -> dict[str, Tensor]:
    """The model's weights in few bytes. clouds (n, P, 3): faces on which its answers shall stay the same."""
    inputs = _inputs_of_last_layers(model, clouds)
    tensors = {
        name: tensor.half() if tensor.dim() > 1 else tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith("identity.classifier") and tensor.is_floating_point()
    }
    for name, (layer, seen) in inputs.items():
        out = seen @ layer.weight.T
        mean = out.mean(dim=0)
        directions = torch.linalg.svd(out - mean, full_matrices=False).Vh[:RANK]
        tensors[f"{name}.bias"] = layer.bias + mean - directions.T @ (directions @ mean)
        del tensors[f"{name}.weight"]
        tensors[f"{name}.weight.left"] = directions.T.half().contiguous()
        tensors[f"{name}.weight.right"] = (directions @ layer.weight).half()
    return tensors


def _inputs_of_last_layers(model: DrFER, clouds: Tensor) -> dict[str, tuple[nn.Linear, Tensor]]:
    """By a decoder's last layer's name: the layer, and all that enters it while the model takes clouds apart."""
    entered: dict[str, list[Tensor]] = {}
    layers = {
        f"{name}.layers.{len(part.layers) - 1}": part.layers[-1]
        for name in DECODERS
        for part in [model.get_submodule(name)]
    }
    hooks = [
        layer.register_forward_pre_hook(
            lambda _, given, name=name: entered.setdefault(name, []).append(given[0])
        )
        for name, layer in layers.items()
    ]
    for part in clouds.split(24):
        model.eval().disentangle(part)
    for hook in hooks:
        hook.remove()
    return {name: (layer, torch.cat(entered[name])) for name, layer in layers.items()}


def make(dataset, faces: FaceSet, store: Store, accuracy: dict, path: Path = PATH) -> None:
    """Train on all scans of a dataset (a stage that the store has is not trained again) and write the file.

    accuracy: what the card says of it, from the cross-validation: here nobody is left to be tested on.
    """
    preset = PRESETS[PRESET]
    run = Everyone(replace(preset, protocol=Protocol(len(faces.subjects), 1)), fold=0)
    data = FoldData(faces, [], preset.sizes.points)
    record = run_stage(run, "iii", faces, data, store)
    records = {stage: store.record(run.result_name(stage, faces)) for stage in preset.trainings}
    card = {
        "preset": PRESET,
        "dataset": dataset.name,
        "data hash": faces.hash,
        "preprocessing": VERSION,
        "training subjects": faces.subjects,
        "training scans": len(data.train),
        "accuracy by fold, % (cross-validation; other models of the same training, subjects unseen)": accuracy,
        "seed": run.seed,
        "loss of the last epoch": {
            stage: record["curves"][-1] for stage, record in records.items()
        },
        "seconds": {stage: record["seconds"] for stage, record in records.items()},
        "provenance": provenance(),
    }
    tensors = compact(assemble(run, ("iii",), faces, data, store), data.clouds[data.train])
    with written_whole(path) as target:
        save_file(tensors, target, {"card": json.dumps(card)})
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {record['result']}")


def main() -> None:
    """Make the kit's own, with the accuracy that the committed evaluation has."""
    from drfer.datasets.anny3dfe.database import Anny3DFE
    from drfer.evaluation.plan import prepare_faces
    from drfer.figures.tables import WHOLE

    keep_freed_memory()
    preset, dataset = PRESETS[PRESET], Anny3DFE()
    evaluation = (
        Path(__file__).parents[2] / "figures" / f"{dataset.name}-{PRESET}" / "evaluation.json"
    )
    rows = json.loads(evaluation.read_text())["rows"]
    accuracy = {
        str(fold): round(value, 2) for (_, fold), value in accuracy_by_fold(rows[WHOLE]).items()
    }
    everyone = replace(preset, protocol=replace(preset.protocol, subjects=len(dataset.subjects)))
    make(dataset, prepare_faces(dataset, everyone), Store(cache_folder() / "shipped"), accuracy)


if __name__ == "__main__":
    main()
