"""One branch of DrFER: encoder, decoder and auxiliary classifier (section III.B, figure 3 a and c).

Built in notebooks 03 (`Classifier`) and 04 (`FaceDecoder`, `Branch`).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from drfer.fast.encoder import FastEncoder
from drfer.models.pointnet2 import EncoderSizes


@dataclass(frozen=True)
class ModelSizes:
    """Sizes of the whole model, and the two switches of its ablations."""

    points: int
    """How many points an input cloud and every decoded face have."""
    encoder: EncoderSizes
    """Of all encoders: one in each branch, two in the fusion module."""
    decoder_widths: tuple[int, ...]
    """Of a decoder's hidden layers, between the feature and the points."""
    classifier_widths: tuple[int, ...]
    """Of a classifier's hidden layers, between the feature and the logits."""
    classifier_dropout: float = 0.4
    """Probability with which a classifier's dropout sets a value to 0."""
    skips: bool = True
    """Whether the fusion module has its skip connections ("w/o skip connection" in table III)."""
    gaussian_feature: bool = False
    """Whether the expression feature is drawn from a Gaussian ("w/ L_KL", "w/ L_JS" in table III)."""

    @property
    def feature_width(self) -> int:
        """Width d of the feature R that an encoder gives; 1,024 in the paper."""
        return self.encoder.global_widths[-1]


