"""Leakage: of features that hold all or nothing, and of what features are held against."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from random_faces import fold_data, random_faces
from sklearn.linear_model import LogisticRegression

from drfer.datasets.scan import NEUTRAL
from drfer.evaluation.leakage import REGULARISATION, leakage, own_neutral, zero_points

ORDER = np.random.default_rng(0).permutation(72) // 2
"""Scans of six subjects, six expressions and two intensities, in any order."""
NUMBERS, LABELS = ORDER // 6, ORDER % 6
SUBJECTS = np.array([f"F000{number}" for number in NUMBERS])
OF_SUBJECT, OF_EXPRESSION = np.eye(6)[NUMBERS], np.eye(6)[LABELS]


@pytest.mark.parametrize(
    "features, expression, subject",
    [
        (OF_SUBJECT, 100 / 6, 100),
        (OF_EXPRESSION, 100, 100 / 6),
        (np.hstack([OF_SUBJECT, OF_EXPRESSION]), 100, 100),
        # what only the same face at another intensity could tell is not asked for
        (np.eye(36)[ORDER], 100 / 6, 100 / 6),
    ],
)
def test_leakage_of_features_that_hold_all_or_nothing(features, expression, subject):
    found = leakage(features, LABELS, SUBJECTS)
    # among equally good answers, rounding decides
    assert found["expression"]["accuracy"] == pytest.approx(expression, abs=3)
    assert found["subject"]["accuracy"] == pytest.approx(subject, abs=3)
    assert found["expression"]["chance"] == found["subject"]["chance"] == pytest.approx(100 / 6)


def test_random_features_leak_chance():
    generator = np.random.default_rng(0)
    found = [leakage(generator.normal(size=(72, 40)), LABELS, SUBJECTS) for _ in range(20)]
    for what in ("expression", "subject"):
        assert np.mean([each[what]["accuracy"] for each in found]) == pytest.approx(100 / 6, abs=3)


def test_the_probe_is_logistic_regression_of_all_standardised_numbers():
    """Though there are more numbers than scans, and it is fitted on principal components."""
    features = np.random.default_rng(3).normal(size=(72, 90))
    features[:, :6] += 3 * OF_SUBJECT
    features[:, 6:12] += OF_EXPRESSION
    right = []
    for group in range(6):
        test = LABELS == group
        z = (features - features[~test].mean(axis=0)) / features[~test].std(axis=0)
        probe = LogisticRegression(C=REGULARISATION, max_iter=5000).fit(z[~test], SUBJECTS[~test])
        right += (probe.predict(z[test]) == SUBJECTS[test]).tolist()
    found = leakage(features, LABELS, SUBJECTS)["subject"]["accuracy"]
    assert 30 < found < 90
    assert found == pytest.approx(100 * np.mean(right), abs=100 / 72)


def test_the_scale_of_a_feature_does_not_matter():
    features = np.random.default_rng(0).normal(size=(72, 8)) + OF_EXPRESSION @ np.ones((6, 8))
    features[:, :6] += 3 * OF_SUBJECT
    assert leakage(features, LABELS, SUBJECTS) == leakage(features * 1000 + 5, LABELS, SUBJECTS)


def test_own_neutral_is_the_subjects_neutral_scan():
    faces = random_faces()
    for key, scan in zip(faces.keys, own_neutral(faces)):
        assert faces.keys[scan].subject == key.subject
        assert faces.keys[scan].expression == NEUTRAL


def test_zero_points_are_those_of_the_loops():
    faces = random_faces()
    data, vertices, missing = fold_data(faces), faces.vertices, faces.missing
    neutral = {
        key.subject: scan for scan, key in enumerate(faces.keys) if key.expression == NEUTRAL
    }
    own = [neutral[key.subject] for key in faces.keys]
    kept = [v for v in range(80) if sum(not missing[scan, v] for scan in data.train) >= 18]
    assert 60 < len(kept) < 80 and len(data.train) == 36
    plain, less = [], []
    for scan in data.test:
        for v in kept:
            of = [vertices[t, v] for t in data.train if not missing[t, v]]
            plain.append(np.mean(of, axis=0) if missing[scan, v] else vertices[scan, v])
            of = [
                vertices[t, v] - vertices[own[t], v]
                for t in data.train
                if not missing[t, v] and not missing[own[t], v]
            ]
            gone = missing[scan, v] or missing[own[scan], v]
            mean = np.mean(of, axis=0) if of else np.zeros(3)
            less.append(mean if gone else vertices[scan, v] - vertices[own[scan], v])
    found = zero_points(data, faces)
    assert found.keys() == {"registered vertices", "vertices less own neutral"}
    for rows, expected in zip(found.values(), (plain, less)):
        assert np.allclose(rows, np.reshape(expected, (len(data.test), -1)), atol=1e-6)


def test_true_activations_are_a_zero_point_where_they_are_known():
    faces, asked = random_faces(), []

    def truth(key):
        asked.append(key)
        return SimpleNamespace(activation=np.full(52, len(asked)))

    faces = replace(faces, dataset=SimpleNamespace(truth=truth))
    data = fold_data(faces)
    found = zero_points(data, faces)["true activations"]
    assert asked == [faces.keys[scan] for scan in data.test]
    assert found[:, 0].tolist() == list(range(1, len(data.test) + 1))
