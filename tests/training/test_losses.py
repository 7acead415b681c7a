"""Every loss against a slow twin that follows its formula term by term, and its gradient against differences."""

import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck
from torch.distributions import Normal
from torch.distributions import kl_divergence as kl_of_distributions

from drfer.common.errors import ShapeError
from drfer.training import losses
from drfer.training.losses import (
    chamfer_distance,
    classification_loss,
    cross_over_loss,
    js_divergence,
    kl_divergence,
    reconstruction_loss,
    supervised_contrastive_loss,
    triplet_loss,
)

MININGS = ["semi-hard", "hard", "all"]
LABELS = torch.tensor([0, 1, 0, 2, 1, 0, 2, 2, 1, 3])


def random(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def chamfer_by_loops(a, b, reduction):
    def one_way(from_points, to_points):
        distances = [min(math.dist(p, q) ** 2 for q in to_points) for p in from_points]
        return sum(distances) / (len(distances) if reduction == "mean" else 1)

    pairs = zip(a.tolist(), b.tolist())
    return torch.tensor([one_way(left, right) + one_way(right, left) for left, right in pairs])


def triplet_by_loops(features, labels, margin, mining, normalised):
    rows = [np.array(row) / (np.linalg.norm(row) if normalised else 1) for row in features.tolist()]
    labels, values = labels.tolist(), []
    for a, anchor in enumerate(rows):
        to_negatives = [
            ((anchor - row) ** 2).sum() for row, label in zip(rows, labels) if label != labels[a]
        ]
        for p, positive in enumerate(rows):
            if p == a or labels[p] != labels[a] or not to_negatives:
                continue
            to_positive = ((anchor - positive) ** 2).sum()
            semi_hard = [distance for distance in to_negatives if distance > to_positive]
            chosen = {
                "semi-hard": [min(semi_hard) if semi_hard else max(to_negatives)],
                "hard": [min(to_negatives)],
                "all": to_negatives,
            }[mining]
            values += [max(0.0, to_positive - distance + margin) for distance in chosen]
    return sum(values) / len(values)


def js_by_distributions(mean, log_variance):
    """By the geometric mean of the densities: its precision is the mean precision, its mean weighted by them."""
    deviation = (0.5 * log_variance).exp()
    precision = deviation**-2
    middle_precision = (precision + 1) / 2
    middle = Normal(precision * mean / 2 / middle_precision, middle_precision**-0.5)
    here, standard = Normal(mean, deviation), Normal(torch.zeros_like(mean), torch.ones_like(mean))
    both = 0.5 * kl_of_distributions(here, middle) + 0.5 * kl_of_distributions(standard, middle)
    return both.sum(dim=1).mean()


def test_classification_is_the_mean_negative_log_likelihood():
    logits, labels = random(10, 4), LABELS
    by_hand = [
        math.log(sum(map(math.exp, row))) - row[label]
        for row, label in zip(logits.tolist(), labels.tolist())
    ]
    torch.testing.assert_close(classification_loss(logits, labels).item(), sum(by_hand) / 10)
    assert gradcheck(lambda rows: classification_loss(rows, labels), logits.requires_grad_())


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("batch, here, there", [(1, 1, 1), (2, 7, 5), (3, 20, 41)])
def test_chamfer_is_that_of_the_loops(reduction, batch, here, there):
    a, b = random(batch, here, 3), random(batch, there, 3, seed=1)
    expected = chamfer_by_loops(a, b, reduction)
    torch.testing.assert_close(chamfer_distance(a, b, reduction).double(), expected.double())
    torch.testing.assert_close(reconstruction_loss(a, b, reduction).item(), expected.mean().item())


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_gradient_of_chamfer_is_that_of_its_differences(reduction):
    a, b = random(2, 6, 3).requires_grad_(), random(2, 8, 3, seed=1).requires_grad_()
    assert gradcheck(lambda left, right: chamfer_distance(left, right, reduction), (a, b))
    assert gradcheck(lambda left, right: reconstruction_loss(left, right, reduction), (a, b))


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_chamfer_of_a_shuffled_copy_is_0_and_either_order_gives_the_same(reduction):
    a, b = random(2, 30, 3).float(), random(2, 20, 3, seed=1).float()
    order = torch.from_numpy(np.random.default_rng(2).permutation(30))
    assert chamfer_distance(a, a[:, order], reduction).tolist() == [0, 0]
    torch.testing.assert_close(chamfer_distance(a, b, reduction), chamfer_distance(b, a, reduction))


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_chamfer_is_in_squared_units(reduction):
    a, b = random(2, 30, 3), random(2, 20, 3, seed=1)
    torch.testing.assert_close(
        chamfer_distance(120 * a, 120 * b, reduction), 120**2 * chamfer_distance(a, b, reduction)
    )


def test_chamfer_refuses_what_does_not_fit():
    cloud = random(2, 5, 3)
    for other in (cloud[:1], cloud[..., :2], cloud[0]):
        with pytest.raises(ShapeError):
            chamfer_distance(cloud, other)
    with pytest.raises(ValueError, match="reduction"):
        chamfer_distance(cloud, cloud, "max")


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("mining", MININGS)
@pytest.mark.parametrize("margin", [0.0, 0.3, 2.0])
def test_triplet_is_that_of_the_loops_and_so_is_its_gradient(mining, normalised, margin):
    features = random(10, 4).requires_grad_()
    value = triplet_loss(features, LABELS, margin, mining, normalised)
    expected = triplet_by_loops(features, LABELS, margin, mining, normalised)
    torch.testing.assert_close(value.item(), float(expected))
    assert gradcheck(lambda rows: triplet_loss(rows, LABELS, margin, mining, normalised), features)


@pytest.mark.parametrize(
    "mining, by_hand", [("semi-hard", 0.06 / 2), ("hard", 0.86 / 2), ("all", 0.92 / 6)]
)
def test_triplets_worked_by_hand(mining, by_hand):
    # anchor 0, positive at squared distance 1: negatives at 0.64, 1.44, 9, so 1.44 is semi-hard; anchor 1: all too far
    features = torch.tensor([[0.0], [1], [-0.8], [-1.2], [3]]).double()
    labels = torch.tensor([0, 0, 1, 2, 3])
    value = triplet_loss(features, labels, 0.5, mining, normalised=False)
    torch.testing.assert_close(value.item(), by_hand)


def test_semi_hard_takes_the_farthest_where_no_negative_is_farther_than_the_positive():
    features = torch.tensor([[0.0], [2], [0.5], [-1]]).double()
    labels = torch.tensor([0, 0, 1, 2])
    # anchor 0: positive at 4, negatives at 0.25 and 1; anchor 1: positive at 4, negatives at 2.25 and 9
    expected = ((4 - 1 + 0.3) + 0) / 2
    value = triplet_loss(features, labels, 0.3, normalised=False)
    torch.testing.assert_close(value.item(), expected)


def test_a_negative_as_far_as_the_positive_is_not_semi_hard():
    features = torch.tensor([[0.0, 0], [1, 0], [0, 1], [0, -2]]).double()
    labels = torch.tensor([0, 0, 1, 2])
    # anchor 0: positive at 1, negatives at 1 and 4; anchor 1: positive at 1, negatives at 2 and 5
    expected = (max(0, 1 - 4 + 2.5) + (1 - 2 + 2.5)) / 2
    value = triplet_loss(features, labels, 2.5, normalised=False)
    torch.testing.assert_close(value.item(), expected)


@pytest.mark.parametrize("mining", MININGS)
@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [1, 1, 1, 1], [2]])
def test_triplet_is_0_with_a_finite_gradient_where_there_is_no_triplet(mining, labels):
    features = random(len(labels), 5).requires_grad_()
    value = triplet_loss(features, torch.tensor(labels), mining=mining)
    value.backward()
    assert value.item() == 0 and features.grad.eq(0).all()


