"""What a linear probe finds of expression and subject in features, and in the vertices themselves.

Built in notebook 09.
"""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from drfer.datasets.scan import NEUTRAL
from drfer.evaluation.truth import activations_of
from drfer.preprocessing.faceset import FaceSet
from drfer.training.data import FoldData

REGULARISATION = 1.0
"""C of every probe, scikit-learn's default; it was never tuned."""
MOST_FOLDS = 10
"""Into so many parts at most are subjects or expressions cut, of which one after the other is left
out: sixty subjects, one by one, would take half an hour."""


def leakage(
    features: np.ndarray, labels: np.ndarray, subjects: np.ndarray
) -> dict[str, dict[str, float]]:
    """Return how well linear probes find expression and subject in features, in percent.

    The probes are logistic regressions on standardised features. Whole groups are left out for the
    test: subjects where the expression is asked for, and expressions where the subject is. So
    neither probe can know a scan by the other.

    Args:
        features: shape (n, d).
        labels: expression of each scan, shape (n,).
        subjects: subject of each scan, shape (n,).

    Returns:
        For "expression" and "subject" the "accuracy" and the "chance".
    """
    return {
        "expression": _probe(features, labels, subjects),
        "subject": _probe(features, subjects, labels),
    }


def zero_points(data: FoldData, faces: FaceSet) -> dict[str, np.ndarray]:
    """Return what features of the test scans are to be held against, as leakage goes.

    "registered vertices" are those that at least half of the training scans have: nothing is taken
    out. "vertices less own neutral" are how far they lie from those of the subject's neutral scan,
    which takes out the shape of the person, but puts the noise of that one scan into all others: a
    probe knows the person by it. What a scan lacks is filled with the mean over the training scans.
    "true activations", of a dataset that knows them, are what a feature of expression alone holds.

    Args:
        data: the fold's scans.
        faces: the faces that they are from.

    Returns:
        By name, shape (test scans, 3 * vertices), or (test scans, 52) of activations.
    """
    own = own_neutral(faces)
    most = (~faces.missing[data.train]).mean(axis=0) >= 0.5
    vertices, missing = faces.vertices[:, most], faces.missing[:, most]
    moved, lacking = vertices - vertices[own], missing | missing[own]
    found = {
        "registered vertices": _filled(vertices, missing, data),
        "vertices less own neutral": _filled(moved, lacking, data),
    }
    if hasattr(faces.dataset, "truth"):
        found["true activations"] = activations_of(faces, data.test)
    return found


def own_neutral(faces: FaceSet) -> np.ndarray:
    """Return for each scan the neutral one of its subject, as indices of scans, shape (n,)."""
    neutral = {
        key.subject: scan for scan, key in enumerate(faces.keys) if key.expression == NEUTRAL
    }
    return np.array([neutral[key.subject] for key in faces.keys])


def _probe(features: np.ndarray, classes: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    # all principal components lose nothing, and are as few as the scans
    parts = StandardScaler(), PCA(), LogisticRegression(C=REGULARISATION, max_iter=5000)
    predicted = cross_val_predict(
        make_pipeline(*parts),
        features.astype(np.float64),
        classes,
        groups=groups,
        cv=GroupKFold(min(MOST_FOLDS, len(np.unique(groups)))),
    )
    accuracy = 100 * float(np.mean(predicted == classes))
    return {"accuracy": accuracy, "chance": 100 / len(np.unique(classes))}


def _filled(values: np.ndarray, missing: np.ndarray, data: FoldData) -> np.ndarray:
    """Fill what test scans lack with the mean over the training scans; one row for each scan."""
    there = ~missing[data.train, :, None]
    mean = (values[data.train] * there).sum(axis=0) / np.maximum(there.sum(axis=0), 1)
    filled = np.where(missing[data.test, :, None], mean, values[data.test])
    return filled.reshape(len(filled), -1)
