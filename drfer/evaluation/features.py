"""Features on a plane, and two numbers that say what the picture only suggests."""

from __future__ import annotations

import numpy as np
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits


def tsne(features: np.ndarray, seed: int = 0) -> np.ndarray:
    """t-SNE of features (n, d) to (n, 2) (van der Maaten & Hinton 2008)."""
    perplexity = min(30.0, (len(features) - 1) / 3)
    with threadpool_limits(
        1
    ):  # several threads add up in any order, and the last digit moves the whole picture
        return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(features)


def silhouette(features: np.ndarray, labels: np.ndarray) -> float:
    """Mean silhouette of classes in feature space (n, d), in [-1, 1]; higher: denser, better separated classes."""
    return float(silhouette_score(features, labels))


def neighbour_purity(features: np.ndarray, labels: np.ndarray, neighbours: int = 5) -> float:
    """Mean share of a scan's nearest neighbours in feature space that show its expression, in [0, 1]."""
    index = NearestNeighbors(n_neighbors=neighbours).fit(features).kneighbors(return_distance=False)
    return float((labels[index] == labels[:, None]).mean())
