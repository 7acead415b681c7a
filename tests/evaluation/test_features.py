"""Features on a plane, and the two numbers that go with the picture, against slow loops."""

import numpy as np
import pytest

from drfer.evaluation.features import neighbour_purity, silhouette, tsne


@pytest.fixture
def clusters():
    """Six clusters that overlap, 12 scans each."""
    generator = np.random.default_rng(0)
    labels = np.tile(np.arange(6), 12)
    centres = 2 * generator.normal(size=(6, 8))
    return (centres[labels] + generator.normal(size=(72, 8))).astype(np.float32), labels


def test_the_silhouette_is_that_of_the_loops(clusters):
    features, labels = clusters
    values = []
    for i, feature in enumerate(features):
        distance = np.linalg.norm(features - feature, axis=1)
        own = (labels == labels[i]) & (np.arange(72) != i)
        within = distance[own].mean()
        nearest = min(distance[labels == other].mean() for other in set(labels) - {labels[i]})
        values.append((nearest - within) / max(nearest, within))
    assert silhouette(features, labels) == pytest.approx(np.mean(values), abs=1e-4)


@pytest.mark.parametrize("neighbours", [1, 5])
def test_the_purity_is_that_of_the_loops(clusters, neighbours):
    features, labels = clusters
    shares = []
    for i, feature in enumerate(features):
        nearest = np.argsort(np.linalg.norm(features - feature, axis=1))[1 : neighbours + 1]
        shares.append(np.mean(labels[nearest] == labels[i]))
    found = neighbour_purity(features, labels, neighbours)
    assert found == pytest.approx(np.mean(shares), abs=1e-6)
    assert 0.3 < found < 1, "the clusters overlap"


def test_tsne_keeps_clusters_together_and_its_seed_decides(clusters):
    features, labels = clusters
    plane = tsne(features, seed=3)
    assert plane.shape == (72, 2)
    assert np.isfinite(plane).all()
    assert neighbour_purity(plane, labels) > neighbour_purity(features, labels) - 0.1
    assert np.array_equal(plane, tsne(features, seed=3))


def test_tsne_of_few_scans_is_possible():
    """The perplexity, 30, needs more scans than a small fold has."""
    assert tsne(np.random.default_rng(0).normal(size=(12, 4))).shape == (12, 2)
