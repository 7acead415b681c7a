"""What the kit's trained model says of single scans: `drfer predict`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from drfer.common.errors import DrferError, ScanFormatError, check_known
from drfer.datasets import bosphorus, bu3dfe, scans
from drfer.datasets.scan import EXPRESSIONS, NEUTRAL, FaceScan, ScanKey
from drfer.figures.run import COLOURS, draw_cloud, sheet
from drfer.models.drfer import DrFER
from drfer.preprocessing.faceset import Settings, preprocess_scan

SUFFIXES = (".wrl", ".bnt", *scans.SUFFIXES)


@dataclass(frozen=True)
class Prediction:
    """Of one scan. probabilities: of the six expressions, by name. residual: of the registration, mm; doubtful: whether
    it is worse than a good face's. registered, neutralised: (P, 3) mm, the scan as the network sees it and the
    identity branch's face of it."""

    source: str
    probabilities: dict[str, float]
    residual: float
    doubtful: bool
    registered: np.ndarray
    neutralised: np.ndarray

    def as_json(self) -> dict:
        """All but the faces."""
        return {
            "scan": self.source,
            "probabilities": {name: round(value, 4) for name, value in self.probabilities.items()},
            "registration residual, mm": round(self.residual, 3),
            "doubtful": self.doubtful,
        }

    def as_text(self) -> str:
        bars = [
            f"  {name:<10} {100 * value:5.1f} %  {'#' * round(30 * value)}"
            for name, value in self.probabilities.items()
        ]
        doubt = (
            ["  it registers less well than a good scan of a face: look at the picture"]
            if self.doubtful
            else []
        )
        return "\n".join([self.source, *bars, *doubt])


def read_scan(path: Path, up: str = "y") -> FaceScan:
    """A scan in any format that the kit reads. Raises ScanFormatError naming file and place, DrferError for others."""
    key, kind = ScanKey(path.stem, NEUTRAL, 0), path.suffix.lower()
    if kind not in SUFFIXES:
        raise DrferError(f"{path}: no format that is read here; give {', '.join(SUFFIXES)}")
    check_known("axis", up, scans.UP)
    try:
        if kind in scans.SUFFIXES:
            return scans.read_scan(path, key, up)
        points, triangles = (
            bu3dfe.read_vrml(path)
            if kind == ".wrl"
            else bosphorus.mesh_of_range_image(path, bosphorus.read_bnt(path))
        )
    except OSError as error:
        raise ScanFormatError(f"{path}: cannot be read ({error.strerror})") from None
    return FaceScan((points @ scans.UP[up].T).astype(np.float32), triangles, key, str(path))


@torch.no_grad()
def predict(model: DrFER, scan: FaceScan, settings: Settings = Settings()) -> Prediction:
    """Register, sample and take apart one scan. Raises ScanFormatError if it does not register as a face."""
    seen = preprocess_scan(scan, settings)
    points = model.expression.decoder.layers[-1].out_features // 3
    cloud = torch.from_numpy(seen["cloud"][None, :points]).to(next(model.parameters()).device)
    shares = model.expression.classifier(model.expression.encode(cloud)).softmax(dim=1)[0].tolist()
    faces = torch.cat([cloud, model.identity(cloud)]).cpu().numpy() * settings.frame_length
    return Prediction(
        scan.source,
        dict(zip(EXPRESSIONS, shares)),
        float(seen["residual"]),
        bool(seen["doubtful"]),
        *faces,
    )


def picture(prediction: Prediction):
    """The registered face beside its neutralised version, and the six probabilities."""
    figure, (axes,) = sheet(1, 3, (10, 4))
    for axis, face, title in (
        (axes[0], prediction.registered, "registered"),
        (axes[1], prediction.neutralised, "neutralised"),
    ):
        draw_cloud(axis, face)
        axis.set_title(title, fontsize=10)
    bar = figure.colorbar(axes[0].collections[0], ax=axes[:2], shrink=0.6, pad=0.01)
    bar.set_label("depth, mm")
    names, values = (
        list(prediction.probabilities),
        [100 * value for value in prediction.probabilities.values()],
    )
    axes[2].barh(names, values, color=[COLOURS[name] for name in names])
    axes[2].set(xlim=(0, 100), xlabel="probability, %")
    axes[2].invert_yaxis()
    figure.suptitle(
        f"{prediction.source}\nas a model trained on synthetic faces sees it", fontsize=9
    )
    return figure
