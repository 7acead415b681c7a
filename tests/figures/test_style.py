"""Text from outside is drawn as it stands, and a picture is written whole, small, and the same twice."""

import io
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from drfer.common.errors import DrferError
from drfer.figures.style import COLOURS, literal, png, save, sheet

NAMES = (
    r"$\frac$.ply",
    "a $5 b",
    r"\$x$ y$",
    "脸.obj",
    "\N{GRINNING FACE} \x07",
    os.fsdecode(b"\xff\xfe.stl"),
    "_" * 300,
)


def titled(name):
    figure, axes = sheet(1, 2, (4, 2))
    figure.suptitle(literal(name))
    axes[0, 0].set_title(literal(name))
    axes[0, 1].plot([1, 2], label=f"by name: {literal(name, 20)}")
    axes[0, 1].legend()
    return figure


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["png", "pdf", "svg"])
def test_any_name_can_be_a_title(name, kind, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as that of a glyph that the font lacks
        save(titled(name), tmp_path / f"picture.{kind}")


def test_literal_text_reads_as_it_is():
    """As long as the same characters beside each other: a formula would be shorter."""
    name = r"$b$ \frac{1}{2}"
    figure = titled(name)
    renderer = FigureCanvasAgg(figure).get_renderer()
    whole = figure.text(0, 0, literal(name), size=20).get_window_extent(renderer).width
    apart = [figure.text(0, 0, literal(each), size=20) for each in name]
    widths = [text.get_window_extent(renderer).width for text in apart if text.get_text() != " "]
    assert whole > sum(widths)
    assert literal("plain, été, 12 %\nsecond line") == "plain, été, 12 %\nsecond line"
    assert literal("脸a") == "\N{WHITE SQUARE}a"
    short = literal("start" + 300 * "-" + "end", 21)
    assert len(short) == 21 and short.startswith("start") and short.endswith("end")


def test_a_backend_that_does_not_exist_is_none_of_our_business(tmp_path):
    script = (
        "import os, sys\n"
        "from drfer.figures.style import save, sheet\n"
        "from pathlib import Path\n"
        "figure, axes = sheet(1, 1, (2, 2))\n"
        "axes[0, 0].plot([1, 2])\n"
        "save(figure, Path('x.png'))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "import matplotlib\n"
        "print(os.environ['MPLBACKEND'], matplotlib.rcParams._get_backend_or_none())\n"
    )
    for backend, kept in (("nonsense", "None"), ("svg", "svg")):
        done = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "MPLBACKEND": backend},
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == [backend, kept]


def test_pictures_that_cannot_be_written_are_one_sentence(tmp_path):
    figure = titled("x")
    with pytest.raises(DrferError, match=r"x\.xyz: .* must end in \.png, \.pdf or \.svg"):
        save(figure, tmp_path / "x.xyz")
    (tmp_path / "taken.png").mkdir()
    for path in (tmp_path / "taken.png", "/proc/nowhere/x.png", "/dev/full/x.png"):
        with pytest.raises(DrferError) as said:
            save(figure, type(tmp_path)(path))
        assert "\n" not in str(said.value)
    assert [path.name for path in tmp_path.iterdir()] == ["taken.png"]


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    def full(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(DrferError, match=r"cannot write .*x\.png: No space left on device"):
        save(titled("x"), tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


def grey_with_thin_lines():
    figure, axes = sheet(1, 1, (3, 3))
    axes[0, 0].imshow(np.linspace(0.2, 0.8, 90_000).reshape(300, 300), cmap="gray", vmin=0, vmax=1)
    for height, colour in zip((50, 100, 200), COLOURS.values()):
        axes[0, 0].axhline(height, color=colour)
    return figure


def test_a_picture_with_few_colours_keeps_those_of_labels():
    small, large = png(grey_with_thin_lines(), 100, 64), io.BytesIO()
    grey_with_thin_lines().savefig(large, format="png", dpi=100)
    found = np.asarray(Image.open(io.BytesIO(small)).convert("RGB"), dtype=int)
    wanted = np.asarray(Image.open(large).convert("RGB"), dtype=int)
    assert len(np.unique(found.reshape(-1, 3), axis=0)) <= 64
    assert np.abs(found - wanted).max() < 40
    white = (wanted == 255).all(axis=2)
    assert white.sum() > 1000 and (found[white] == 255).all()
    assert len(small) < len(large.getvalue())


def test_the_same_figure_gives_the_same_bytes(tmp_path):
    for kind in ("png", "pdf", "svg"):
        first, second = (
            save(titled("the same"), tmp_path / f"{number}.{kind}").read_bytes()
            for number in (1, 2)
        )
        assert first == second, kind


def test_the_users_style_does_not_matter(tmp_path, monkeypatch):
    import matplotlib

    plain = png(titled("x"), 50)
    monkeypatch.setitem(matplotlib.rcParams, "savefig.facecolor", "red")
    assert png(titled("x"), 50) == plain
