"""Figures 2 and 3 of the paper, drawn from the model's own modules, so that they cannot disagree with the code.

Every box has the name of its module (as in `model.get_submodule`) as its gid. Places are in inches.
"""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from torch import nn

from drfer.evaluation.experiment import PRESETS, Preset
from drfer.models.branch import Classifier, FaceLayers
from drfer.models.drfer import DrFER
from drfer.models.pointnet2 import Encoder, SharedMLP
from drfer.training.stages import STAGES

FILLS = {
    "expression": "#F8D08A",
    "identity": "#A9D3F0",
    "fusion": "#A5DBC8",
    "face": "#FFFFFF",
    "loss": "#EFEFEF",
}
EDGES = {
    "expression": "#A66A00",
    "identity": "#0072B2",
    "fusion": "#00694C",
    "face": "#555555",
    "loss": "#EFEFEF",
}
"""Okabe and Ito's orange, blue and green: expression branch, identity branch and fusion module"""


def untrained(preset: Preset) -> DrFER:
    """The preset's model with a fold's number of training subjects; without weights, so made at once."""
    subjects, folds = preset.protocol.subjects, preset.protocol.folds
    with torch.device("meta"):
        return DrFER(preset.sizes, subjects - subjects // folds)


def stages_of(name: str) -> str:
    """The paper's stages that train a module, "i · iii": read from the stages themselves."""
    found = {
        stage.name.split("-")[0]
        for stage in (STAGES[name] for name in PRESETS["paper"].trainings)
        if any(f"{name}.".startswith(f"{part}.") for part in stage.trained)
    }
    return " · ".join(sorted(found, key=len))


def layers_of(module: nn.Module) -> list[tuple[str, str]]:
    """(name inside the module, what it is) of the layers of an encoder, a face's layers or a classifier, in order."""
    if isinstance(module, Encoder):
        levels = [
            (
                f"levels.{number}",
                f"set abstraction {number + 1}\n{level.sizes.centres} centroids\n"
                f"ball {level.sizes.radius:g}, {level.sizes.neighbours} points\n{_widths(level.place, level.shared)}",
            )
            for number, level in enumerate(module.levels)
        ]
        return [
            *levels,
            ("whole", f"set abstraction {len(levels) + 1}\nall points\n{_widths(module.whole)}"),
        ]
    if isinstance(module, FaceLayers):
        before = [module.layers[0].in_features, *(layer.out_features for layer in module.layers)]
        return [
            (
                f"layers.{number}",
                f"fully connected\n{known}{_more(layer.in_features - known)} to {layer.out_features}",
            )
            for number, (layer, known) in enumerate(zip(module.layers, before))
        ]
    assert isinstance(module, Classifier)
    layers: list[tuple[str, str]] = []
    for number, layer in enumerate(module):
        if isinstance(layer, nn.Linear):
            layers.append(
                (f"{number}", f"fully connected\n{layer.in_features} to {layer.out_features}")
            )
        else:
            said = {
                "BatchNorm1d": "\nbatch norm, ",
                "Dropout": f"\ndropout {getattr(layer, 'p', 0):g}",
            }
            layers[-1] = (
                layers[-1][0],
                layers[-1][1] + said.get(type(layer).__name__, type(layer).__name__),
            )
    return layers


def _more(skip: int) -> str:
    return f" + {skip}" if skip else ""


def _widths(*modules: nn.Linear | SharedMLP) -> str:
    linears = [layer for m in modules for layer in (m.linears if isinstance(m, SharedMLP) else [m])]
    return f"MLP {'-'.join(str(layer.out_features) for layer in linears)}"


def method(preset: Preset = PRESETS["paper"]) -> Figure:
    """Figure 2: how a face flows through the branches, their cross-over and the fusion module, and which loss each
    output has, after `DrFER.disentangle` and equations (1) to (9)."""
    model, middle = untrained(preset), 3.8
    figure, axis = _canvas(7.3, 7.35)
    _box(axis, (0.46, middle, 0.8, 0.8), "face\n$F_i$", "face")
    for name, short, other, other_short, y, up in (
        ("expression", "exp", "identity", "id", middle + 1.75, 1),
        ("identity", "id", "expression", "exp", middle - 1.75, -1),
    ):
        label, made, target, numbers = {
            "exp": (r"$\Phi_{exp}$", "de-identified", r"$F^{mean\_C_i}$", (1, 4)),
            "id": (r"$\Phi_{id}$", "de-expressed", r"$F^{P_i\_neu}$", (2, 5)),
        }[short]
        _box(axis, (2.15, y + 0.2 * up, 2.5, 2.3), "", name, gid=name, alpha=0.25)
        axis.text(
            2.15,
            y - 0.7 * up,
            f"{name} branch {label}",
            ha="center",
            va="center",
            color=EDGES[name],
        )
        _arrow(axis, (0.46, middle + 0.4 * up), (0.46, y), (0.98, y))
        _module(axis, f"{name}.encoder", (1.45, y, 0.9, 0.9), "encoder", name, taper=0.15)
        _box(axis, (2.15, y, 0.34, 0.9), f"$R^{{{short}}}$", "face")
        _module(axis, f"{name}.decoder", (2.85, y, 0.9, 0.9), "decoder", name, taper=-0.15)
        classes = getattr(model, name).classifier[-1].out_features
        _module(
            axis,
            f"{name}.classifier",
            (2.15, y + 0.98 * up, 2.1, 0.5),
            f"classifier, {classes} classes",
            name,
        )
        _box(
            axis, (3.98, y, 1.02, 0.8), rf"$\hat{{F}}_i^{{{short}}}$" + f"\n{made}", "face", size=9
        )
        _box(
            axis,
            (5.2, y, 0.94, 0.9),
            rf"$\Phi_{{{other_short}}}$" + "\nshared\niii",
            other,
            size=9,
            dashed=True,
        )
        _box(
            axis,
            (6.6, y, 1.2, 0.8),
            rf"$\hat{{F}}_i^{{{short}\_{other_short}}}$" + "\nof neither",
            "face",
            size=9,
        )
        for left, right in ((1.9, 1.98), (2.32, 2.4), (3.3, 3.47), (4.49, 4.73), (5.67, 6.0)):
            _arrow(axis, (left, y), (right, y))
        _arrow(axis, (2.15, y + 0.45 * up), (2.15, y + 0.73 * up))
        _arrow(axis, (3.98, y - 0.4 * up), (3.98, middle + 0.2 * up), (4.7, middle + 0.2 * up))
        triplet = ",  $L_{tri}$ on $R^{exp}$ (6)" if short == "exp" else ""
        _loss(axis, 2.15, y + 1.57 * up, rf"$L_{{cls}}^{{{short}}}$ ({numbers[0]})" + triplet)
        _loss(
            axis, 3.98, y + 0.9 * up, rf"$L_{{rec}}^{{{short}}}$ ({numbers[1]})" + f"\nto {target}"
        )
        _loss(axis, 6.6, y + 0.9 * up, "$L_{rec}^{dis}$ (9)\nto $F^{mean\\_neu}$")
    _module(axis, "fusion", (5.2, middle, 1.0, 1.0), "fusion $\\Upsilon$", "fusion")
    _arrow(axis, (5.7, middle), (6.0, middle))
    _box(axis, (6.6, middle, 1.2, 0.8), r"$\hat{F}_i$" + "\nfused", "face", size=9)
    _loss(axis, 6.6, middle - 0.72, "$L_{rec}^{ori}$ (3) to $F_i$")
    note = "i · ii · iii: stages that train a module. Grey: losses and their equations."
    axis.text(3.65, 0.14, note, ha="center", va="center", size=9)
    return figure


def architecture(preset: Preset = PRESETS["paper"]) -> Figure:
    """Figure 3: (a) a branch's encoder and decoder, (c) its classifier and (b) the fusion module, with their sizes."""
    model = untrained(preset)
    branch, fusion, points = model.expression, model.fusion, preset.sizes.points
    figure, axis = _canvas(7.3, 8.5)
    title = f"(a) encoder and decoder, (c) classifier of a branch (identity behind); preset {preset.name}"
    axis.text(0.1, 8.3, title, weight="bold", va="center")
    people = model.identity.classifier[-1].out_features
    for part, y, end in (
        ("encoder", 7.55, f"face\n{points} × 3"),
        ("decoder", 6.3, f"face\n{branch.decoder.layers[-1].out_features // 3} × 3"),
        (
            "classifier",
            5.05,
            f"{branch.classifier[-1].out_features} expressions\nor {people}\nsubjects",
        ),
    ):
        forward = part == "encoder"
        _chain(
            axis,
            f"expression.{part}",
            getattr(branch, part),
            y,
            "expression",
            forward,
            behind=f"identity.{part}",
        )
        _box(axis, (0.58, y, 0.96, 0.88), end, "face", size=9)
        _arrow(axis, (6.35, y), (6.7, y), backward=not forward)
    drawn = ", drawn from its Gaussian head" if branch.gaussian else ""
    gid = "expression.gaussian" if branch.gaussian else None
    _box(
        axis,
        (6.93, 6.3, 0.44, 3.38),
        f"feature $R$, {branch.decoder.layers[0].in_features} wide{drawn}",
        "face",
        gid,
        rotation=90,
    )

    axis.text(0.1, 4.1, "(b) fusion module (dashed: skip connections)", weight="bold", va="center")
    layers = _chain(axis, "fusion.layers", fusion.layers, 1.9, "fusion", forward=False)
    _box(axis, (0.58, 1.9, 0.96, 0.88), f"fused face\n{points} × 3", "face")
    for name, up in (("expression", 1), ("identity", -1)):
        y = 1.9 + 1.4 * up
        path = f"fusion.{name}_encoder"
        levels = _chain(
            axis, path, fusion.get_submodule(f"{name}_encoder"), y, "fusion", forward=True
        )
        _box(axis, (0.58, y, 0.96, 0.88), f"{name}\nface", name)
        for number, (start, end) in enumerate(zip(reversed(levels), layers)):
            if number == 0 or fusion.skips:
                _arrow(axis, (start, y - 0.44 * up), (end, 1.9 + 0.44 * up), dashed=number > 0)
    return figure


def _chain(
    axis,
    path: str,
    module: nn.Module,
    y: float,
    kind: str,
    forward: bool,
    behind: str | None = None,
) -> list[float]:
    """A module's layers in a row between x = 1.2 and 6.4, from left to right or back; returns their places."""
    layers = layers_of(module)
    step = 5.25 / len(layers)
    places = [1.18 + step * (number + 0.5) for number in range(len(layers))]
    places = places if forward else places[::-1]
    for x, (name, text) in zip(places, layers):
        if behind:
            _box(
                axis, (x + 0.05, y - 0.05, step - 0.3, 0.88), "", "identity", gid=f"{behind}.{name}"
            )
        _box(axis, (x, y, step - 0.3, 0.88), text, kind, gid=f"{path}.{name}", size=9)
        left = x - step / 2
        _arrow(axis, (max(left - 0.15, 1.06), y), (left + 0.15, y), backward=not forward)
    return places


def _canvas(width: float, height: float) -> tuple[Figure, object]:
    figure = Figure(figsize=(width, height))
    axis = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    axis.axis("off")
    return figure, axis


def _module(axis, name: str, place: tuple, text: str, kind: str, taper: float = 0.0) -> None:
    separator = ": " if place[3] < 0.6 else "\n"
    _box(axis, place, f"{text}{separator}{stages_of(name)}", kind, name, size=9, taper=taper)


def _box(
    axis,
    place: tuple[float, float, float, float],
    text: str,
    kind: str,
    gid: str | None = None,
    size: float = 10,
    taper: float = 0.0,
    rotation: float = 0,
    dashed: bool = False,
    alpha: float = 1.0,
) -> None:
    """A labelled box; place: centre x, y, width, height. A taper makes it narrower to the right (or left, if < 0)."""
    x, y, width, height = place
    left, right = (height / 2 + min(taper, 0), height / 2 - max(taper, 0))
    corners = [(-width / 2, -left), (-width / 2, left), (width / 2, right), (width / 2, -right)]
    axis.add_patch(
        Polygon(
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
    )
    axis.text(
        x,
        y,
        text,
        ha="center",
        va="center",
        size=size,
        rotation=rotation,
        linespacing=1.25,
        zorder=3,
    )


def _loss(axis, x: float, y: float, text: str) -> None:
    style = {"boxstyle": "round,pad=0.25", "facecolor": FILLS["loss"], "edgecolor": "none"}
    axis.text(x, y, text, ha="center", va="center", size=9, bbox=style)


def _arrow(
    axis, *corners: tuple[float, float], dashed: bool = False, backward: bool = False
) -> None:
    """A line through corners with a head at its end."""
    corners = corners[::-1] if backward else corners
    style = {"color": "#333333", "linewidth": 1.1, "linestyle": (0, (4, 2)) if dashed else "-"}
    axis.plot(*zip(*corners[:-1]), **style)
    axis.annotate(
        "",
        corners[-1],
        corners[-2],
        arrowprops={**style, "arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0},
    )
