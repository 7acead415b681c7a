"""What the template's correspondence allows beyond the paper: the same points in, expressions carried.

Every registered scan has the template's vertices. So a network can be shown the same vertices of
every scan instead of points that are sampled from each (`resampling.template_clouds`); and what a person's face does, vertex by
vertex, can be done to another person's neutral face.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from drfer.common.device import device


class Displacements:
    """By how much each vertex moves when a scan's expression is carried to another subject."""

    def __init__(
        self, neutrals: np.ndarray, missing: np.ndarray, clouds: np.ndarray, vertices: np.ndarray
    ) -> None:
        """Fill the holes of the neutral scans, and find the vertex nearest to each point of a cloud.

        Args:
            neutrals: where the template's first vertices lie on each subject's neutral scan, shape
                (subjects, V, 3).
            missing: which of them it has no surface for, shape (subjects, V).
            clouds: the scans that are carried, as the network sees them, shape (n, P, 3).
            vertices: the template's first vertices on the same scans, shape (n, V, 3).
        """
        self.neutrals = torch.tensor(filled(neutrals, missing), device=device())
        near = [cKDTree(own).query(cloud)[1] for cloud, own in zip(clouds, vertices)]
        self.near = torch.tensor(np.stack(near), device=device())

    def draw(
        self, subjects: Tensor, share: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Draw for some scans to whom each is carried; the others stay who they are.

        Args:
            subjects: whose scans they are, shape (B,).
            share: how many of them are carried, from 0 to 1.
            generator: all random numbers come from here.

        Returns:
            Who they then are, shape (B,), and the displacement of each vertex, shape (B, V, 3).
        """
        count = len(subjects)
        carried = torch.rand(count, generator=generator) < share
        anyone = torch.randint(len(self.neutrals), (count,), generator=generator)
        to = torch.where(carried.to(subjects.device), anyone.to(subjects.device), subjects)
        return to, self.neutrals[to] - self.neutrals[subjects]

    def of_points(self, scans: Tensor, displacement: Tensor) -> Tensor:
        """Return the displacement of each point of some clouds: that of the nearest vertex.

        Args:
            scans: which of the clouds, shape (B,).
            displacement: of each vertex, shape (B, V, 3).

        Returns:
            Shape (B, P, 3).
        """
        return displacement.gather(1, self.near[scans][..., None].expand(-1, -1, 3))


def filled(neutrals: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Return neutral scans without holes.

    A missing vertex deviates from the mean neutral face as the nearest vertex does that is there.

    Args:
        neutrals: where vertices lie on each scan, shape (n, V, 3).
        missing: which of them it has no surface for, shape (n, V).

    Returns:
        Shape (n, V, 3).
    """
    there = np.where(missing, 0, 1)[..., None]
    there = np.where(there.any(axis=0), there, 1)  # what nobody has stays where it was put
    mean = (neutrals * there).sum(axis=0) / there.sum(axis=0)
    deviations = neutrals - mean
    for deviation, gone in zip(deviations, missing):
        if gone.any() and not gone.all():
            nearest = cKDTree(mean[~gone]).query(mean[gone])[1]
            deviation[gone] = deviation[~gone][nearest]
    return (mean + deviations).astype(np.float32)
