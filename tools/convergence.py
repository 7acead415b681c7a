"""Losses on held-out people over the epochs: `python -m tools.convergence [PRESET] [LENGTH]`.

Nobody's accuracy is looked at. Each stage of the method is trained on fold 0's training subjects; at
some twenty epochs its loss is taken on the 40 subjects of the open faces that the protocol does not
draw, without augmentation. The numbers of epochs in `drfer/training/stages.py` come from these
curves; docs/convergence.md has the rule.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from drfer.common.device import keep_freed_memory
from drfer.common.files import write_json
from drfer.common.parallel import progress
from drfer.datasets.anny3dfe import Anny3DFE
from drfer.evaluation.origin import provenance
from drfer.evaluation.presets import PRESETS
from drfer.evaluation.protocol import drawn_subjects, protocol_keys
from drfer.evaluation.run import Run
from drfer.figures.style import BLUE, GREY, ORANGE
from drfer.models.drfer import DrFER
from drfer.preprocessing.faceset import FaceSet, preprocess
from drfer.training.data import Augmentation, Batch, FoldData
from drfer.training.losses import reconstruction_loss
from drfer.training.stages import STAGES, Stage
from drfer.training.trainer import Trainer, fresh_model

METHOD = ("i-expression", "i-identity", "i-fusion", "ii-expression", "ii-identity", "iii")
RIVALS = {
    "i-fusion": ("own neutral scan", lambda batch: (batch.own_neutral, batch.scan)),
    "ii-expression": (
        "mean neutral face",
        lambda batch: (batch.mean_neutral, batch.mean_expression),
    ),
    "ii-identity": ("mean neutral face", lambda batch: (batch.mean_neutral, batch.own_neutral)),
}
"""Faces that need no network, beside the reconstruction that each stage learns."""
LOOKS = 20
FIGURES = Path("figures")


def curves(run: Run, faces: FaceSet) -> dict[str, dict]:
    """Train all stages, one after the other, and return the curves of each.

    Args:
        run: its preset gives sizes and lengths.
        faces: the scans of all subjects; those that are not drawn are held out.
    """
    drawn = drawn_subjects(faces.subjects, run.preset.protocol)
    _, tested = run.split(_of(faces, drawn))
    trained = sorted(set(drawn) - set(tested))
    data = FoldData(faces, trained, tested, run.preset.sizes.points)
    held_out = FoldData(faces, sorted(set(faces.subjects) - set(drawn)), [], data.clouds.shape[1])
    held_out.mean_expression, held_out.mean_neutral = data.mean_expression, data.mean_neutral
    generator = torch.Generator().manual_seed(0)
    batches = list(held_out.batches(48, Augmentation(0.0, (1.0, 1.0)), generator))
    model = fresh_model(run.preset.sizes, len(trained), data.mean_neutral, run.seed)
    return {name: _of_stage(STAGES[name], model, data, batches, run) for name in METHOD}


def _of_stage(stage: Stage, model: DrFER, data: FoldData, batches: list[Batch], run: Run) -> dict:
    schedule = run.preset.schedule(stage)
    trainer = Trainer(
        stage, model, data, schedule, run.losses, 100 * run.seed + stage.seed, run.precision
    )
    between = max(1, schedule.epochs // LOOKS)
    looked: dict[int, dict[str, float]] = {}
    for _ in progress(trainer.epochs(), stage.title, schedule.epochs, unit="epoch"):
        if trainer.epoch % between == 0 or trainer.epoch == schedule.epochs:
            looked[trainer.epoch] = _held_out(stage, model, batches, run)
    curve = {
        "title": stage.title,
        "training epochs": list(range(1, trainer.epoch + 1)),
        "training": [sum(terms.values()) for terms in trainer.curves],
        "looked at": list(looked),
        "held out": list(looked.values()),
        "seconds": round(trainer.seconds),
    }
    if stage.name in RIVALS:
        name, faces = RIVALS[stage.name]
        values = [reconstruction_loss(*faces(batch)).item() for batch in batches]
        curve["rival"] = {"name": name, "loss": float(np.mean(values))}
    return curve


@torch.no_grad()
def _held_out(stage: Stage, model: DrFER, batches: list[Batch], run: Run) -> dict[str, float]:
    """Mean loss terms; none of the identity classifier, for which nobody else has a label."""
    if stage.name == "i-identity":
        return {}
    model.eval()
    terms = [stage.loss(model, run.losses, batch) for batch in batches]
    return {name: float(np.mean([each[name].item() for each in terms])) for name in terms[0]}


def _of(faces: FaceSet, subjects: list[str]) -> FaceSet:
    return replace(faces, keys=[key for key in faces.keys if key.subject in subjects])


def draw(stages: dict[str, dict], title: str) -> plt.Figure:
    """Return the picture of the curves: one panel a stage."""
    figure, axes = plt.subplots(2, 3, figsize=(10, 5.6), layout="constrained")
    for panel, curve in zip(axes.flat, stages.values()):
        panel.plot(curve["training epochs"], curve["training"], color=GREY, lw=1)
        values = [sum(terms.values()) for terms in curve["held out"]]
        if any(values):
            panel.plot(curve["looked at"], values, "o-", color=BLUE, ms=3.5)
        if "rival" in curve:
            panel.axhline(curve["rival"]["loss"], color=ORANGE, ls="--", lw=1)
            edge = curve["training epochs"][-1]
            panel.text(
                edge, curve["rival"]["loss"], curve["rival"]["name"], va="bottom", ha="right"
            )
        panel.set(title=curve["title"], xlabel="epoch")
    axes[0, 0].set_ylabel("loss")
    axes[1, 0].set_ylabel("loss")
    figure.suptitle(f"{title}: training (grey, augmented) and held-out people (blue)", size=11)
    return figure


def main(preset: str = "classroom", length: str = "") -> None:
    """Train, and write figures/convergence-PRESET.json and .png."""
    keep_freed_memory()
    chosen = replace(PRESETS[preset], length=length or PRESETS[preset].length)
    run = Run(chosen, fold=0)
    dataset = Anny3DFE(intensities=Anny3DFE.intensities)
    faces = preprocess(dataset, protocol_keys(dataset.subjects, chosen.protocol))
    stages = curves(run, faces)
    content = {"preset": preset, "data hash": faces.hash, **provenance(), "stages": stages}
    write_json(FIGURES / f"convergence-{preset}.json", content)
    draw(stages, f"Anny-3DFE, {preset}, fold 0").savefig(
        FIGURES / f"convergence-{preset}.png", dpi=130
    )
    print({name: curve["seconds"] for name, curve in stages.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
