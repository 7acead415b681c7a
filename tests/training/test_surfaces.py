"""Surfaces of scans: what is drawn of them lies on them, evenly, and nowhere else."""

import numpy as np
import pytest
import torch

from drfer.preprocessing import template
from drfer.training.surfaces import MOST_STRETCH, Surfaces

COUNT = 700


def scans(number=3, seed=0):
    """The template's first vertices, a little different on each scan."""
    generator = np.random.default_rng(seed)
    face = template.load().vertices[:COUNT] / 120
    return (face + generator.normal(scale=0.002, size=(number, COUNT, 3))).astype(np.float32)


def drawn(surfaces, members, points=300, seed=0):
    return surfaces.sample(torch.tensor(members), points, torch.Generator().manual_seed(seed))


def distance_to_triangles(points, vertices, triangles):
    """Distance of each point from the nearest plane of a triangle that it lies above."""
    a, b, c = vertices[triangles].unbind(dim=1)
    normal = torch.linalg.cross(b - a, c - a)
    height = ((points[:, None] - a) * normal).sum(-1) / normal.norm(dim=-1)
    foot = points[:, None] - height[..., None] * normal / normal.norm(dim=-1, keepdim=True)
    total = normal.norm(dim=-1)
    parts = [
        torch.linalg.cross(q - foot, r - foot).norm(dim=-1) for q, r in ((a, b), (b, c), (c, a))
    ]
    inside = sum(parts) < total * 1.001
    return torch.where(inside, height.abs(), torch.inf).min(dim=1).values


def test_all_that_is_drawn_lies_on_the_triangles_that_a_scan_has():
    missing = np.random.default_rng(1).random((3, COUNT)) < 0.1
    surfaces = Surfaces(scans(), missing)
    points = drawn(surfaces, [2, 0]).double()
    for sample, member in zip(points, (2, 0)):
        has = ~missing[member][surfaces.triangles.numpy()].any(axis=1)
        triangles = surfaces.triangles[torch.from_numpy(has)]
        assert surfaces.counts[member] == len(triangles) < len(surfaces.triangles)
        vertices = surfaces.vertices[member].double()
        assert distance_to_triangles(sample, vertices, triangles).max() < 1e-6


def test_no_point_lies_across_a_gap():
    apart = scans(5)
    gap = apart[0, :, 1] < -0.3  # the chin of one scan falls down, as in an open mouth
    apart[0, gap, 1] -= 0.3
    points = drawn(Surfaces(apart, np.zeros((5, COUNT), bool)), [0, 1], 2000)
    between = (points[..., 1] > -0.55) & (points[..., 1] < -0.35)
    assert between[0].sum() == 0 < between[1].sum()
    assert MOST_STRETCH > 1


def test_samples_are_even():
    """Nearly as far from each other as an equal number of random points could never be."""
    surfaces = Surfaces(scans(1), np.zeros((1, COUNT), bool))
    sample = drawn(surfaces, [0], 600)[0]
    # each vertex has a share of the surface; how many of the points fall into it hardly varies
    near = torch.cdist(sample, surfaces.vertices[0, :40]).argmin(dim=1)
    counts = torch.bincount(near, minlength=40).double()
    areas = torch.stack(
        [
            torch.bincount(
                torch.cdist(drawn(surfaces, [0], 600, seed)[0], surfaces.vertices[0, :40]).argmin(
                    1
                ),
                minlength=40,
            )
            for seed in range(1, 30)
        ]
    ).double()
    assert ((counts - areas.mean(dim=0)) / areas.mean(dim=0).sqrt()).std() < 0.8
    assert (areas.var(dim=0) / areas.mean(dim=0)).mean() < 0.6, "1 for independent points"


def test_the_generator_alone_decides_what_is_drawn():
    surfaces = Surfaces(scans(), np.zeros((3, COUNT), bool))
    first, again, other = (drawn(surfaces, [0, 1, 1], seed=seed) for seed in (0, 0, 1))
    assert first.equal(again)
    assert not first.isclose(other).any()
    assert not first[1].isclose(first[2]).any(), "each time that a scan is asked for, other points"


@pytest.mark.parametrize("count", [100, 4096])
def test_the_templates_first_vertices_are_joined_to_an_even_mesh(count):
    common = template.load()
    triangles = common.coarse_triangles(count)
    assert len(np.unique(np.sort(triangles, axis=1), axis=0)) == len(triangles)
    assert len(set(triangles.flat)) > 0.95 * count, "all but some on the border"
    assert 1.5 * count < len(triangles) < 2.1 * count
    middles = common.vertices[triangles].mean(axis=1)
    steps = np.linalg.norm(np.diff(middles, axis=0), axis=1)
    spread = np.linalg.norm(middles - middles.mean(axis=0), axis=1).mean()
    assert np.median(steps) < 3 * spread / np.sqrt(count), "near triangles follow each other"
