"""Figures 2 and 3 show the modules that the model has, and nothing lies on anything else."""

from dataclasses import replace

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from drfer.evaluation.presets import PRESETS
from drfer.figures import architecture


def labels(figure):
    return [text for text in figure.findobj(Text) if text.get_text()]


@pytest.mark.parametrize("picture", [architecture.method, architecture.architecture])
@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_labels_stand_on_the_page_and_apart(picture, preset):
    figure = picture(preset)
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in labels(figure)]
    for number, (name, box) in enumerate(boxes):
        assert min(box.x0, box.y0) >= 0, name
        assert box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, name
        for other, other_box in boxes[:number]:
            assert not box.overlaps(other_box), f"{name!r} lies on {other!r}"


def named(figure):
    return {artist.get_gid() for artist in figure.findobj() if artist.get_gid()}


@pytest.mark.parametrize("gaussian", [False, True])
def test_every_module_of_the_model_is_drawn(gaussian):
    preset = PRESETS["paper"]
    preset = replace(preset, sizes=replace(preset.sizes, gaussian_feature=gaussian))
    model = architecture.untrained(preset)
    overview = named(architecture.method(preset))
    detail = named(architecture.architecture(preset))
    assert {name for name, _ in model.named_children()} <= overview
    for part in ("expression", "identity", "fusion"):
        for child, module in model.get_submodule(part).named_children():
            inner = {f"{part}.{child}"}
            if child != "gaussian":
                layers = architecture.layers_of(module)
                inner = {f"{part}.{child}.{name}" for name, _ in layers}
            assert inner <= detail


def test_every_box_is_a_module_of_the_model():
    model = architecture.untrained(PRESETS["paper"])
    for figure in (architecture.method(), architecture.architecture()):
        for name in named(figure):
            assert model.get_submodule(name) is not None


def test_a_changed_size_changes_what_is_drawn():
    preset = PRESETS["paper"]
    first, *others = preset.sizes.encoder.levels
    first = replace(first, centroids=333, radius=0.15, widths=(7, 9))
    encoder = replace(preset.sizes.encoder, levels=(first, *others))
    widths = {"decoder_widths": (1111, 2222), "classifier_widths": (55,)}
    sizes = replace(preset.sizes, encoder=encoder, **widths)
    figure = architecture.architecture(replace(preset, sizes=sizes))
    texts = "\n".join(text.get_text() for text in labels(figure))
    for said in (
        "333 centroids",
        "ball 0.15, 32 points",
        "MLP 7-9\n",
        "1024 to 1111",
        "1111 + 512 to 2222",
        "2222 + 18 to 6144",
        "1024 to 55",
        "55 to 6",
    ):
        assert said in texts, said
    figure = architecture.architecture(replace(preset, sizes=replace(sizes, skips=False)))
    assert " + " not in "\n".join(text.get_text() for text in labels(figure))


def test_stage_labels_come_from_the_stages():
    assert architecture.stages_of("expression.classifier") == "i · ii · iii"
    assert architecture.stages_of("expression.encoder") == "i · ii · iii"
    assert architecture.stages_of("identity.classifier") == "i"
    assert architecture.stages_of("identity.decoder") == "ii · iii"
    assert architecture.stages_of("fusion") == "i · iii"
