"""Features on a plane, and two numbers that say what the picture only suggests.

Built in notebook 09.
"""

from __future__ import annotations

import numpy as np
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits


def tsne(features: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return the t-SNE of features (van der Maaten and Hinton 2008).

    Args:
        features: shape (n, d).
        seed: of the embedding.

    Returns:
        A plane without unit, shape (n, 2).
    """
    perplexity = min(30.0, (len(features) - 1) / 3)
    with threadpool_limits(1):  # threads add up in any order, and the last digit moves the picture
        return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(features)


def silhouette(features: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean silhouette of the classes in feature space, from -1 to 1.

    The higher it is, the denser and better separated the classes are.

    Args:
        features: shape (n, d).
        labels: shape (n,).
    """
    return float(silhouette_score(features, labels))


def neighbour_purity(features: np.ndarray, labels: np.ndarray, neighbours: int = 5) -> float:
    """Return the mean share of a scan's nearest neighbours that show its expression, from 0 to 1.

    Args:
        features: shape (n, d).
        labels: shape (n,).
        neighbours: how many of the nearest scans are looked at.
    """
    index = NearestNeighbors(n_neighbors=neighbours).fit(features).kneighbors(return_distance=False)
    return float((labels[index] == labels[:, None]).mean())
