"""The paper's figures 1 to 6 and tables I to III, and pictures of each run, from stored results alone.

A results folder holds one folder for each evaluation. Every figure has a strip of panels for each
evaluation, every table a column; what was not run says so. The same results give the same bytes.
"""

from __future__ import annotations

from pathlib import Path

from drfer.common.errors import DrferError
from drfer.common.files import written_whole
from drfer.evaluation.result import Result, load_results
from drfer.figures import architecture
from drfer.figures.curves import confusion_matrices, pose_curves, rows_by_fold, training_curves
from drfer.figures.maps import feature_maps, manifold
from drfer.figures.pages import pages
from drfer.figures.portraits import rotated_faces, sample_faces
from drfer.figures.style import save
from drfer.figures.tables import accuracy_table, tables

CHECKOUT = Path(__file__).parents[2] / "figures"
"""Where the results that come with the source code lie."""


def draw(results: Path | None = None, out: Path | None = None) -> list[Path]:
    """Draw everything that results have, and return the files.

    Figures 1 to 6 and the main figure are drawn as PNG and PDF, figures 1 and 4 also as pages for a
    browser if plotly is installed. In a folder of its own, each evaluation has its main figure,
    training curves, confusion matrices, sample faces and table of accuracy, as far as they were run.

    Args:
        results: the results folder; by default the checkout's figures, else ./figures.
        out: the folder to draw into; by default the results folder.

    Raises:
        DrferError: there are no results, one is broken, or a file cannot be written.
    """
    folder = results or (CHECKOUT if CHECKOUT.is_dir() else Path("figures"))
    found = load_results(folder)
    if not found:
        raise DrferError(
            f"{folder} holds no results: run `drfer reproduce` or `drfer crossval` first, or say "
            "with --results where they are"
        )
    out = out or folder
    written = _write(_texts(found), out)
    written += _draw_figures(found, out)
    for result in found:
        written += _draw_run(result, out / result.name)
    return written


def _texts(results: list[Result]) -> dict[str, str]:
    texts = {name: "\n".join(lines) + "\n" for name, lines in tables(results).items()}
    return texts | {"tables.md": "\n".join(texts.values())} | pages(results)


def _draw_figures(results: list[Result], out: Path) -> list[Path]:
    figures = {
        "main": rows_by_fold(results),
        "figure-1": manifold(results),
        "figure-2": architecture.method(),
        "figure-3": architecture.architecture(),
        "figure-4": rotated_faces(results),
        "figure-5": pose_curves(results),
        "figure-6": feature_maps(results),
    }
    return [
        save(figure, out / f"{name}.{kind}")
        for name, figure in figures.items()
        for kind in ("pdf", "png")
    ]


def _draw_run(result: Result, out: Path) -> list[Path]:
    """Table and pictures of one evaluation, in its own folder."""
    written = []
    if result.rows:
        written += _write({"table.md": "\n".join(accuracy_table(result)) + "\n"}, out)
        written.append(save(confusion_matrices(result), out / "confusion.png"))
        written.append(save(rows_by_fold([result]), out / "main.png"))
    if result.select("curves"):
        written.append(save(training_curves(result), out / "curves.png"))
    if "sample labels" in result.samples:
        written.append(save(sample_faces(result), out / "faces.png"))
    return written


def _write(texts: dict[str, str], out: Path) -> list[Path]:
    for name, text in texts.items():
        with written_whole(out / name) as target:
            target.write_text(text, encoding="utf-8")
    return [out / name for name in texts]
