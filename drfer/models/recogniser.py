"""The model that `drfer predict` asks: it has met many people, and says when it has met no such face.

It is the encoder and classifier of the expression branch. It differs from the paper's in two things:
the same template vertices of every scan go in, and a face at rest is a seventh class.
`tools/make_shipped.py` makes its file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from drfer.common.device import device
from drfer.datasets.scan import EXPRESSIONS, NEUTRAL
from drfer.fast.encoder import FastEncoder
from drfer.models.branch import Classifier
from drfer.models.shipped import fill, read_file, sizes_from
from drfer.preprocessing.resampling import template_clouds

PATH = Path(__file__).with_name("recogniser.safetensors")
"""The kit's own file."""
CLASSES = (*EXPRESSIONS, NEUTRAL)
"""What it tells apart, by their labels."""
COLDEST = 0.1
"""The lowest temperature: scores are never made more than ten times as sure."""


class Recogniser(nn.Module):
    """Names the expression of a registered scan, or says that it has met no such face.

    Attributes:
        card: how it was trained, on whom, and what it is worth on people whom it never saw.
    """

    def __init__(self, card: dict) -> None:
        """Create one without weights.

        Args:
            card: as its file has it; `sizes` and `directions` determine the weights' shapes.
        """
        super().__init__()
        sizes = sizes_from(card["sizes"])
        width, count = sizes.feature_width, len(CLASSES)
        self.card, self.points = card, sizes.points
        self.encoder = FastEncoder(sizes.encoder)
        self.classifier = Classifier(width, sizes.classifier_widths, count, 0.0)
        self.register_buffer("means", torch.zeros(count, width))
        self.register_buffer("directions", torch.zeros(width, card["directions"]))

    @torch.no_grad()
    def recognise(self, vertices: np.ndarray, missing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the probabilities of `CLASSES`, shape (n, 7), and which faces are unlike all known.

        Args:
            vertices: the template's first vertices on each scan, shape (n, V, 3), frame units.
            missing: which of them a scan has no surface for, shape (n, V).

        Raises:
            DrferError: a scan has fewer vertices than the encoder takes points.
        """
        clouds = torch.from_numpy(template_clouds(vertices, missing, self.points))
        features = self.features(clouds)
        distance = self.distance(features)
        probabilities = (self.classifier(features) / self.temperature(distance)[:, None]).softmax(1)
        unlike = distance > self.card["limit"]
        return probabilities.cpu().numpy(), unlike.cpu().numpy()

    def features(self, clouds: Tensor) -> Tensor:
        """Return the encoder's features, shape (n, d), of clouds (n, P, 3)."""
        parts = clouds.to(self.means.device).split(48)
        return torch.cat([self.encoder(part).float() for part in parts])

    def temperature(self, distance: Tensor) -> Tensor:
        """Return by what scores are divided before the softmax, (n,), at so much `distance`, (n,).

        The further a face lies from those that are known, the more modest is the answer.
        """
        near, rise = self.card["temperature"]
        return (near + rise * distance).clamp(min=COLDEST)

    def distance(self, features: Tensor) -> Tensor:
        """Return how far features (n, d) lie from the nearest class, shape (n,).

        It is the Mahalanobis distance to the mean feature of a class, with the covariance that
        training faces have within their classes, along the directions in which they vary most.
        """
        placed = features @ self.directions
        return torch.cdist(placed, self.means @ self.directions).min(dim=1).values


def load_recogniser(path: Path | None = None) -> Recogniser:
    """Return a trained recogniser, on the GPU if there is one.

    Args:
        path: a file that `tools/make_shipped.py` wrote; by default the one that comes with the kit.

    Raises:
        DrferError: the file is not there, is damaged, or is of another version.
    """
    path = Path(path or PATH)
    card, tensors = read_file(path)
    recogniser = Recogniser(card)
    fill(recogniser, tensors, path)
    return recogniser.to(device()).eval()
