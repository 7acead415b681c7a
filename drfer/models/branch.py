"""One branch of DrFER: encoder, decoder and auxiliary classifier (figure 3 a and c of the paper)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from drfer.models.pointnet2 import Encoder, EncoderSizes


@dataclass(frozen=True)
class ModelSizes:
    """All widths of the model."""

    points: int
    """of an input cloud and of every decoded face"""
    encoder: EncoderSizes
    decoder_widths: tuple[int, ...]
    """hidden widths of the decoder, after the feature and before the points"""
    classifier_widths: tuple[int, ...]
    classifier_dropout: float = 0.4
    skips: bool = True
    """whether the fusion module has its skip connections"""
    gaussian_feature: bool = False
    """whether the expression feature is drawn from a Gaussian head, for the KL and JS ablations"""

    @property
    def feature_width(self) -> int:
        return self.encoder.global_widths[-1]


class FaceLayers(nn.Module):
    """Fully connected layers that end in a face (B, P, 3); layer k also receives extra[k], if it is given."""

    def __init__(self, widths: tuple[int, ...], points: int, extra: tuple[int, ...] = ()) -> None:
        super().__init__()
        extra = extra or (0,) * len(widths)
        outputs = (*widths[1:], 3 * points)
        self.layers = nn.ModuleList(nn.Linear(a + e, b) for a, e, b in zip(widths, extra, outputs))

    def forward(self, feature: Tensor, extra: list[Tensor] | None = None) -> Tensor:
        for number, layer in enumerate(self.layers):
            joined = feature if not extra else torch.cat([feature, extra[number]], dim=-1)
            feature = layer(joined)
            if number < len(self.layers) - 1:
                feature = feature.relu()
        return feature.float().view(len(feature), -1, 3)

    def start_from(self, face: Tensor) -> None:
        """Let an untrained module answer with a face (P, 3): it then learns deviations, not where a face lies."""
        with torch.no_grad():
            self.layers[-1].weight.mul_(0.1)
            self.layers[-1].bias.copy_(face.flatten())


class Classifier(nn.Sequential):
    """(B, d) -> (B, classes): fully connected layers with batch norm, ReLU and dropout."""

    def __init__(
        self, feature_width: int, widths: tuple[int, ...], classes: int, dropout: float
    ) -> None:
        layers: list[nn.Module] = []
        for a, b in zip((feature_width, *widths), widths):
            layers += [nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU(), nn.Dropout(dropout)]
        super().__init__(*layers, nn.Linear(widths[-1], classes))


class GaussianHead(nn.Module):
    """Feature (B, d) -> mean and log variance (B, d) each, and a draw from that Gaussian (its mean in evaluation).

    Untrained, its mean is the feature itself, so that what stage i learned is still there when it comes in.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.parameters_of = nn.Linear(width, 2 * width)
        with torch.no_grad():
            self.parameters_of.weight.zero_()[:width].fill_diagonal_(1)
            self.parameters_of.bias.zero_()[width:] = -6  # a deviation of 0.05

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.parameters_of(feature).float().chunk(2, dim=-1)
        log_variance = log_variance.clamp(-10, 10)
        noise = torch.randn_like(mean) if self.training else torch.zeros_like(mean)
        return mean + noise * (0.5 * log_variance).exp(), mean, log_variance


class Branch(nn.Module):
    """Phi: a face (B, P, 3) in farthest-point order -> feature R (B, d) -> decoded face (B, P, 3), class logits."""

    def __init__(self, sizes: ModelSizes, classes: int, gaussian: bool = False) -> None:
        super().__init__()
        width = sizes.feature_width
        self.encoder = Encoder(sizes.encoder)
        self.gaussian = GaussianHead(width) if gaussian else None
        self.decoder = FaceLayers((width, *sizes.decoder_widths), sizes.points)
        self.classifier = Classifier(
            width, sizes.classifier_widths, classes, sizes.classifier_dropout
        )

    def encode(self, face: Tensor) -> Tensor:
        return self.encode_distribution(face)[0]

    def encode_distribution(self, face: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Feature, and the mean and log variance it was drawn from if the branch has a Gaussian head."""
        feature = self.encoder(face).float()
        return self.gaussian(feature) if self.gaussian else (feature, None, None)

    def forward(self, face: Tensor) -> Tensor:
        """The decoded face."""
        return self.decoder(self.encode(face))
