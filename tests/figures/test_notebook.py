"""The pictures of the notebooks: live and still show the same layers, and a live one changes in place."""

import io
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.collections import PathCollection, TriMesh
from PIL import Image

from drfer.figures.faces import MOUTH
from drfer.figures.notebook import (
    Layer,
    close_up,
    explore,
    live_figure,
    pick,
    show,
    still_figure,
    update_figure,
)
from drfer.figures.shading import triangulated

CLOUD = np.random.default_rng(0).normal(size=(20, 3))
DOTS = {"dots": True}


@pytest.fixture
def displayed(monkeypatch):
    """What a notebook would receive: a list of mime bundles."""
    bundles = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: bundles.append(data))
    return bundles


@pytest.fixture(scope="module")
def picture(face):
    triangles = triangulated(face())

    def make(shift=0.0):
        moved = face() + shift
        values = np.full(len(moved), shift)
        return {
            f"by {shift:g}": [
                Layer(moved + CLOUD[0], dots=True),
                Layer(moved, triangles, values=values),
            ],
            "b": [Layer(moved)],
        }

    return make


def kinds(layer):
    """What a layer is drawn as: matplotlib's class and plotly's type."""
    figure, live = still_figure({"a": [layer]}), live_figure({"a": [layer]})
    return type(figure.axes[0].collections[0]), live.data[0].type


def test_a_face_is_a_surface_and_sampled_points_are_dots(face):
    cloud = face()
    values = cloud[:, 2]
    for layer in (
        Layer(cloud),
        Layer(cloud, size=5),
        Layer(cloud, values=values),
        Layer(cloud, colour="#D55E00", dots=False),
        Layer(cloud, triangulated(cloud), colour="#D55E00"),
    ):
        assert kinds(layer) == (TriMesh, "mesh3d")
    for layer in (
        Layer(cloud, colour="#D55E00"),
        Layer(cloud, dots=True),
        Layer(cloud, values=values, dots=True),
    ):
        assert kinds(layer) == (PathCollection, "scatter3d")
    assert kinds(Layer(cloud[:, :2]))[1] == "scatter"


def test_what_is_not_there_leaves_a_hole(face):
    cloud = face()
    layer = Layer(np.where((cloud[:, :1] > 30), np.nan, cloud), values=np.arange(600.0))
    assert (
        np.isfinite(layer.surface.points).all()
        and (layer.shades == layer.values[cloud[:, 0] <= 30]).all()
    )
    assert still_figure({"a": [layer]}) and live_figure({"a": [layer]})


def test_a_live_picture_changes_in_place_to_what_a_new_one_would_be(picture):
    figure, new = live_figure(picture(0.0)), live_figure(picture(5.0))
    traces = [id(trace) for trace in figure.data]
    ranges = figure.layout.scene.xaxis.range
    update_figure(figure, picture(5.0))
    assert [id(trace) for trace in figure.data] == traces
    for trace, wanted in zip(figure.data, new.data):
        assert (trace.x == wanted.x).all() and (trace.z == wanted.z).all()
    assert (figure.data[1].intensity == new.data[1].intensity).all()
    assert (figure.data[0].marker.color == new.data[0].marker.color).all()
    assert (figure.data[2].i == new.data[2].i).all()
    assert figure.layout.annotations[0].text == "by 5" and figure.layout.scene.xaxis.range == ranges


def test_a_changed_number_of_layers_is_refused(picture):
    with pytest.raises(ValueError):
        update_figure(live_figure(picture()), {"a": [Layer(CLOUD)]})


def test_all_panels_have_one_scale_live_and_still(face):
    small = {"small": [Layer(face())], "large": [Layer(3 * face())]}
    layout = live_figure(small).layout
    lengths = [
        np.ptp(scene[f"{axis}axis"].range)
        for scene in (layout.scene, layout.scene2)
        for axis in "xyz"
    ]
    assert np.allclose(lengths, lengths[0]) and lengths[0] > np.ptp(3 * face(), axis=0).max()
    axes = still_figure(small).axes[:2]
    for limits in ("get_xlim", "get_ylim"):
        first, second = (np.ptp(getattr(axis, limits)()) for axis in axes)
        assert np.isclose(first, second)


def test_faces_in_one_frame_are_seen_through_one_window(face):
    """So that a jaw that drops is seen to drop, and a scan elsewhere is in the middle of its panel."""
    dropped = face() - [0, 20, 0] * (face()[:, 1:2] < -40)
    far = face() + [400, 0, 0]
    first, second = still_figure({"a": [Layer(face())], "b": [Layer(dropped)]}).axes[:2]
    assert first.get_ylim() == second.get_ylim() and first.get_xlim() == second.get_xlim()
    first, second = still_figure({"a": [Layer(face())], "b": [Layer(far)]}).axes[:2]
    assert np.isclose(np.mean(second.get_xlim()) - np.mean(first.get_xlim()), 400)