@pytest.mark.parametrize("mining", MININGS)
def test_triplet_is_the_margin_where_all_features_are_one(mining):
    features = torch.ones(10, 4, requires_grad=True)
    value = triplet_loss(features, LABELS, 0.7, mining)
    value.backward()
    assert value.item() == pytest.approx(0.7) and features.grad.isfinite().all()


@pytest.mark.parametrize("mining", MININGS)
def test_triplet_is_0_once_the_classes_lie_apart_by_the_margin(mining):
    features = torch.eye(4)[LABELS]
    assert triplet_loss(features, LABELS, 1.99, mining).item() == 0
    assert triplet_loss(features, LABELS, 2.01, mining).item() == pytest.approx(0.01, abs=1e-6)


def test_normalised_features_have_no_length():
    features = random(10, 4)
    lengths = torch.arange(1.0, 11)[:, None]
    torch.testing.assert_close(
        triplet_loss(lengths * features, LABELS), triplet_loss(features, LABELS)
    )


def contrastive_by_loops(features, labels, subjects, temperature):
    losses = []
    unit = [row / row.norm() for row in features]
    for i, own in enumerate(unit):
        exponents = {j: (own @ other / temperature).exp() for j, other in enumerate(unit) if j != i}
        positives = [j for j in exponents if labels[j] == labels[i] and subjects[j] != subjects[i]]
        if positives:
            shares = [exponents[j] / sum(exponents.values()) for j in positives]
            losses.append(-sum(share.log() for share in shares) / len(positives))
    return sum(losses) / len(losses) if losses else torch.zeros(()).double()


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_contrastive_is_that_of_the_loops_and_so_is_its_gradient(temperature):
    features = torch.randn(len(LABELS), 5, dtype=torch.float64, requires_grad=True)
    subjects = torch.arange(len(LABELS)) % 3
    value = supervised_contrastive_loss(features, LABELS, subjects, temperature)
    torch.testing.assert_close(value, contrastive_by_loops(features, LABELS, subjects, temperature))
    assert gradcheck(
        lambda rows: supervised_contrastive_loss(rows, LABELS, subjects, temperature), features
    )


