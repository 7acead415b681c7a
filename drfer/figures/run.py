"""From stored results to tables and pictures. Nothing here runs a model: a figure shows only what a run gave."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from drfer.datasets.scan import EXPRESSIONS, FaceScan

COLOURS = dict(zip(EXPRESSIONS, ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#0072B2", "#56B4E9")))
"""one colour for each expression everywhere: Okabe and Ito's palette, safe for the colour-blind"""

PAPER_BU3DFE = {
    "w/o L_tri": 85.92,
    "w/o L_cls": 87.59,
    "w/ L_KL": 85.98,
    "w/ L_JS": 85.04,
    "w/o fusion": 87.15,
    "w/o skip": 87.76,
    "stage i": 84.83,
    "stage i + ii": 86.67,
    "stage i + ii + iii": 89.15,
}
"""accuracy on BU-3DFE in %, mean of 100 x 10 folds (table III of the paper)"""
PAPER_BOSPHORUS = {"stage i": 83.23, "stage i + ii + iii": 86.77}
"""the same on Bosphorus (section IV.C), which the paper gives without stage ii alone"""

STAGE_TITLES = {
    "i-expression": "stage i: expression, eq. (1)",
    "i-identity": "stage i: identity, eq. (2)",
    "i-fusion": "stage i: fusion, eq. (3)",
    "ii-expression": "stage ii: expression, eq. (7)",
    "ii-identity": "stage ii: identity, eq. (8)",
    "iii": "stage iii: end to end, eq. (10)",
}


def draw_run(folder: Path) -> list[Path]:
    """Everything `drfer reproduce` shows, from a run's result.json and arrays.npz; returns the files written."""
    import matplotlib

    matplotlib.use("Agg")
    result = json.loads((folder / "result.json").read_text())
    with np.load(folder / "arrays.npz", allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    (folder / "table.md").write_text(stage_table(result))
    pictures = {
        "curves.png": training_curves(result),
        "confusion.png": confusion_matrices(result),
        "faces.png": sample_faces(result, arrays),
        "tsne.png": feature_maps(result, arrays),
    }
    for name, figure in pictures.items():
        figure.savefig(folder / name, dpi=72)  # a sheet of 2,048-point faces stays below 1 MB
    return [folder / name for name in ("table.md", *pictures, "result.json", "arrays.npz")]


def caption(result: dict) -> str:
    """What every figure of a run says of its origin."""
    return (
        f"{result['dataset']}, preset {result['preset']}, fold {result['fold']}, seed {result['seed']}; "
        f"{result['test scans']} test scans of {len(result['test subjects'])} subjects"
    )


def stage_table(result: dict) -> str:
    """Accuracy after each stage in Markdown; the paper's figures stand in a column of their own."""
    name, paper = (
        ("Bosphorus", PAPER_BOSPHORUS)
        if result["dataset"] == "bosphorus"
        else ("BU-3DFE", PAPER_BU3DFE)
    )
    lines = [
        f"Accuracy in % ({caption(result)})",
        "",
        f"| trained by | this run | the paper, {name}, 100 x 10 folds |",
        "|---|---|---|",
    ]
    for row, value in result["accuracy"].items():
        lines.append(
            f"| {row} | {value:.2f} | {f'{paper[row]:.2f}' if row in paper else 'not given'} |"
        )
    one_scan = 100 / result["test scans"]
    lines += [
        "",
        f"One fold, one seed: one scan is {one_scan:.1f} points. The columns are of different data.",
    ]
    return "\n".join(lines) + "\n"


def training_curves(result: dict):
    """Every loss term of every stage over its epochs."""
    figure, axes = sheet(2, 3, (15, 6.4))
    for axis, (stage, title) in zip(axes.flat, STAGE_TITLES.items()):
        curves = result["curves"][stage]
        axis.set_prop_cycle(color=list(COLOURS.values()))
        for name in curves[0]:
            axis.plot(
                range(1, len(curves) + 1), [epoch[name] for epoch in curves], ".-", label=name
            )
        axis.set(title=title, xlabel="epoch", yscale="log")
        axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    for axis in axes[:, 0]:
        axis.set_ylabel("loss term, weighted\n(chamfer: squared frame units)", fontsize=8)
    figure.suptitle(f"Training loss, {caption(result)}", fontsize=10)
    return figure


def confusion_matrices(result: dict):
    """Confusion after each stage: rows the true expression, columns the predicted one."""
    figure, axes = sheet(1, 3, (13, 5.1))
    for axis, (row, counts) in zip(axes.flat, result["confusion"].items()):
        counts = np.array(counts)
        shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=100)
        for (i, j), share in np.ndenumerate(shares):
            axis.text(
                j,
                i,
                f"{share:.0f}",
                ha="center",
                va="center",
                color="white" if share > 55 else "black",
                fontsize=9,
            )
        axis.set_xticks(range(6), EXPRESSIONS, rotation=45, ha="right", fontsize=8)
        axis.set_yticks(range(6), EXPRESSIONS, fontsize=8)
        axis.set(title=f"{row}: {result['accuracy'][row]:.1f} %", xlabel="predicted")
    axes.flat[0].set_ylabel("true expression (% of its scans)")
    figure.suptitle(f"Confusion on unseen subjects, {caption(result)}", fontsize=10)
    return figure