def test_a_close_up_shows_the_mouth_in_its_own_scale(face):
    near = close_up({"a": [Layer(face(True))]})
    axis = still_figure(near).axes[0]
    left, right, low, high = MOUTH
    assert axis.get_xlim()[0] <= left and right <= axis.get_xlim()[1] < right + 10
    assert axis.get_ylim()[0] <= low and high <= axis.get_ylim()[1] < high + 10
    scene = live_figure(near).layout.scene
    assert np.ptp(scene.xaxis.range) < 1.1 * (right - left)
    assert scene.yaxis.range[0] <= low and high <= scene.yaxis.range[1]


def test_a_still_follows_the_live_picture(displayed, picture):
    show(picture())
    explore(picture, shift=(0.0, 1.0, 0.5), stills=[dict(shift=0), dict(shift=1)])
    assert [sorted(bundle) for bundle in displayed] == 2 * [
        ["application/vnd.jupyter.widget-view+json", "text/plain"],
        ["image/png", "text/plain"],
    ]
    displayed.clear()
    show(picture(), live=False)
    [bundle] = displayed
    assert sorted(bundle) == ["image/png", "text/plain"]
    size = Image.open(io.BytesIO(bundle["image/png"])).size
    assert min(size) >= 400 and len(bundle["image/png"]) < 200_000


def test_a_still_draws_the_nearest_points_on_top_and_the_scale_holds():
    figure = still_figure({"a": [Layer(CLOUD, **DOTS)]}, scale=(-1, 1, "depth, mm"))
    dots = figure.axes[0].collections[0]
    assert (np.diff(dots.get_array()) >= 0).all() and dots.get_clim() == (-1, 1)
    assert figure.axes[1].get_ylabel() == "depth, mm"


def test_values_of_a_face_have_one_legend_and_the_same_colours_live_and_still(face):
    layer = Layer(face(), values=np.linspace(-4, 4, 600))
    figure = still_figure({"a": [layer], "b": [layer]}, scale=(-5, 5, "moved, mm"))
    assert [axis.get_ylabel() for axis in figure.axes].count("moved, mm") == 1
    live = live_figure({"a": [layer]}, scale=(-5, 5, "moved, mm")).layout.coloraxis
    assert (live.cmin, live.cmax, live.colorbar.title.text) == (-5, 5, "moved, mm")
    red, _, blue = (int(part) for part in live.colorscale[0][1][4:-1].split(","))
    first = figure.axes[0].collections[0].get_facecolor()[0]
    assert blue > red and first[2] > first[0], "what lies inside is blue"


def test_a_plane_has_its_own_axes():
    flat = {"plane": [Layer(CLOUD[:, :2], colour="#D55E00"), Layer(CLOUD[:3, :2], line=True)]}
    figure = still_figure(flat, axes=("first", "second"))
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("first", "second")
    live = live_figure(flat, axes=("first", "second"))
    assert [trace.type for trace in live.data] == ["scatter", "scatter"]
    assert live.layout.xaxis.title.text == "first"


def test_layers_with_a_name_are_in_the_legend_once_live_and_still():
    def picture(shift=0.0):
        places = CLOUD[:, :2] + shift
        red = Layer(places[:9], colour="#D55E00", name="anger", group="expressions")
        blue = Layer(places[9:], colour="#0072B2", name="F0001", group="people")
        return {"a": [red, Layer(places, line=True)], "b": [red, blue], "c": [replace(red, size=9)]}

    still = still_figure(picture())
    [legend] = still.legends
    said = [text.get_text() for text in legend.get_texts()]
    assert said == ["expressions", "anger", "people", "F0001"]
    assert [legend.legend_handles[n].get_color() for n in (1, 3)] == ["#D55E00", "#0072B2"]
    live = live_figure(picture())
    update_figure(live, picture(1.0))
    assert live.layout.showlegend
    shown = [trace for trace in live.data if trace.showlegend]
    assert [(t.name, t.legendgrouptitle.text, t.marker.color) for t in shown] == [
        ("anger", "expressions", "#D55E00"),
        ("F0001", "people", "#0072B2"),
    ]
    without = {"a": [Layer(CLOUD[:, :2])]}
    assert not still_figure(without).legends and not live_figure(without).layout.showlegend


def test_titles_are_drawn_as_they_stand():
    figure = still_figure({"$x$ and $y$": [Layer(CLOUD, **DOTS)]})
    assert figure.axes[0].get_title() == r"\$x\$ and \$y\$"


def test_a_menu_has_figures_and_texts_and_the_first_figure_stands_still(
    displayed, monkeypatch, picture
):
    live = []
    monkeypatch.setattr("drfer.figures.notebook._display_widget", live.append)
    pick({"a table": "| a | b |\n|---|---|\n| 1 | 2 |", "a picture": still_figure(picture())})
    menu, page = live[0].children
    assert "<td>1</td>" in page.value
    assert [list(bundle) for bundle in displayed] == [["image/png", "text/plain"]]
    menu.value = "a picture"
    assert page.value.startswith("<img ") and "data:image/png;base64," in page.value
