"""Figures 2 and 3, drawn from the model's own modules, so that they cannot disagree with the code.

Every box has the name of its module (as in `model.get_submodule`) as its gid. Lengths are in inches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from torch import nn

from drfer.evaluation.presets import PRESETS, Preset
from drfer.evaluation.rows import METHOD, ROWS
from drfer.figures import style
from drfer.figures.style import NORMAL, look
from drfer.models.branch import Classifier, FaceDecoder
from drfer.models.drfer import DrFER
from drfer.models.pointnet2 import Encoder, SetAbstraction, SharedMLP
from drfer.training.stages import STAGES, Stage

FILLS = style.FILLS | {"face": "#FFFFFF", "loss": "#EFEFEF"}
EDGES = style.EDGES | {"face": "#555555", "loss": "#EFEFEF"}
"""Colours of boxes: the model's parts, faces and features, and losses."""

Box = tuple[float, float, float, float]
"""Centre x, centre y, width and height."""


def untrained(preset: Preset) -> DrFER:
    """Return a preset's model for the training subjects of one fold, without weights."""
    subjects, folds = preset.protocol.subjects, preset.protocol.folds
    with torch.device("meta"):  # weights would take a second to draw, and nobody looks at them
        return DrFER(preset.sizes, subjects - subjects // folds)


def stages_of(name: str) -> str:
    """Return the paper's stages that train a module, such as "i · iii".

    Args:
        name: of the module, as in `model.get_submodule`.
    """
    found = {
        stage.name.split("-")[0]
        for stage in _stages_before(STAGES[ROWS[METHOD].stage])
        if any(f"{name}.".startswith(f"{part}.") for part in stage.trains)
    }
    return " · ".join(sorted(found, key=len))


def _stages_before(stage: Stage) -> list[Stage]:
    """A stage, and all that it starts from."""
    return [stage, *(each for name in stage.parents for each in _stages_before(STAGES[name]))]


def layers_of(module: nn.Module) -> list[tuple[str, str]]:
    """Return the layers of an encoder, decoder or classifier: their names in it, and their labels."""
    labelled: dict[type, Callable] = {
        Encoder: _layers_of_encoder,
        FaceDecoder: _layers_of_decoder,
        Classifier: _layers_of_classifier,
    }
    return next(layers(module) for kind, layers in labelled.items() if isinstance(module, kind))


def _layers_of_encoder(encoder: Encoder) -> list[tuple[str, str]]:
    levels = [
        (f"levels.{number}", _label_of_level(number + 1, level))
        for number, level in enumerate(encoder.levels)
    ]
    last = f"set abstraction {len(levels) + 1}\nall points\n{_widths(encoder.whole)}"
    return [*levels, ("whole", last)]


def _label_of_level(number: int, level: SetAbstraction) -> str:
    sizes = level.sizes
    lines = (
        f"set abstraction {number}",
        f"{sizes.centroids} centroids",
        f"ball {sizes.radius:g}, {sizes.neighbours} points",
        _widths(level.shared),
    )
    return "\n".join(lines)


def _widths(shared: SharedMLP) -> str:
    return f"MLP {'-'.join(str(layer.out_features) for layer in shared.linears)}"


def _layers_of_decoder(decoder: FaceDecoder) -> list[tuple[str, str]]:
    layers = list(decoder.layers)
    before = [layers[0].in_features, *(layer.out_features for layer in layers)]
    labelled = []
    for number, (layer, width) in enumerate(zip(layers, before)):
        skip = layer.in_features - width
        joined = f"{width} + {skip}" if skip else f"{width}"
        label = f"fully connected\n{joined} to {layer.out_features}"
        labelled.append((f"layers.{number}", label))
    return labelled


def _layers_of_classifier(classifier: Classifier) -> list[tuple[str, str]]:
    """Linear layers; what follows each of them stands in the same box."""
    labelled: list[tuple[str, str]] = []
    for number, layer in enumerate(classifier):
        if isinstance(layer, nn.Linear):
            label = f"fully connected\n{layer.in_features} to {layer.out_features}"
            labelled.append((f"{number}", label))
            continue
        if isinstance(layer, nn.BatchNorm1d):
            said = "\nbatch norm, "
        elif isinstance(layer, nn.Dropout):
            said = f"\ndropout {layer.p:g}"
        else:
            said = type(layer).__name__
        name, label = labelled[-1]
        labelled[-1] = (name, label + said)
    return labelled


@dataclass(frozen=True)
class _Side:
    """One branch's half of figure 2."""

    name: str
    short: str
    other: str
    other_short: str
    decoded: str
    """What its decoded face is called."""
    target: str
    """What its decoded face is compared with."""
    equations: tuple[int, int]
    """Of its classification loss and its reconstruction loss."""
    triplet: str
    """Its triplet loss, if it has one."""
    up: int
    """1 of the upper half, -1 of the lower one."""


_SIDES = (
    _Side(
        "expression",
        "exp",
        "identity",
        "id",
        "de-identified",
        r"$F^{mean\_C_i}$",
        (1, 4),
        ",  $L_{tri}$ on $R^{exp}$ (6)",
        1,
    ),
    _Side(
        "identity",
        "id",
        "expression",
        "exp",
        "de-expressed",
        r"$F^{P_i\_neu}$",
        (2, 5),
        "",
        -1,
    ),
)
_MIDDLE = 3.8
"""Height of figure 2's middle line."""


@look()
def method(preset: Preset = PRESETS["paper"]) -> Figure:
    """Return figure 2: how a face flows through the branches, their cross-over and the fusion module.

    Beside each output stands the loss that it has, of equations (1) to (9).

    Args:
        preset: gives the sizes.
    """
    model = untrained(preset)
    figure, axis = _canvas(7.3, 7.35)
    _box(axis, (0.46, _MIDDLE, 0.8, 0.8), "face\n$F_i$", "face")
    for side in _SIDES:
        classes = getattr(model, side.name).classifier[-1].out_features
        _draw_branch(axis, side, classes)
        _draw_cross_over(axis, side)
    _module(axis, "fusion", (5.2, _MIDDLE, 1.0, 1.0), "fusion $\\Upsilon$", "fusion")
    _arrow(axis, (5.7, _MIDDLE), (6.0, _MIDDLE))
    _box(axis, (6.6, _MIDDLE, 1.2, 0.8), r"$\hat{F}_i$" + "\nfused", "face", size=NORMAL)
    _loss(axis, 6.6, _MIDDLE - 0.72, "$L_{rec}^{ori}$ (3) to $F_i$")
    note = "i · ii · iii: stages that train a module. Grey: losses and their equations."
    axis.text(3.65, 0.14, note, ha="center", va="center", size=NORMAL)
    return figure


def _draw_branch(axis: Axes, side: _Side, classes: int) -> None:
    """Encoder, feature, decoder and classifier of one branch, and its losses."""
    name, up = side.name, side.up
    y = _MIDDLE + 1.75 * up
    _box(axis, (2.15, y + 0.2 * up, 2.5, 2.3), "", name, gid=name, alpha=0.25)
    title = {"ha": "center", "va": "center", "color": EDGES[name]}
    axis.text(2.15, y - 0.7 * up, rf"{name} branch $\Phi_{{{side.short}}}$", **title)
    _arrow(axis, (0.46, _MIDDLE + 0.4 * up), (0.46, y), (0.98, y))
    _module(axis, f"{name}.encoder", (1.45, y, 0.9, 0.9), "encoder", name, taper=0.15)
    _box(axis, (2.15, y, 0.34, 0.9), f"$R^{{{side.short}}}$", "face")
    _module(axis, f"{name}.decoder", (2.85, y, 0.9, 0.9), "decoder", name, taper=-0.15)
    classifier = f"classifier, {classes} classes"
    _module(axis, f"{name}.classifier", (2.15, y + 0.98 * up, 2.1, 0.5), classifier, name)
    decoded = rf"$\hat{{F}}_i^{{{side.short}}}$" + f"\n{side.decoded}"
    _box(axis, (3.98, y, 1.02, 0.8), decoded, "face", size=NORMAL)
    for left, right in ((1.9, 1.98), (2.32, 2.4), (3.3, 3.47)):
        _arrow(axis, (left, y), (right, y))
    _arrow(axis, (2.15, y + 0.45 * up), (2.15, y + 0.73 * up))
    classification, reconstruction = side.equations
    said = rf"$L_{{cls}}^{{{side.short}}}$ ({classification})" + side.triplet
    _loss(axis, 2.15, y + 1.57 * up, said)
    said = rf"$L_{{rec}}^{{{side.short}}}$ ({reconstruction})" + f"\nto {side.target}"
    _loss(axis, 3.98, y + 0.9 * up, said)


def _draw_cross_over(axis: Axes, side: _Side) -> None:
    """A branch's decoded face, on its way through the other branch and to the fusion module."""
    y = _MIDDLE + 1.75 * side.up
    other = rf"$\Phi_{{{side.other_short}}}$" + "\nshared\niii"
    _box(axis, (5.2, y, 0.94, 0.9), other, side.other, size=NORMAL, dashed=True)
    neither = rf"$\hat{{F}}_i^{{{side.short}\_{side.other_short}}}$" + "\nof neither"
    _box(axis, (6.6, y, 1.2, 0.8), neither, "face", size=NORMAL)
    for left, right in ((4.49, 4.73), (5.67, 6.0)):
        _arrow(axis, (left, y), (right, y))
    into_fusion = _MIDDLE + 0.2 * side.up
    _arrow(axis, (3.98, y - 0.4 * side.up), (3.98, into_fusion), (4.7, into_fusion))
    _loss(axis, 6.6, y + 0.9 * side.up, "$L_{rec}^{dis}$ (9)\nto $F^{mean\\_neu}$")


@look()
def architecture(preset: Preset = PRESETS["paper"]) -> Figure:
    """Return figure 3: the layers of a branch and of the fusion module, with their sizes.

    Args:
        preset: gives the sizes.
    """
    model = untrained(preset)
    figure, axis = _canvas(7.3, 8.5)
    _draw_branch_layers(axis, model, preset)
    _draw_fusion_layers(axis, model, preset)
    return figure


def _draw_branch_layers(axis: Axes, model: DrFER, preset: Preset) -> None:
    """Parts (a) encoder and decoder, and (c) classifier, of figure 3."""
    branch, points = model.expression, preset.sizes.points
    title = "(a) encoder and decoder, (c) classifier of a branch (identity behind); preset "
    axis.text(0.1, 8.3, title + preset.name, weight="bold", va="center")
    people = model.identity.classifier[-1].out_features
    classes = branch.classifier[-1].out_features
    decoded = branch.decoder.layers[-1].out_features // 3
    for part, y, end in (
        ("encoder", 7.55, f"face\n{points} × 3"),
        ("decoder", 6.3, f"face\n{decoded} × 3"),
        ("classifier", 5.05, f"{classes} expressions\nor {people}\nsubjects"),
    ):
        forward = part == "encoder"
        path, behind = f"expression.{part}", f"identity.{part}"
        _chain(axis, path, getattr(branch, part), y, "expression", forward, behind)
        _box(axis, (0.58, y, 0.96, 0.88), end, "face", size=NORMAL)
        _arrow(axis, (6.35, y), (6.7, y), backward=not forward)
    drawn = ", drawn from its Gaussian head" if branch.gaussian else ""
    gid = "expression.gaussian" if branch.gaussian else None
    label = f"feature $R$, {branch.decoder.layers[0].in_features} wide{drawn}"
    _box(axis, (6.93, 6.3, 0.44, 3.38), label, "face", gid, rotation=90)


def _draw_fusion_layers(axis: Axes, model: DrFER, preset: Preset) -> None:
    """Part (b) of figure 3, the fusion module."""
    fusion = model.fusion
    axis.text(0.1, 4.1, "(b) fusion module (dashed: skip connections)", weight="bold", va="center")
    layers = _chain(axis, "fusion.layers", fusion.layers, 1.9, "fusion", forward=False)
    _box(axis, (0.58, 1.9, 0.96, 0.88), f"fused face\n{preset.sizes.points} × 3", "face")
    for name, up in (("expression", 1), ("identity", -1)):
        y = 1.9 + 1.4 * up
        encoder = fusion.get_submodule(f"{name}_encoder")
        levels = _chain(axis, f"fusion.{name}_encoder", encoder, y, "fusion", forward=True)
        _box(axis, (0.58, y, 0.96, 0.88), f"{name}\nface", name)
        for number, (start, end) in enumerate(zip(reversed(levels), layers)):
            if number == 0 or fusion.skips:
                corners = (start, y - 0.44 * up), (end, 1.9 + 0.44 * up)
                _arrow(axis, *corners, dashed=number > 0)


def _chain(
    axis: Axes,
    path: str,
    module: nn.Module,
    y: float,
    kind: str,
    forward: bool,
    behind: str | None = None,
) -> list[float]:
    """Draw a module's layers in a row, from left to right or back; return the x of each."""
    layers = layers_of(module)
    step = 5.25 / len(layers)
    centres = [1.18 + step * (number + 0.5) for number in range(len(layers))]
    centres = centres if forward else centres[::-1]
    for x, (name, text) in zip(centres, layers):
        if behind:
            shadow = (x + 0.05, y - 0.05, step - 0.3, 0.88)
            _box(axis, shadow, "", "identity", gid=f"{behind}.{name}")
        _box(axis, (x, y, step - 0.3, 0.88), text, kind, gid=f"{path}.{name}", size=NORMAL)
        left = x - step / 2
        _arrow(axis, (max(left - 0.15, 1.06), y), (left + 0.15, y), backward=not forward)
    return centres


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure with one panel, whose unit is an inch."""
    figure = Figure(figsize=(width, height))
    axis = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    axis.axis("off")
    return figure, axis


def _module(axis: Axes, name: str, box: Box, text: str, kind: str, taper: float = 0.0) -> None:
    separator = ": " if box[3] < 0.6 else "\n"
    _box(axis, box, f"{text}{separator}{stages_of(name)}", kind, name, size=NORMAL, taper=taper)


def _box(
    axis: Axes,
    box: Box,
    text: str,
    kind: str,
    gid: str | None = None,
    size: float = 10,
    taper: float = 0.0,
    rotation: float = 0,
    dashed: bool = False,
    alpha: float = 1.0,
) -> None:
    """A labelled box; a taper makes it narrower to the right, or to the left if it is negative."""
    x, y, width, height = box
    left = height / 2 + min(taper, 0)
    right = height / 2 - max(taper, 0)
    corners = [(-width / 2, -left), (-width / 2, left), (width / 2, right), (width / 2, -right)]
    patch = Polygon(
        [(x + dx, y + dy) for dx, dy in corners],
        facecolor=FILLS[kind],
        edgecolor=EDGES[kind],
        linewidth=1.1,
        linestyle="--" if dashed else "-",
        joinstyle="round",
        gid=gid,
        alpha=alpha,
        zorder=1 if alpha < 1 else 2,
    )
    axis.add_patch(patch)
    centred = {"ha": "center", "va": "center", "rotation": rotation}
    axis.text(x, y, text, size=size, linespacing=1.25, zorder=3, **centred)


def _loss(axis: Axes, x: float, y: float, text: str) -> None:
    frame = {"boxstyle": "round,pad=0.25", "facecolor": FILLS["loss"], "edgecolor": "none"}
    axis.text(x, y, text, ha="center", va="center", size=NORMAL, bbox=frame)


def _arrow(
    axis: Axes, *corners: tuple[float, float], dashed: bool = False, backward: bool = False
) -> None:
    """A line through corners with a head at its end."""
    corners = corners[::-1] if backward else corners
    style = {"color": "#333333", "linewidth": 1.1, "linestyle": (0, (4, 2)) if dashed else "-"}
    axis.plot(*zip(*corners[:-1]), **style)
    head = {**style, "arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", corners[-1], corners[-2], arrowprops=head)
