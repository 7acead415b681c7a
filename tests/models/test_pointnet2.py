"""The blackboard encoder: its shared layers, its sampling, and its docstring's example.

`fast/test_encoder.py` holds it, and the fast form, to loops that follow the definition row by row.
"""

import doctest

import pytest
import torch
from networks import SMALL, assert_same, random_clouds, seeded

from drfer.evaluation.presets import PRESETS
from drfer.models import pointnet2
from drfer.models.pointnet2 import Encoder, SetAbstraction, SetAbstractionSizes, SharedMLP
from drfer.models.points import ball_query, farthest_point_sample_plain, gather

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_example_in_the_docstring():
    tried = doctest.testmod(pointnet2)
    assert tried.attempted == 4 and tried.failed == 0


@pytest.mark.parametrize("training", [True, False])
def test_shared_layers_are_linear_norm_and_relu_on_every_row(training):
    shared = seeded(SharedMLP, (3, 8, 5)).train(training)
    rows = random_clouds(2, 30).view(2, 6, 5, 3)
    first, second = shared.linears
    norm, other_norm = shared.norms
    expected = norm(first(rows.reshape(60, 3))).relu()
    expected = other_norm(second(expected)).relu()
    assert_same("rows", shared(rows), expected.view(2, 6, 5, 5))
    assert (shared(rows) == 0).any(), "what no ReLU lets through is 0"


@pytest.mark.parametrize("channels", [0, 5])
def test_set_abstraction_samples_groups_and_takes_the_maximum(channels):
    level = seeded(SetAbstraction, channels, SetAbstractionSizes(20, 0.5, 8, (8, 12))).eval()
    points, features = random_clouds(3, 100), torch.randn(3, 100, channels)
    centroids, found = level(points, features if channels else None)
    assert centroids.equal(gather(points, farthest_point_sample_plain(points, 20)))
    balls = ball_query(points, centroids, 0.5, 8)
    for cloud, centroid in [(0, 0), (1, 7), (2, 19)]:
        ball = balls[cloud, centroid]
        rows = torch.cat(
            [points[cloud, ball] - centroids[cloud, centroid], features[cloud, ball]], 1
        )
        assert_same("feature", found[cloud, centroid], level.shared(rows).amax(dim=0))


def test_the_last_level_takes_all_centroids_as_one_group():
    encoder, clouds = seeded(Encoder, SMALL.encoder).eval(), random_clouds(2, SMALL.points)
    points, features = clouds, None
    for level in encoder.levels:
        points, features = level(points, features)
    rows = torch.cat([points, features], dim=-1)
    assert_same("feature", encoder(clouds), encoder.whole(rows).amax(dim=1))


def test_the_papers_encoder():
    sizes = PRESETS["paper"].sizes.encoder
    with torch.device("meta"):
        encoder = Encoder(sizes)
    assert [level.sizes.centroids for level in encoder.levels] == [512, 128]
    assert [level.sizes.neighbours for level in encoder.levels] == [32, 64]
    inputs = [level.shared.linears[0].in_features for level in encoder.levels]
    assert [*inputs, encoder.whole.linears[0].in_features] == [3, 3 + 128, 3 + 256]
    assert sizes.pooled_widths == (128, 256, 1024)
