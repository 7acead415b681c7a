"""The pictures of the notebooks: live and still show the same layers, and a live one changes in place."""

import numpy as np
import pytest

from drfer.figures.notebook import (
    Layer,
    explore,
    live_figure,
    pick,
    show,
    still_figure,
    update_figure,
)

CLOUD = np.random.default_rng(0).normal(size=(20, 3))
TRIANGLES = np.array([[0, 1, 2], [3, 4, 5]])


@pytest.fixture
def displayed(monkeypatch):
    """What a notebook would receive: a list of mime bundles."""
    bundles = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: bundles.append(data))
    return bundles


def picture(shift=0.0):
    cloud = CLOUD + shift
    return {
        f"by {shift:g}": [Layer(cloud), Layer(cloud[:6], TRIANGLES, values=np.full(6, shift))],
        "b": [Layer(cloud)],
    }


def test_a_live_picture_changes_in_place_to_what_a_new_one_would_be():
    figure, new = live_figure(picture(0.0)), live_figure(picture(5.0))
    traces = [id(trace) for trace in figure.data]
    ranges = figure.layout.scene.xaxis.range
    update_figure(figure, picture(5.0))
    assert [id(trace) for trace in figure.data] == traces
    for trace, wanted in zip(figure.data, new.data):
        assert (trace.x == wanted.x).all() and (trace.z == wanted.z).all()
    assert (figure.data[1].intensity == new.data[1].intensity).all()
    assert (figure.data[0].marker.color == new.data[0].marker.color).all()
    assert figure.layout.annotations[0].text == "by 5" and figure.layout.scene.xaxis.range == ranges


def test_a_changed_number_of_layers_is_refused():
    with pytest.raises(ValueError):
        update_figure(live_figure(picture()), {"a": [Layer(CLOUD)]})


def test_all_panels_have_one_scale():
    small = {"small": [Layer(CLOUD)], "large": [Layer(10 * CLOUD)]}
    layout = live_figure(small).layout
    lengths = [
        np.ptp(scene[f"{axis}axis"].range)
        for scene in (layout.scene, layout.scene2)
        for axis in "xyz"
    ]
    assert np.allclose(lengths, lengths[0]) and lengths[0] > np.ptp(10 * CLOUD, axis=0).max()


def test_a_still_follows_the_live_picture(displayed):
    show(picture())
    explore(picture, shift=(0.0, 1.0, 0.5), stills=[dict(shift=0), dict(shift=1)])
    assert [sorted(bundle) for bundle in displayed] == 2 * [
        ["application/vnd.jupyter.widget-view+json", "text/plain"],
        ["image/png", "text/plain"],
    ]
    displayed.clear()
    show(picture(), live=False)
    assert [sorted(bundle) for bundle in displayed] == [["image/png", "text/plain"]]


def test_a_still_draws_the_nearest_points_on_top_and_the_scale_holds():
    figure = still_figure({"a": [Layer(CLOUD)]}, scale=(-1, 1, "depth, mm"))
    dots = figure.axes[0].collections[0]
    assert (np.diff(dots.get_array()) >= 0).all() and dots.get_clim() == (-1, 1)
    assert figure.axes[1].get_ylabel() == "depth, mm"


def test_a_plane_has_its_own_axes():
    flat = {"plane": [Layer(CLOUD[:, :2], colour="#D55E00"), Layer(CLOUD[:3, :2], line=True)]}
    figure = still_figure(flat, axes=("first", "second"))
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("first", "second")
    live = live_figure(flat, axes=("first", "second"))
    assert [trace.type for trace in live.data] == [
        "scatter",
        "scatter",
    ] and live.layout.xaxis.title.text == "first"


def test_a_menu_has_figures_and_texts_and_the_first_figure_stands_still(displayed, monkeypatch):
    live = []
    monkeypatch.setattr("drfer.figures.notebook._display_widget", live.append)
    pick({"a table": "| a | b |\n|---|---|\n| 1 | 2 |", "a picture": still_figure(picture())})
    menu, page = live[0].children
    assert "<td>1</td>" in page.value and [list(bundle) for bundle in displayed] == [
        ["image/png", "text/plain"]
    ]
    menu.value = "a picture"
    assert page.value.startswith('<img src="data:image/png;base64,')
