"""Small networks and clouds that the tests of `drfer.models` and `drfer.fast` share."""

import torch
from torch import nn

from drfer.models.branch import ModelSizes
from drfer.models.pointnet2 import EncoderSizes, SetAbstractionSizes
from drfer.models.points import farthest_point_sample_plain, gather

SMALL = ModelSizes(
    points=48,
    encoder=EncoderSizes(
        levels=(
            SetAbstractionSizes(centroids=16, radius=0.5, neighbours=6, widths=(7, 9)),
            SetAbstractionSizes(centroids=5, radius=0.9, neighbours=4, widths=(11, 13, 10)),
        ),
        global_widths=(12, 20),
    ),
    decoder_widths=(30, 40),
    classifier_widths=(14,),
)


def random_clouds(batch, count, seed=0):
    """Random clouds of the size of a face, in farthest-point order."""
    clouds = torch.rand(batch, count, 3, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return gather(clouds, farthest_point_sample_plain(clouds, count))


def seeded(build, *arguments, **options):
    """A module whose batch norms are no identities, so that leaving one out would show."""
    torch.manual_seed(0)
    module = build(*arguments, **options)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm1d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.5, 0.5)
            nn.init.uniform_(norm.running_mean, -0.5, 0.5)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return module


def assert_same(name, here, there, tolerance=1e-4):
    """Equal up to rounding: a share of the largest value, since sums come in another order."""
    largest = there.abs().max().item()
    torch.testing.assert_close(
        here, there, rtol=0, atol=tolerance * largest, msg=lambda said: f"{name}: {said}"
    )
