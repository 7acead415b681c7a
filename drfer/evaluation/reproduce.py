"""The main job: one fold from faces to figures. Everything it writes comes from the store's results."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from drfer import datasets
from drfer.common.errors import check_known
from drfer.common.files import written_whole
from drfer.datasets.scan import EXPRESSIONS
from drfer.evaluation import features as analysis
from drfer.evaluation.experiment import (
    EVALUATED,
    PRESETS,
    Run,
    accuracy,
    assemble,
    provenance,
    run_fold,
)
from drfer.evaluation.plan import prepare_faces
from drfer.evaluation.protocol import confusion_matrix
from drfer.evaluation.store import Store
from drfer.figures import run as figures
from drfer.preprocessing.faceset import FaceSet
from drfer.training.stages import predict


def reproduce(
    dataset: str,
    preset_name: str,
    fold: int,
    seed: int,
    out: Path,
    root: Path | None = None,
    up: str = "y",
) -> Path:
    """Train and test one fold, and write its table and figures; returns the folder they are in.

    Interrupted at any moment, the same call goes on where it was. Raises DrferError for names it does not know
    and for a folder it cannot write.
    """
    check_known("dataset", dataset, datasets.NAMES)
    check_known("preset", preset_name, PRESETS)
    run = Run(PRESETS[preset_name], fold, seed)
    folder = out / f"{dataset}-{preset_name}-fold{fold}-seed{seed}"
    store = Store(out / "store")
    store.check_writable()
    faces = prepare_faces(
        datasets.open_dataset(dataset, root, run.preset.dataset_subjects, up), run.preset
    )
    records = run_fold(run, faces, store)

    with written_whole(folder / "arrays.npz") as target:
        np.savez(target, **_pictures(run, faces, store))
    with written_whole(folder / "result.json") as target:
        target.write_text(json.dumps(_result(dataset, run, faces, records), indent=1))
    written = figures.draw_run(folder)
    print("\n" + (folder / "table.md").read_text())
    print("Written:", *written, sep="\n  ")
    return folder


def _result(dataset: str, run: Run, faces: FaceSet, records: dict[str, dict]) -> dict:
    """What the figures need, and where it came from, as JSON."""
    last = records["iii"]["test"]
    return {
        "dataset": dataset,
        "data hash": faces.hash,
        "preset": run.preset.name,
        "fold": run.fold,
        "seed": run.seed,
        "precision": run.precision(),
        "test subjects": run.test_subjects(faces),
        "accuracy": {row: accuracy(records[stage]) for stage, row in EVALUATED.items()},
        "confusion": {
            row: confusion_matrix(
                np.array(records[stage]["test"]["truth"]),
                np.array(records[stage]["test"]["predicted"]),
            ).tolist()
            for stage, row in EVALUATED.items()
        },
        "test scans": len(last["truth"]),
        "curves": {name: record["curves"] for name, record in records.items()},
        "seconds": {name: record["seconds"] for name, record in records.items()},
        "registration residual, mm": {
            "median": round(float(np.median(faces.residuals)), 2),
            "largest": round(float(faces.residuals.max()), 2),
        },
        "losses": asdict(run.losses),
        "provenance": provenance(),
    }


@torch.no_grad()
def _pictures(run: Run, faces: FaceSet, store: Store) -> dict[str, np.ndarray]:
    """Features of the test scans before and after disentanglement, on a plane, and sample faces in mm."""
    data = run.data(faces)
    clouds, labels = data.clouds[data.test], data.labels[data.test].cpu().numpy()
    arrays = {"labels": labels}
    for name, stage in (("before", "i-expression"), ("after", "iii")):
        features, _ = predict(assemble(run, (stage,), faces, data, store), clouds)
        arrays[f"tsne {name}"] = analysis.tsne(features, run.seed)
        arrays[f"measures {name}"] = np.array(
            [analysis.silhouette(features, labels), analysis.neighbour_purity(features, labels)]
        )
    model = assemble(run, ("iii",), faces, data, store).eval()
    samples = [
        int(np.flatnonzero(labels == expression)[-1]) for expression in range(len(EXPRESSIONS))
    ]
    out = model.disentangle(clouds[samples])
    columns = {
        "input": clouds[samples],
        "de-identified": out.expression_face,
        "de-expressed": out.identity_face,
        "exp, then id": out.identity_of_expression_face,
        "id, then exp": out.expression_of_identity_face,
        "fused": out.fused_face,
    }
    for name, face in columns.items():
        arrays[f"sample {name}"] = face.cpu().numpy() * faces.settings.frame_length
    arrays["sample labels"] = labels[samples]
    return arrays
