"""Scans as surfaces, of which each training step sees other points.

A decoder that always had the same points as its target could learn them by heart. The paper does not
say which points its targets have.

Built in notebook 03.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from drfer.common.device import device, sent
from drfer.preprocessing import template as common_mesh

MOST_STRETCH = 2.0
"""An edge that is so many times longer than in the middle of the scans spans a gap, such as an open
mouth; its triangle bears no points."""


class Surfaces:
    """The surfaces of some scans: meshes of the template's first vertices."""

    def __init__(self, vertices: np.ndarray, missing: np.ndarray) -> None:
        """Find the triangles of each scan.

        Args:
            vertices: where the template's first vertices lie on each scan, shape (n, V, 3).
            missing: which of them a scan has no surface for, shape (n, V).
        """
        triangles = common_mesh.load().coarse_triangles(vertices.shape[1])
        edges = np.stack([_longest_edges(scan, triangles) for scan in vertices])
        there = edges <= MOST_STRETCH * np.median(edges, axis=0)
        there &= ~missing[:, triangles].any(axis=2)
        self.vertices = torch.tensor(vertices, device=device())
        self.triangles = torch.tensor(triangles, device=device())
        self.counts = torch.tensor(there.sum(axis=1), device=device())
        # a scan's own triangles move to the front, in their order
        order = np.argsort(~there, axis=1, kind="stable").astype(np.int32)
        self.own = torch.tensor(order, device=device())

    def sample(
        self,
        scans: Tensor,
        points: int,
        generator: torch.Generator,
        displacement: Tensor | None = None,
    ) -> Tensor:
        """Draw an even sample of some scans' surfaces.

        Triangles are about equally large, and near ones follow each other. So one is drawn from
        each of as many equal stretches of their list as there shall be points.

        Args:
            scans: which scans, on their device, shape (B,).
            points: how many points P each sample has.
            generator: all random numbers come from here.
            displacement: by how much each vertex is moved first, shape (B, V, 3); None for not.

        Returns:
            Points, shape (B, P, 3), in the vertices' unit.
        """
        random = sent(torch.rand(3, len(scans), points, generator=generator), self.own.device)
        count = self.counts[scans, None]
        place = ((torch.arange(points, device=random.device) + random[0]) / points * count).long()
        place = place.minimum(count - 1)
        corners = self.triangles[self.own[scans].gather(1, place).long()]
        places = self.vertices[scans[:, None, None], corners]
        if displacement is not None:
            places = places + displacement[torch.arange(len(scans))[:, None, None], corners]
        a, b, c = places.unbind(dim=2)
        # uniform in the triangle: what lies in the other half of the parallelogram is folded back
        u, v = random[1:, ..., None]
        outside = u + v > 1
        u, v = torch.where(outside, 1 - u, u), torch.where(outside, 1 - v, v)
        return a + u * (b - a) + v * (c - a)


def _longest_edges(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    corners = vertices[triangles]
    return np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(axis=1)
