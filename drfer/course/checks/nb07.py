"""What the exercises of notebook 07 are checked by."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from drfer.course.checks import NOT_DONE, Exercise


def _kl_of_two(
    mean_1: Tensor, log_variance_1: Tensor, mean_2: Tensor, log_variance_2: Tensor
) -> Tensor:
    first = Normal(mean_1, (0.5 * log_variance_1).exp())
    second = Normal(mean_2, (0.5 * log_variance_2).exp())
    return kl_divergence(first, second).sum(dim=1).mean()


def _gaussians() -> list[tuple[Tensor, ...]]:
    chance = torch.Generator().manual_seed(72)
    return [
        tuple(torch.randn(size, generator=chance) for _ in range(4)) for size in ((5, 3), (2, 9))
    ]


def _standard_as_a_whole(answer) -> str | None:
    chance = torch.Generator().manual_seed(73)
    apart = torch.randn(4000, 10, generator=chance)
    apart = (apart - apart.mean(dim=0)) / apart.std(dim=0)
    narrow = math.log(0.01)
    apart_and_narrow = apart * math.sqrt(0.99), torch.full_like(apart, narrow)
    alike = torch.zeros_like(apart), torch.zeros_like(apart)
    two_groups = torch.where(apart > 0, 1.0, -1.0)
    two_groups = (two_groups - two_groups.mean(dim=0)) / two_groups.std(dim=0)
    grouped = two_groups * math.sqrt(0.99), torch.full_like(apart, narrow)
    up_or_down = torch.tensor([1.0, -1.0]).repeat(5)
    # of ten variances, two are 4 and eight 1/4: their mean is 1
    stretched = torch.tensor([2.0, 0.5, 0.5, 0.5, 0.5]).repeat(2)
    for name, (mean, log_variance) in {
        "far apart and narrow": apart_and_narrow,
        "all N(0, 1)": alike,
        "in two narrow groups": grouped,
    }.items():
        mean, log_variance = mean.clone().requires_grad_(), log_variance.clone().requires_grad_()
        loss = answer(mean, log_variance)
        if loss is None:
            return NOT_DONE
        if not isinstance(loss, Tensor) or loss.dim():
            return "a scalar tensor is wanted."
        if loss.item() < -1e-4:
            return f"it is {loss.item():.2f}, below zero, for Gaussians that are {name}."
        if loss.item() > 0.05:
            return f"it is {loss.item():.2f} for standard draws whose Gaussians are {name}."
        for change, moved in {
            "moved by 1": (mean + 1, log_variance),
            "moved by -1": (mean - 1, log_variance),
            "stretched to twice": (2 * mean, log_variance + math.log(4)),
            "shrunk to half": (mean / 2, log_variance - math.log(4)),
            "moved up in some dimensions and down in others": (mean + up_or_down, log_variance),
            "stretched in some dimensions and shrunk in others": (
                mean * stretched,
                log_variance + 2 * stretched.log(),
            ),
        }.items():
            loss = answer(*moved)
            if not loss.item() > 0.2:
                return f"it is only {loss.item():.2f} for Gaussians that are {name}, {change}."
            if not loss.requires_grad:
                return "it cannot be differentiated."
            gradients = torch.autograd.grad(loss, (mean, log_variance), allow_unused=True)
            known = [gradient for gradient in gradients if gradient is not None]
            if not known or not any(gradient.abs().max() > 0 for gradient in known):
                return f"it has no gradient for Gaussians that are {name}, {change}."
            if not all(gradient.isfinite().all() for gradient in known):
                return f"its gradient is no finite number for Gaussians that are {name}, {change}."
    return None


EXERCISES = {
    1: Exercise(
        lambda gain, disagree: (1.96 / gain) ** 2 * (disagree - gain**2),
        on=lambda: [(0.02, 0.15), (0.0139, 0.08), (0.05, 0.3), (0.2, 0.3)],
        tolerance=0.01,
        hint="1.96 standard errors are the gain; solve for the number of scans.",
    ),
    2: Exercise(_kl_of_two, on=_gaussians, hint="it is the formula of a pull to the middle."),
    3: Exercise(
        judge=_standard_as_a_whole,
        hint="the variance of a mixture is the variance of means plus the mean of variances.",
    ),
}
