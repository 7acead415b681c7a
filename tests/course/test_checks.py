"""Checks of exercises: right answers of many forms pass, and plausible wrong ones do not."""

import itertools

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from scipy.stats import t as student

from drfer.course.checks import (
    RIGHT,
    nb00,
    nb01,
    nb02,
    nb03,
    nb04,
    nb05,
    nb07,
    nb08,
    nb09,
    nb10,
    nb11,
    verdict,
)
from drfer.course.small import ENCODER
from drfer.datasets.scan import EXPRESSIONS
from drfer.models.drfer import reorder
from drfer.models.pointnet2 import EncoderSizes, SetAbstractionSizes
from drfer.training.losses import (
    chamfer_distance,
    cross_over_loss,
    supervised_contrastive_loss,
)

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


def turned(cloud, angle):
    cos, sin = np.cos(angle), np.sin(angle)
    return cloud @ torch.tensor([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]]).float()


def mirrored(cloud, luck):
    return cloud * torch.tensor([-1.0 if luck < 0.5 else 1.0, 1, 1])


def turned_at_random(cloud, generator):
    return turned(cloud, 0.1 * torch.rand(1, generator=generator).item())


def mirrored_at_random(cloud, generator):
    return mirrored(cloud, torch.rand(1, generator=generator).item())


def mirrored_by_luck_of_its_own(cloud, generator):
    return mirrored(cloud, torch.rand(1).item())


def mirrored_in_turn():
    turns = itertools.count()
    return lambda cloud, generator: mirrored(cloud, next(turns) % 2)


def turned_alike_and_scaled(cloud, generator):
    return turned(cloud, 0.1) * (0.9 + 0.2 * torch.rand(1, generator=generator))


def turned_alike_and_dropped(cloud, generator):
    dropped = torch.rand(len(cloud), generator=generator) < 0.1
    dropped[0] = False
    made = turned(cloud, 0.1)
    return torch.cat([made[~dropped], made[:1].expand(int(dropped.sum()), 3)])


def standard(mean_of=lambda each: each.mean(0), variance_of=lambda each: each.var(0), squared=True):
    """A loss for mean 0 and variance 1 of the mixture, the moments taken over what one likes."""

    def loss(mean, log_variance):
        middle = mean_of(mean)
        within = log_variance.exp()
        within = within.mean(0) if variance_of(mean).dim() else within.mean()
        variance = variance_of(mean) + within
        if squared:
            return (middle**2).mean() + ((variance - 1) ** 2).mean()
        return 0.5 * ((variance - 1 - variance.log()).mean() + (middle**2).mean())

    return loss


def by_fold(pooled=False, counted=False):
    def difference(ours, theirs, overlap):
        right = [
            [np.equal(entry["truth"], entry["predicted"]) for entry in row]
            for row in (ours, theirs)
        ]
        if counted:  # as if all folds were as large as the first
            share = [[each.sum() / len(row[0]) for each in row] for row in right]
        else:
            share = [[each.mean() for each in row] for row in right]
        differences = 100 * np.subtract(*share)
        mean = 100 * np.subtract(*[np.concatenate(row).mean() for row in right])
        count = len(differences)
        spread = differences.std(ddof=1) * np.sqrt(1 / count + overlap)
        half = student.ppf(0.975, count - 1) * spread
        return (mean if pooled else differences.mean()), half

    return difference


def contrastive(over_all=False, held=lambda loss: loss):
    def loss(features, labels, subjects, temperature=0.1):
        z = features / features.norm(dim=1, keepdim=True)
        similarity = z @ z.T / temperature
        of_scans = []
        for i in range(len(z)):
            positive = (labels == labels[i]) & (subjects != subjects[i])
            others = similarity[i, torch.arange(len(z)) != i].logsumexp(0)
            if positive.any():
                of_scans.append((others - similarity[i, positive]).mean())
        if not of_scans:
            return torch.tensor(0.0)
        return held(sum(of_scans) / (len(z) if over_all else len(of_scans)))

    return loss


def way_back(pose, turned_back=np.transpose):
    back = np.eye(4)
    back[:3, :3] = turned_back(pose[:3, :3])
    back[:3, 3] = -back[:3, :3] @ pose[:3, 3]
    return back


