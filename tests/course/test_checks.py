"""Checks of exercises: right answers of many forms pass, and plausible wrong ones do not."""

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from drfer.course.checks import RIGHT, nb03, nb04, nb05, nb08, verdict
from drfer.models.drfer import reorder
from drfer.training.losses import chamfer_distance, cross_over_loss

pytestmark = pytest.mark.usefixtures("one_thread")


def said(answer, exercise):
    with np.errstate(all="ignore"):
        return {verdict(answer, exercise) for _ in range(5)}


def log_of_sum(highest):
    def cross_entropy(logits, labels):
        safe = logits - highest(logits)
        return np.mean(np.log(np.exp(safe).sum(1)) - safe[np.arange(len(labels)), labels])

    return cross_entropy


def drop_in_place(cloud, dropped):
    kept, first = cloud[~dropped].clone(), cloud[0].clone()
    cloud[: len(kept)] = kept
    cloud[len(kept) :] = first
    return cloud


def nearest_by_mean(clouds, means):
    every = [chamfer_distance(clouds, m.expand(len(clouds), -1, -1), "mean") for m in means]
    return torch.stack(every, dim=1).argmin(dim=1)


def anchor_gradient(costs):
    def gradient(anchor, positive, negative):
        if costs(anchor - positive, anchor - negative):
            return 2 * (negative - positive)
        return torch.zeros_like(anchor)

    return gradient


def radius(cloud):
    return cloud.norm(dim=-1).mean(dim=-1, keepdim=True)[..., None]


def crossed(model, clouds, mean, sort=reorder, first=lambda face: face):
    drawn = first(model.expression(clouds)), first(model.identity(clouds))
    faces = model.identity(sort(drawn[0])), model.expression(sort(drawn[1]))
    return cross_over_loss(*faces, mean.expand_as(clouds))


def single(model, clouds, mean):
    return cross_over_loss(model.identity(clouds), model.expression(clouds), mean.expand_as(clouds))


def completed(apart):
    def complete(points):
        mirrored = points * [-1, 1, 1]
        return np.vstack([points, mirrored[cKDTree(points).query(mirrored)[0] > apart]])

    return complete


RIGHT_ONES = {
    "03.1": (nb03.EXERCISES[1], log_of_sum(lambda z: z.max(1, keepdims=True))),
    "03.2, in place": (nb03.EXERCISES[2], drop_in_place),
    "03.3, by means": (nb03.EXERCISES[3], nearest_by_mean),
    "04.2": (
        nb04.EXERCISES[2],
        anchor_gradient(lambda p, n: p.square().sum() - n.square().sum() + 0.3 > 0),
    ),
    "04.4": (nb04.EXERCISES[4], lambda clouds: clouds / radius(clouds)),
    "04.4, centred": (
        nb04.EXERCISES[4],
        lambda clouds: (
            (clouds - clouds.mean(1, keepdim=True)) / radius(clouds - clouds.mean(1)[:, None])
        ),
    ),
    "05.1": (nb05.EXERCISES[1], crossed),
    "08.4, 2 mm": (nb08.EXERCISES[4], completed(2)),
    "08.4, 6 mm": (nb08.EXERCISES[4], completed(6)),
}
WRONG_ONES = {
    "03.1, naive": (nb03.EXERCISES[1], log_of_sum(lambda z: 0)),
    "03.1, one maximum for all": (nb03.EXERCISES[1], log_of_sum(lambda z: z.max())),
    "04.2, no margin": (
        nb04.EXERCISES[2],
        anchor_gradient(lambda p, n: p.square().sum() > n.square().sum()),
    ),
    "04.2, not squared": (
        nb04.EXERCISES[2],
        anchor_gradient(lambda p, n: p.norm() - n.norm() + 0.3 > 0),
    ),
    "04.4, one size for all": (nb04.EXERCISES[4], lambda clouds: clouds / clouds.norm()),
    "04.4, mirrored": (nb04.EXERCISES[4], lambda clouds: -clouds / radius(clouds)),
    "05.1, not sorted": (nb05.EXERCISES[1], lambda *a: crossed(*a, sort=lambda face: face)),
    "05.1, no cross-over": (nb05.EXERCISES[1], single),
    "05.1, detached": (nb05.EXERCISES[1], lambda *a: crossed(*a, first=torch.Tensor.detach)),
    "08.4, everything mirrored": (nb08.EXERCISES[4], completed(-1)),
    "08.4, nothing added": (nb08.EXERCISES[4], lambda points: points),
}


@pytest.mark.parametrize("name", RIGHT_ONES)
def test_a_right_answer_of_any_form_is_right_on_all_inputs(name):
    exercise, answer = RIGHT_ONES[name]
    assert said(answer, exercise) == {RIGHT}


@pytest.mark.parametrize("name", WRONG_ONES)
def test_a_plausible_wrong_answer_is_never_right(name):
    exercise, answer = WRONG_ONES[name]
    assert RIGHT not in said(answer, exercise)