def test_contrastive_asks_nothing_of_one_subject_alone():
    features = torch.randn(len(LABELS), 5, requires_grad=True)
    value = supervised_contrastive_loss(features, LABELS, torch.zeros_like(LABELS))
    value.backward()
    assert value.item() == 0
    assert not features.grad.any()


def test_contrastive_refuses_what_does_not_fit():
    for features, labels, subjects in (
        (torch.zeros(4), torch.zeros(4), torch.zeros(4)),
        (torch.zeros(4, 2), torch.zeros(3), torch.zeros(4)),
        (torch.zeros(4, 2), torch.zeros(4), torch.zeros(3)),
    ):
        with pytest.raises(ShapeError):
            supervised_contrastive_loss(features, labels, subjects)


def test_triplet_refuses_what_does_not_fit():
    for features, labels in (
        (random(10), LABELS),
        (random(9, 4), LABELS),
        (random(10, 4), LABELS[:, None]),
    ):
        with pytest.raises(ShapeError):
            triplet_loss(features, labels)
    with pytest.raises(ValueError, match="mining"):
        triplet_loss(random(10, 4), LABELS, mining="soft")


def test_the_papers_numbers_are_the_defaults():
    assert losses.MARGIN == 0.3 and losses.FUSION_WEIGHT == 0.1
    features = random(10, 4)
    assert triplet_loss(features, LABELS).equal(
        triplet_loss(features, LABELS, 0.3, "semi-hard", True)
    )


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_cross_over_loss_adds_both_streams(reduction):
    here, there, neutral = random(2, 9, 3), random(2, 9, 3, seed=1), random(2, 7, 3, seed=2)
    expected = chamfer_by_loops(here, neutral, reduction)
    expected = expected + chamfer_by_loops(there, neutral, reduction)
    value = cross_over_loss(here, there, neutral, reduction)
    torch.testing.assert_close(value.item(), expected.mean().item())
    inputs = (here.requires_grad_(), there.requires_grad_())
    assert gradcheck(lambda a, b: cross_over_loss(a, b, neutral, reduction), inputs)


def test_kl_is_that_of_the_distributions():
    mean, log_variance = random(6, 5), random(6, 5, seed=1)
    exact = kl_of_distributions(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(kl_divergence(mean, log_variance), exact.sum(dim=1).mean())


def test_js_is_that_of_the_distributions_and_their_geometric_mean():
    mean, log_variance = random(6, 5), random(6, 5, seed=1)
    torch.testing.assert_close(
        js_divergence(mean, log_variance), js_by_distributions(mean, log_variance)
    )


def test_js_is_that_of_the_densities_integrated():
    x = torch.linspace(-30, 30, 60001, dtype=torch.float64)
    mean, log_variance = torch.tensor([[0.7]]).double(), torch.tensor([[-0.9]]).double()
    here, standard = Normal(0.7, math.exp(-0.45)).log_prob(x), Normal(0.0, 1.0).log_prob(x)
    middle = (here + standard) / 2
    middle = middle - torch.trapezoid(middle.exp(), x).log()
    kl = [torch.trapezoid(density.exp() * (density - middle), x) for density in (here, standard)]
    torch.testing.assert_close(
        js_divergence(mean, log_variance).item(), (sum(kl) / 2).item(), rtol=1e-6, atol=0
    )


def test_js_is_the_same_from_either_side():
    mean, log_variance = random(6, 5), random(6, 5, seed=1)
    # the map that makes this Gaussian the standard one makes the standard one this
    swapped = js_divergence(-mean * (-0.5 * log_variance).exp(), -log_variance)
    torch.testing.assert_close(js_divergence(mean, log_variance), swapped)


@pytest.mark.parametrize("divergence", [kl_divergence, js_divergence])
def test_divergences_are_0_at_the_standard_gaussian_and_positive_elsewhere(divergence):
    zero = torch.zeros(3, 4)
    assert divergence(zero, zero).item() == 0
    assert divergence(zero + 0.1, zero) > 0
    assert divergence(zero, zero - 0.1) > 0
    assert divergence(zero, zero + 0.1) > 0


@pytest.mark.parametrize("divergence", [kl_divergence, js_divergence])
def test_divergences_have_the_gradient_of_their_differences_and_stay_finite(divergence):
    assert gradcheck(
        divergence, (random(3, 4).requires_grad_(), random(3, 4, seed=1).requires_grad_())
    )
    mean = torch.full((2, 2), 30.0)
    log_variance = torch.tensor([[-10.0, 10], [10, -10]], requires_grad=True)
    value = divergence(mean, log_variance)
    value.backward()
    assert value.isfinite() and log_variance.grad.isfinite().all()


@pytest.mark.gpu
def test_the_gpu_gives_the_same():
    a, b = random(2, 50, 3).float(), random(2, 40, 3, seed=1).float()
    features = random(10, 4).float()
    torch.testing.assert_close(chamfer_distance(a.cuda(), b.cuda()).cpu(), chamfer_distance(a, b))
    torch.testing.assert_close(
        triplet_loss(features.cuda(), LABELS.cuda()).cpu(), triplet_loss(features, LABELS)
    )