def rounded_softmax(logits, labels):
    exponents = np.exp(logits - logits.max(1, keepdims=True))
    shares = exponents / exponents.sum(1, keepdims=True)
    return np.mean(-np.log(shares[np.arange(len(labels)), labels]))


def cosine(tiny):
    return lambda a, b: (a @ b) / (a.norm() * b.norm() + tiny)


def scans_needed(gain, disagree):
    return (1.96 / gain) ** 2 * (disagree - gain**2)


def anchors_pull(factor=2, floor=0):
    def gradient(anchor, positive, negative):
        gap = (anchor - positive).square().sum() - (anchor - negative).square().sum() + 0.3
        return factor * (negative - positive) * (1 if gap > 0 else floor)

    return gradient


def one_sorted(model, clouds, mean):
    """Equation (9), where only the stream that begins with the expression branch is sorted."""
    faces = (
        model.identity(reorder(model.expression(clouds))),
        model.expression(model.identity(clouds)),
    )
    return cross_over_loss(*faces, mean.expand_as(clouds))


def one_stream(model, clouds, mean):
    face = model.identity(reorder(model.expression(clouds)))
    return chamfer_distance(face, mean.expand_as(clouds)).mean()


def hardest(first_only=False):
    def names(counts):
        recall = counts.diagonal() / counts.sum(axis=1)
        found = [EXPRESSIONS[i] for i in np.flatnonzero(recall == recall.min())]
        return found[:1] if first_only else found

    return names


def sizes(first=(64, 0.2, 12, (32, 64)), second=(32, 0.45, 12, (64, 128)), feature=256):
    levels = tuple(SetAbstractionSizes(*level) for level in (first, second) if level)
    return EncoderSizes(levels=levels, global_widths=(*ENCODER.global_widths[:-1], feature))