def sample_faces(result: dict, arrays: dict[str, np.ndarray]):
    """One test scan an expression: input, both branches' faces, the cross-over's and the fused one."""
    columns = [
        name.removeprefix("sample ")
        for name in arrays
        if name.startswith("sample ") and name != "sample labels"
    ]
    labels = arrays["sample labels"]
    figure, axes = sheet(len(labels), len(columns), (1.75 * len(columns), 1.95 * len(labels) + 0.6))
    for column, name in enumerate(columns):
        for row, label in enumerate(labels):
            axis = axes[row, column]
            draw_cloud(axis, arrays[f"sample {name}"][row])
            if row == 0:
                axis.set_title(name, fontsize=10)
            if column == 0:
                axis.text(
                    -0.08,
                    0.5,
                    EXPRESSIONS[label],
                    transform=axis.transAxes,
                    rotation=90,
                    ha="center",
                    va="center",
                    color=COLOURS[EXPRESSIONS[label]],
                    fontsize=10,
                )
    bar = figure.colorbar(axes.flat[0].collections[0], ax=axes, shrink=0.4, pad=0.01)
    bar.set_label("depth, mm")
    figure.suptitle(f"Faces of test subjects, {caption(result)}", fontsize=9)
    return figure


def draw_cloud(axis, points: np.ndarray) -> None:
    """A face (P, 3) mm from the front, coloured by depth, near points on top."""
    order = np.argsort(points[:, 2])
    x, y, z = points[order].T
    axis.scatter(x, y, c=z, s=2.2, cmap="cividis", vmin=-60, vmax=35, linewidths=0)
    axis.set(xlim=(-80, 80), ylim=(-100, 90), aspect="equal")
    axis.axis("off")


def draw_scan(axis, points: np.ndarray, triangles: np.ndarray) -> None:
    """A raw scan, (n, 3) mm and (m, 3), from the front, shaded by its surface's direction."""
    light = surface_light(points, triangles)
    axis.tripcolor(
        points[:, 0], points[:, 1], triangles, facecolors=light, cmap="gray", vmin=-0.2, vmax=1
    )
    axis.set(aspect="equal", xlabel="x, mm", ylabel="y, mm")


def surface_light(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """How brightly a lamp above the viewer's shoulder lights each triangle, (m,), -1 to 1."""
    corners = points[triangles].astype(float)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12
    return normals @ np.array([0.3, 0.4, 0.85])


def scan_sheet(scans: list[list[FaceScan]], title: str):
    """Raw scans, one row a subject, in the poses that they came in."""
    figure, axes = sheet(len(scans), len(scans[0]), (2.1 * len(scans[0]), 2.4 * len(scans) + 0.4))
    for row, line in zip(axes, scans):
        for axis, scan in zip(row, line):
            draw_scan(axis, scan.points, scan.triangles)
            axis.set_title(
                str(scan.key), fontsize=8, color=COLOURS.get(scan.key.expression, "black")
            )
            axis.tick_params(labelsize=6)
            axis.label_outer()
    figure.suptitle(title, fontsize=10)
    return figure


def feature_maps(result: dict, arrays: dict[str, np.ndarray]):
    """t-SNE of the test scans' expression features before (stage i) and after disentanglement (stage iii)."""
    figure, axes = sheet(1, 2, (10, 4.9))
    for axis, (name, title) in zip(
        axes.flat, (("before", "after stage i (baseline)"), ("after", "after stage iii"))
    ):
        for number, expression in enumerate(EXPRESSIONS):
            chosen = arrays[f"tsne {name}"][arrays["labels"] == number]
            axis.scatter(
                *chosen.T,
                s=24,
                color=COLOURS[expression],
                label=expression,
                edgecolor="white",
                linewidth=0.4,
            )
        silhouette, purity = arrays[f"measures {name}"]
        axis.set_title(
            f"{title}\nsilhouette {silhouette:.2f}, 5-NN purity {purity:.2f}", fontsize=10
        )
        axis.set(xlabel="t-SNE 1 (no unit)", ylabel="t-SNE 2 (no unit)", xticks=[], yticks=[])
    axes.flat[1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.suptitle(f"Expression features, {caption(result)}", fontsize=10)
    return figure


def sheet(rows: int, columns: int, size: tuple[float, float]):
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)
