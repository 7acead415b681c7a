"""What the kit's trained model says of single scans: `drfer predict`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from drfer.common.errors import DrferError
from drfer.datasets.scan import FaceScan
from drfer.datasets.scan_file import check_axis_and_unit
from drfer.each_scan import each_scan, made_of, output_name
from drfer.figures.faces import draw_face, scale_bar, surface
from drfer.figures.style import NORMAL, VERMILION, literal, look, marks_of, save, sheet
from drfer.models.drfer import DrFER
from drfer.models.personal import PersonalModel, load_personal_model
from drfer.models.recogniser import CLASSES, Recogniser
from drfer.preprocessing.resampling import (
    OTHER_FACES,
    Carried,
    Settings,
    carry_template,
    network_input,
)
from drfer.register import DOUBT, write

UNLIKE = "unlike the faces that the model has met: its answer means little"
AT_REST = "hardly differs from the neutral scan: perhaps it shows none of these"


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the model says of one scan, and what it saw."""

    source: str
    """The file that the scan is from."""
    probabilities: dict[str, float]
    """Of the six expressions, and of neutral but in personal mode, by name; their sum is 1."""
    unlike: bool
    """Whether the model has met no such face, so that its answer means little; not asked in personal
    mode."""
    residual: float
    """Of the registration, mm."""
    doubts: tuple[str, ...]
    """In what it registered less well than any good scan of a face."""
    registered: np.ndarray
    """The scan as the network sees it, shape (P, 3), mm."""
    neutralised: np.ndarray
    """The face that the identity branch makes of it, shape (P, 3), mm."""
    carried: Carried
    """The common mesh on the scan."""
    at_rest: bool = False
    """In personal mode, whether it hardly differs from the person's neutral scan."""
    own_neutral: np.ndarray | None = None
    """In personal mode the person's neutral scan as the network would see it, shape (P, 3), mm."""

    @property
    def warnings(self) -> list[str]:
        """Why its answer may mean little, a sentence each."""
        doubt = DOUBT.format("; ".join(self.doubts))
        warnings = {UNLIKE: self.unlike, AT_REST: self.at_rest, doubt: bool(self.doubts)}
        return [warning for warning, holds in warnings.items() if holds]


@dataclass(frozen=True, eq=False)
class Person:
    """Whose scans are asked about: names the expression if the person's neutral scan is at hand."""

    model: PersonalModel
    """Names the expression by what differs between two scans of one person."""
    neutral: Carried
    """The common mesh on the neutral scan."""
    source: str
    """The file of the neutral scan."""


@dataclass(frozen=True)
class Answer:
    """What is said of one file that was asked about: a prediction, or why there is none."""

    path: Path
    """The file."""
    source: str
    """The same, and what was decided about it, such as its unit."""
    prediction: Prediction | None = None
    """None if the scan was refused."""
    refusal: str = ""
    """Why there is no prediction, or no picture of it."""
    picture: Path | None = None
    """The picture of what the model saw."""
    written: tuple[Path, ...] = ()
    """What was written of the registered mesh."""

    def as_json(self) -> dict:
        """Return the answer as `drfer predict --json` prints it, one line for each file."""
        said: dict = {"file": str(self.path), "scan": self.source}
        if found := self.prediction:
            said["probabilities"] = {
                name: round(value, 4) for name, value in found.probabilities.items()
            }
            if found.own_neutral is None:
                said["unlike known faces"] = found.unlike
            else:
                said["like the neutral scan"] = found.at_rest
            said["registration residual, mm"] = round(found.residual, 3)
            said["doubtful"] = bool(found.doubts)
            said["doubts"] = list(found.doubts)
        if self.picture:
            said["picture"] = str(self.picture)
        if self.written:
            said["registered"] = list(map(str, self.written))
        if self.refusal:
            said["refused"] = self.refusal
        return said

    def as_text(self) -> str:
        """Return the answer with a bar for each class."""
        if self.prediction is None:
            return f"{self.source}: refused\n  {self.refusal}"
        lines = [self.source]
        for name, value in self.prediction.probabilities.items():
            lines.append(f"  {name:<10} {100 * value:5.1f} %  {'#' * round(30 * value)}")
        lines += [f"  {warning}" for warning in self.prediction.warnings]
        lines.append(f"  picture: {self.picture or self.refusal}")
        return "\n".join([*lines, *(f"  {path}" for path in self.written)])