class Branch(nn.Module):
    """Phi_exp or Phi_id: encodes a face, decodes the feature into another face, and classifies it.

    Calling the branch gives the decoded face; `encode` and `classifier` give the rest.

    Shapes:
        face (B, P, 3) -> decoded face (B, P, 3)

    Attributes:
        encoder: face (B, P, 3) in farthest-point order -> feature R (B, d).
        decoder: feature (B, d) -> face (B, P, 3).
        classifier: feature (B, d) -> logits (B, classes); only training uses the identity branch's.
        gaussian: the head that the KL and JS ablations put on the feature, else None.
    """

    def __init__(self, sizes: ModelSizes, classes: int, gaussian: bool = False) -> None:
        """Create an untrained branch.

        Args:
            sizes: widths of all layers.
            classes: what the classifier tells apart: expressions, or the training subjects.
            gaussian: whether the feature is drawn from a Gaussian, for the KL and JS ablations.
        """
        super().__init__()
        width = sizes.feature_width
        self.encoder = FastEncoder(sizes.encoder)  # the PointNet++ encoder of pointnet2.py
        self.gaussian = GaussianHead(width) if gaussian else None
        self.decoder = FaceDecoder((width, *sizes.decoder_widths), sizes.points)
        self.classifier = Classifier(
            width, sizes.classifier_widths, classes, sizes.classifier_dropout
        )

    def forward(self, face: Tensor) -> Tensor:
        """Return the decoded face, shape (B, P, 3), of faces in farthest-point order."""
        return self.decoder(self.encode(face))

    def encode(self, face: Tensor) -> Tensor:
        """Return the feature R, shape (B, d), of faces (B, P, 3) in farthest-point order."""
        return self.encode_distribution(face)[0]

    def encode_distribution(self, face: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the feature, and the Gaussian that it was drawn from if the branch has that head.

        Args:
            face: shape (B, P, 3), frame units, in farthest-point order.

        Returns:
            The feature; the mean and the log variance, or None twice. Shape (B, d) each, float32.
        """
        feature = self.encoder(face).float()
        if self.gaussian is None:
            return feature, None, None
        return self.gaussian(feature)


class FaceDecoder(nn.Module):
    """Fully connected layers with ReLU between them, the last of which gives a face.

    The fusion module uses it too. There, skip connections join further numbers to the input of each
    layer.

    Shapes:
        feature (B, d) -> face (B, P, 3)
    """

    def __init__(self, widths: tuple[int, ...], points: int, skips: tuple[int, ...] = ()) -> None:
        """Create an untrained decoder.

        Args:
            widths: of the feature and of the hidden layers.
            points: how many points the face has, P.
            skips: how many numbers a skip connection brings to each layer; none if empty.
        """
        super().__init__()
        skips = skips or (0,) * len(widths)
        inputs = [width + skip for width, skip in zip(widths, skips)]
        *hidden, last = zip(inputs, (*widths[1:], 3 * points))
        layers = [nn.Linear(*pair) for pair in hidden]
        self.layers = nn.ModuleList([*layers, Deviation(*last)])

    def forward(self, feature: Tensor, skips: list[Tensor] | None = None) -> Tensor:
        """Return the face, in float32.

        Args:
            feature: shape (B, d).
            skips: one input (B, width) for each layer, if it was created with skip connections.
        """
        for number, layer in enumerate(self.layers):
            if number > 0:
                feature = feature.relu()
            if skips is not None:
                feature = torch.cat([feature, skips[number]], dim=-1)
            feature = layer(feature)
        return feature.view(len(feature), -1, 3)

    def start_from(self, face: Tensor) -> None:
        """Let an untrained decoder answer with a face, shape (P, 3), give or take a tenth of a mm.

        So it learns how faces deviate from that one, and need not learn where a face lies.
        """
        with torch.no_grad():
            self.layers[-1].weight.mul_(0.1)
            self.layers[-1].bias.copy_(face.flatten())


class Deviation(nn.Linear):
    """A decoder's last layer: a face, its bias, and how others deviate from it.

    One unit of the product is 3.75 mm, about as much as faces deviate from each other. In its first
    steps Adam moves every weight by the whole learning rate, however small the gradient is, and two
    thousand such steps add up in each coordinate. In plain frame units of 120 mm they threw points
    out of the face (the reconstruction loss rose to 51 in the first epoch); in these they do not.

    The bias is added in float32, where autocast has the product in bfloat16, whose grid is 0.2 to
    0.5 mm wide there.

    Shapes:
        rows (..., C) -> (..., C')
    """

    UNIT = 1 / 32
    """Of the product, in frame units."""

    def forward(self, rows: Tensor) -> Tensor:
        """Apply the layer."""
        return linear(rows, self.weight).to(self.bias.dtype) * self.UNIT + self.bias


class Classifier(nn.Sequential):
    """Fully connected layers with batch norm, ReLU and dropout, and a last one that gives logits.

    Shapes:
        feature (B, d) -> logits (B, classes)
    """

    def __init__(
        self, feature_width: int, widths: tuple[int, ...], classes: int, dropout: float
    ) -> None:
        """Create an untrained classifier.

        Args:
            feature_width: d.
            widths: of the hidden layers.
            classes: how many logits it gives.
            dropout: probability with which a hidden value is set to 0 in training.
        """
        layers: list[nn.Module] = []
        for a, b in pairwise((feature_width, *widths)):
            layers += [nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU(), nn.Dropout(dropout)]
        super().__init__(*layers, nn.Linear(widths[-1], classes))


class GaussianHead(nn.Module):
    """Turns a feature into a Gaussian and draws from it, for the ablations "w/ L_KL" and "w/ L_JS".

    An untrained head has the feature itself as its mean, and a standard deviation of 0.05: what
    stage i learned is still there when the head comes in.

    Shapes:
        feature (B, d) -> drawn feature, mean and log variance, (B, d) each
    """

    def __init__(self, width: int) -> None:
        """Create an untrained head for features of a width."""
        super().__init__()
        self.parameters_of = nn.Linear(width, 2 * width)
        with torch.no_grad():
            self.parameters_of.weight.zero_()[:width].fill_diagonal_(1)
            self.parameters_of.bias.zero_()[width:] = -6  # exp(-6 / 2) is 0.05

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return a draw (in evaluation the mean itself), the mean, and the log variance."""
        mean, log_variance = self.parameters_of(feature).float().chunk(2, dim=-1)
        log_variance = log_variance.clamp(-10, 10)
        noise = torch.randn_like(mean) if self.training else torch.zeros_like(mean)
        return mean + noise * (0.5 * log_variance).exp(), mean, log_variance
