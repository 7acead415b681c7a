"""What the exercises of notebook 09 are checked by."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.cluster import KMeans
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from threadpoolctl import threadpool_limits

from drfer.course.checks import NOT_DONE, Exercise
from drfer.evaluation.leakage import leakage

WANTED_GROUPS = 0.53
"""Silhouette that noise has to reach on the planes of exercise 3, on average."""
NOISES = 8
"""How many noises that is the average of: one more or less neat is chance."""
KNOWN = 24
"""People whom the eraser of exercise 4 may look at; it is tested on eight others."""
CHANCE, MOST_LEFT = 12.5, 60.0
"""Percent of those eight that a guess finds, and that a probe may still find."""


def _purity(scans: int, classes: int) -> float:
    of_class = scans // classes
    return (of_class - 1) / (scans - 1)


def _share(features: np.ndarray, groups: np.ndarray) -> float:
    centred = features - features.mean(axis=0)
    between = 0.0
    for group in np.unique(groups):
        own = centred[groups == group]
        between += len(own) * (own.mean(axis=0) ** 2).sum()
    return between / (centred**2).sum()


def _features() -> list[tuple[np.ndarray, np.ndarray]]:
    generator = np.random.default_rng()
    middles = generator.normal(size=(5, 7))
    groups = generator.permutation(np.repeat([0, 1, 2, 3, 4], [4, 6, 8, 3, 9]))
    names = np.array([f"person {group}" for group in groups])
    return [(middles[groups] + generator.normal(size=(30, 7)) + 3, names)]


def _judge_lie(answer) -> str | None:
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        return "a pair is wanted: (perplexity, seed)."
    perplexity, seed = float(answer[0]), int(answer[1])
    if not 0 < perplexity < 100:
        return "the perplexity has to lie between 0 and 100."
    # always the same noises: an answer is right in every try or in none
    noises = np.random.default_rng(93).normal(size=(NOISES, 100, 64))
    groups = np.mean([_grouped(noise, perplexity, seed) for noise in noises])
    if groups < WANTED_GROUPS:
        return (
            f"noise hardly falls into groups: silhouette {groups:.2f} on average, "
            f"and {WANTED_GROUPS} are wanted."
        )
    return None


def _grouped(noise: np.ndarray, perplexity: float, seed: int) -> float:
    """The silhouette of the best clustering of a map."""
    with threadpool_limits(1):
        settings = TSNE(perplexity=perplexity, init="random", random_state=seed, max_iter=500)
        plane = settings.fit_transform(noise)
        return max(
            silhouette_score(plane, KMeans(count, n_init=2, random_state=0).fit_predict(plane))
            for count in (9, 12, 16, 20, 25)
        )


def _people(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, expressions and people, of whom each adds the same to all of its scans."""
    axes = np.linalg.qr(generator.normal(size=(40, 40)))[0]
    of_people = 3 * generator.normal(size=(KNOWN + 8, 6)) @ axes[:6]
    of_expressions = 2 * generator.normal(size=(6, 5)) @ axes[6:11]
    person, scan = np.divmod(np.arange(12 * (KNOWN + 8)), 12)
    expression = scan // 2
    noise = 0.4 * generator.normal(size=(len(person), 40))
    return of_people[person] + of_expressions[expression] + noise, expression, person


def _judge_eraser(function) -> str | None:
    features, expression, person = _people(np.random.default_rng())
    known = person < KNOWN
    eraser = function(features[known].copy(), person[known].copy())
    if eraser is None:
        return NOT_DONE
    eraser = np.asarray(eraser, dtype=np.float64)
    if eraser.shape != (40, 40):
        return f"a matrix (d, d) is wanted, here (40, 40), not {eraser.shape}."
    others = features[~known], expression[~known], person[~known]
    before = leakage(*others)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # features of which nothing is left
        after = leakage(others[0] @ eraser, *others[1:])
    if after["expression"]["accuracy"] < before["expression"]["accuracy"] - 8:
        return (
            f"the expression is lost with it: a probe finds {after['expression']['accuracy']:.0f} % "
            f"of them on eight other people, and {before['expression']['accuracy']:.0f} % before."
        )
    if after["subject"]["accuracy"] > MOST_LEFT:
        return (
            f"a probe still finds {after['subject']['accuracy']:.0f} % of eight other people "
            f"({before['subject']['accuracy']:.0f} % before, a guess {CHANCE} %)."
        )
    return None


EXERCISES = {
    1: Exercise(
        right=_purity,
        on=lambda: [(36, 6), (144, 6), (144, 12)],
        hint="a scan is not its own neighbour: how many others are there, how many of its class?",
    ),
    2: Exercise(
        right=_share,
        on=_features,
        hint="one group after the other; the square of a norm is a sum of squares",
    ),
    3: Exercise(judge=_judge_lie, hint="what does a small perplexity do?"),
    4: Exercise(judge=_judge_eraser, hint="people differ along few directions: find those"),
}