def answers(
    model: DrFER,
    namer: Recogniser | Person,
    paths: tuple[Path, ...],
    up: str,
    unit: str | None,
    out: Path,
    mesh: bool = False,
) -> Iterator[Answer]:
    """Yield an answer for each file, in their order, whatever happens to the others.

    Args:
        model: as `drfer.load_model` gives it; draws the neutralised face.
        namer: names the expression: a recogniser, or in personal mode the person whose scans these
            are.
        paths: files with one face each.
        up: the axis that points up in them, such as "z" or "-y".
        unit: their unit, such as "cm"; None if it is to be judged by their size.
        out: the folder for the pictures. A picture's name holds a hash of the file's path and
            content, so that no other scan's picture is written over.
        mesh: whether the registered mesh is written too, as `drfer register` does.

    Raises:
        DrferError: there is no file, or no such axis or unit.
    """
    for path, found, refusal in each_scan(paths, up, unit, partial(_of_scan, model, namer)):
        if found is None:
            yield Answer(path, str(path), refusal=refusal)
            continue
        scan, prediction = found
        beside = namer.source if isinstance(namer, Person) else ""
        name = output_name(path, up, unit, beside)
        drawn = out / f"{name}.png"
        try:
            written = write(scan, prediction.carried, out / f"{name}-mesh") if mesh else ()
            save(picture(prediction), drawn, small=False)
        except DrferError as error:  # the answer is worth having without it
            yield Answer(path, scan.source, prediction, str(error))
        else:
            yield Answer(path, scan.source, prediction, picture=drawn, written=written)


def person_of(neutral: Path, up: str = "y", unit: str | None = None) -> Person:
    """Return the person whose neutral scan lies in a file, for the kit's personal model.

    Args:
        neutral: the file.
        up: the axis that points up in it.
        unit: its unit; None if it is to be judged by its size.

    Raises:
        DrferError: it cannot be read, or does not register as a face.
    """
    check_axis_and_unit(up, unit)
    carried = made_of(neutral, up, unit, partial(carry_template, settings=OTHER_FACES))
    return Person(load_personal_model(), carried, str(neutral))


def _of_scan(
    model: DrFER, namer: Recogniser | Person, scan: FaceScan
) -> tuple[FaceScan, Prediction]:
    return scan, predict(model, namer, scan)


@torch.no_grad()
def predict(
    model: DrFER, namer: Recogniser | Person, scan: FaceScan, settings: Settings = OTHER_FACES
) -> Prediction:
    """Register and sample one scan, name its expression, and take its identity apart.

    Args:
        model: in evaluation; draws the neutralised face.
        namer: names the expression: a recogniser, or in personal mode the person whose scan it is.
        scan: a face, turned by up to 30 degrees from the front.
        settings: of the preprocessing.

    Raises:
        ScanFormatError: the scan does not register as a face, or is of another person than the
            neutral scan.
        DrferError: it has too few of the vertices that the recogniser takes.
    """
    carried = carry_template(scan, settings)
    seen = network_input(carried, settings)
    points = model.expression.decoder.layers[-1].out_features // 3
    cloud = torch.from_numpy(seen["cloud"][None, :points]).to(next(model.parameters()).device)
    faces = torch.cat([cloud, model.identity(cloud)]).cpu().numpy() * settings.frame_length
    doubts, unlike, at_rest, own_neutral = carried.doubts, False, False, None
    if isinstance(namer, Person):
        if namer.model.of_two_people(carried, namer.neutral):
            raise scan.refusal(
                f"differs from {namer.source} by more than an expression: by their shapes they are "
                "two people; give this person's neutral scan, or leave out --neutral"
            )
        probabilities = namer.model.probabilities(carried, namer.neutral)
        doubts += tuple(f"the neutral scan: {doubt}" for doubt in namer.neutral.doubts)
        at_rest = namer.model.is_at_rest(carried, namer.neutral)
        own_neutral = network_input(namer.neutral, settings)["cloud"][:points]
        own_neutral = own_neutral * settings.frame_length
    else:
        found, far = namer.recognise(seen["vertices"][None], seen["missing"][None])
        probabilities, unlike = dict(zip(CLASSES, found[0].tolist())), bool(far[0])
    return Prediction(
        source=scan.source,
        probabilities=probabilities,
        unlike=unlike,
        residual=float(seen["residual"]),
        doubts=doubts,
        registered=faces[0],
        neutralised=faces[1],
        carried=carried,
        at_rest=at_rest,
        own_neutral=own_neutral,
    )


@look()
def picture(prediction: Prediction) -> Figure:
    """Return a figure of the registered face, its neutralised version, and the probabilities.

    In personal mode the person's own neutral scan stands in the place of the neutralised version.
    """
    figure, (axes,) = sheet(1, 3, (10, 4.4))
    faces = {"registered": prediction.registered, "neutralised": prediction.neutralised}
    if prediction.own_neutral is not None:
        faces = {"registered": prediction.registered, "own neutral": prediction.own_neutral}
    for panel, (title, face) in zip(axes, faces.items()):
        draw_face(panel, surface(face))
        panel.set_title(title, size=NORMAL)
    scale_bar(axes[0])
    names = list(prediction.probabilities)
    percents = [100 * value for value in prediction.probabilities.values()]
    axes[2].barh(names, percents, color=[marks_of(names)[name][0] for name in names])
    axes[2].set(xlim=(0, 100), xlabel="probability, %")
    axes[2].invert_yaxis()
    seen = "as a model trained on synthetic faces sees it"
    if prediction.own_neutral is not None:
        seen += ", beside the person's own neutral scan"
    figure.suptitle(f"{literal(prediction.source)}\n{seen}", size=NORMAL)
    if prediction.warnings:
        figure.supxlabel("\n".join(prediction.warnings), size=NORMAL, color=VERMILION)
    return figure