RIGHT_ONES = {
    "01.1": (nb01.EXERCISES[1], way_back),
    "01.1, solved": (nb01.EXERCISES[1], lambda pose: np.linalg.solve(pose, np.eye(4))),
    "04.2, by the gap": (nb04.EXERCISES[2], anchors_pull()),
    "05.2": (nb05.EXERCISES[2], cosine(1e-20)),
    "07.1": (nb07.EXERCISES[1], scans_needed),
    "10.1": (nb10.EXERCISES[1], hardest()),
    "10.3": (nb10.EXERCISES[3], ("draws", 25)),
    "03.4, turned": (nb03.EXERCISES[4], turned_at_random),
    "03.4, mirrored": (nb03.EXERCISES[4], mirrored_at_random),
    "07.3, squares": (nb07.EXERCISES[3], standard()),
    "07.3, KL": (nb07.EXERCISES[3], standard(squared=False)),
    "07.3, largest": (
        nb07.EXERCISES[3],
        lambda mean, log_variance: torch.maximum(
            mean.mean(0).abs().max(),
            (mean.var(0) + log_variance.exp().mean(0) - 1).abs().max(),
        ),
    ),
    "09.3, two neighbours": (nb09.EXERCISES[3], (2, 1)),
    "10.2": (nb10.EXERCISES[2], by_fold()),
    "11.2": (nb11.EXERCISES[2], contrastive()),
    "11.2, the package's": (nb11.EXERCISES[2], supervised_contrastive_loss),
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
    "01.1, forbidden": (nb01.EXERCISES[1], lambda pose: np.linalg.inv(pose)),
    "01.1, forbidden, as it is": (nb01.EXERCISES[1], np.linalg.inv),
    "03.1, softmax rounded to 0": (nb03.EXERCISES[1], rounded_softmax),
    "05.2, no tiny number": (nb05.EXERCISES[2], cosine(0)),
    "07.1, gain not taken off": (
        nb07.EXERCISES[1],
        lambda gain, disagree: (1.96 / gain) ** 2 * disagree,
    ),
    "03.4, luck of its own": (nb03.EXERCISES[4], mirrored_by_luck_of_its_own),
    "03.4, every second one": (nb03.EXERCISES[4], mirrored_in_turn()),
    "03.4, only its scale is random": (nb03.EXERCISES[4], turned_alike_and_scaled),
    "03.4, only what it drops is random": (nb03.EXERCISES[4], turned_alike_and_dropped),
    "07.3, one mean for all dimensions": (nb07.EXERCISES[3], standard(mean_of=torch.mean)),
    "07.3, one variance for all dimensions": (
        nb07.EXERCISES[3],
        standard(variance_of=torch.var),
    ),
    "07.3, one mean and one variance": (nb07.EXERCISES[3], standard(torch.mean, torch.var)),
    "07.3, below zero": (nb07.EXERCISES[3], lambda m, v: 10 * standard()(m, v) - 1),
    "07.3, KL, one of each": (nb07.EXERCISES[3], standard(torch.mean, torch.var, squared=False)),
    "09.3, three neighbours": (nb09.EXERCISES[3], (3, 0)),
    "10.2, all scans together": (nb10.EXERCISES[2], by_fold(pooled=True)),
    "10.2, folds taken as equally large": (nb10.EXERCISES[2], by_fold(counted=True)),
    "11.2, mean over all scans": (nb11.EXERCISES[2], contrastive(over_all=True)),
    "11.2, detached": (nb11.EXERCISES[2], contrastive(held=torch.Tensor.detach)),
    "11.2, a plain number": (nb11.EXERCISES[2], contrastive(held=torch.Tensor.item)),
    "11.2, half a gradient": (
        nb11.EXERCISES[2],
        contrastive(held=lambda loss: (loss + loss.detach()) / 2),
    ),
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
    "04.3, two expressions in one direction": (
        nb04.EXERCISES[3],
        [[1, 0], [2, 0], [3, 0], [4, 0], [0, 1], [0, 2]],
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


SENTENCES = {
    "00.3, a pair": (nb00.EXERCISES[3], ("F0001", "fear"), "a triple such as"),
    "01.1, forbidden": (nb01.EXERCISES[1], np.linalg.inv, "try it without."),
    "01.1, wrong": (nb01.EXERCISES[1], lambda pose: way_back(pose, np.array), "Hint: solve"),
    "02.5, one level": (nb02.EXERCISES[5], sizes(second=None), "2 levels are wanted, not 1."),
    "02.5, a short feature": (nb02.EXERCISES[5], sizes(feature=64), "its 256 numbers."),
    "02.5, overlooked": (nb02.EXERCISES[5], sizes((64, 0.02, 4, (8, 8))), "512 points."),
    "02.5, too much": (
        nb02.EXERCISES[5],
        sizes((256, 0.3, 64, (64, 128)), (32, 1.0, 128, (64, 128))),
        "Hint: where is most",
    ),
    "04.2, wrong sign": (nb04.EXERCISES[2], anchors_pull(-2), "Hint: write both squares out."),
    "04.2, 2 missing": (nb04.EXERCISES[2], anchors_pull(1), "Hint: write both squares out."),
    "04.2, free ones pull": (nb04.EXERCISES[2], anchors_pull(floor=1), "that costs nothing?"),
    "05.1, no stream sorted": (
        nb05.EXERCISES[1],
        lambda *a: crossed(*a, sort=lambda face: face),
        "has to be sorted.",
    ),
    "05.1, one stream sorted": (nb05.EXERCISES[1], one_sorted, "has to be sorted."),
    "05.1, one stream": (nb05.EXERCISES[1], one_stream, "is too small."),
    "05.1, mean of both": (nb05.EXERCISES[1], lambda *a: crossed(*a) / 2, "is too small."),
    "08.3, loses": (
        nb08.EXERCISES[3],
        1.5,
        "the sphere is too small, and points that are seen end",
    ),
    "08.3, keeps": (nb08.EXERCISES[3], 4, "a smaller sphere hides more."),
    "10.1, one of two": (
        nb10.EXERCISES[1],
        hardest(first_only=True),
        "2 expressions share the lowest recall, and you name 1.",
    ),
    "10.3, a number": (nb10.EXERCISES[3], 30, 'a pair such as ("folds", 10) is wanted, not 30.'),
}
"""An exercise, a wrong answer, and what a sentence about it has to say."""


@pytest.mark.parametrize("name", SENTENCES)
def test_the_sentence_about_a_wrong_answer_fits_it(name):
    exercise, answer, expected = SENTENCES[name]
    sentence = verdict(answer, exercise)
    assert expected in sentence
    if "Hint:" not in expected:  # no hint that belongs to another error
        assert "Hint:" not in sentence or sentence.index("Hint:") < sentence.index(expected)
