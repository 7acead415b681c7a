"""What the exercises of notebook 06 are checked by."""

from __future__ import annotations

import numpy as np

from drfer.course.checks import NOT_DONE, Exercise


def _folds_by_person(answer) -> str | None:
    chance = np.random.default_rng(61)
    for people, count in ((13, 4), (30, 10), (8, 8)):
        scans = chance.integers(1, 15, size=people)
        person = chance.permutation(np.repeat([f"P{number:02}" for number in range(people)], scans))
        fold = answer(person.copy(), count)
        if fold is None:
            return NOT_DONE
        fold = np.asarray(fold)
        if fold.shape != person.shape:
            return f"one fold for each of {len(person)} scans is wanted, not {fold.shape}."
        if set(fold.tolist()) != set(range(count)):
            return f"the folds have to be 0 to {count - 1}, none of them empty."
        twice = [name for name in np.unique(person) if len(set(fold[person == name].tolist())) > 1]
        if twice:
            return f"{len(twice)} of {people} people are in more than one fold."
        sizes = np.bincount(fold, minlength=count)
        if np.ptp(sizes) > scans.max():
            return (
                f"the largest fold has {np.ptp(sizes)} scans more than the smallest, "
                f"and nobody has more than {scans.max()}."
            )
    return None


def _worthless(answer) -> str | None:
    scores: dict[tuple[str, str], list[float]] = {}
    for seed in (63, 64, 65, 66):
        made = answer(np.random.default_rng(seed))
        if made is None:
            return NOT_DONE
        numbers, labels, person = map(np.asarray, made)
        if numbers.ndim != 2 or not len(numbers) == len(labels) == len(person):
            return "numbers (n, d), labels (n,) and person (n,) are wanted."
        if len(numbers) < 120 or len(np.unique(person)) < 10:
            return "at least 120 scans of at least 10 people are wanted."
        if not set(np.unique(labels).tolist()) <= set(range(6)):
            return "labels have to be whole numbers from 0 to 5."
        numbers = numbers.astype(float).reshape(len(numbers), -1)
        chance = np.random.default_rng(seed + 100)
        scan_parts = np.array_split(chance.permutation(len(numbers)), 5)
        person_parts = np.array_split(chance.permutation(np.unique(person)), 5)
        splits = {
            "person": [np.isin(person, part) for part in person_parts],
            "scan": [np.isin(np.arange(len(numbers)), part) for part in scan_parts],
        }
        for split, parts in splits.items():
            for name, classify in (("ridge regression", _ridge), ("nearest neighbour", _nearest)):
                right = [
                    classify(numbers[~test], labels[~test], numbers[test]) == labels[test]
                    for test in parts
                ]
                scores.setdefault((split, name), []).append(100 * np.concatenate(right).mean())
    for (split, name), values in scores.items():
        mean = np.mean(values)
        if split == "person" and mean >= 30:
            return f"split by person, {name} learns something: {mean:.0f} % right."
        if split == "scan" and mean <= 60:
            return f"split by scan, {name} has only {mean:.0f} % right."
    return None


def _ridge(known: np.ndarray, labels: np.ndarray, new: np.ndarray) -> np.ndarray:
    middle, target = known.mean(axis=0), np.where(labels[:, None] == np.arange(6), 1.0, -1.0)
    known = known - middle
    alpha = 1e-3 * max(np.square(known).sum(axis=1).mean(), 1e-12)
    solved = np.linalg.solve(known @ known.T + alpha * np.eye(len(known)), target - target.mean(0))
    return ((new - middle) @ known.T @ solved + target.mean(axis=0)).argmax(axis=1)


def _nearest(known: np.ndarray, labels: np.ndarray, new: np.ndarray) -> np.ndarray:
    distance = np.square(known).sum(axis=1) - 2 * new @ known.T
    return labels[distance.argmin(axis=1)]


def _luck(seeds: int, between: float, noise: float) -> float:
    chance = np.random.default_rng(7)
    true = between * chance.normal(size=(200_000, seeds))
    luck = noise * chance.normal(size=true.shape)
    return float(luck[np.arange(len(true)), (true + luck).argmax(axis=1)].mean())


EXERCISES = {
    1: Exercise(
        lambda deviation, count: 1.96 * deviation / np.sqrt(count - 1),
        on=lambda: [(3.1, 10), (5.7, 5), (2.2, 20)],
        tolerance=0.01,
        hint="1/J goes to zero, the share of test to training scans does not.",
    ),
    2: Exercise(judge=_folds_by_person, hint="give whole people to the fold that has the fewest."),
    3: Exercise(
        judge=_worthless, hint="labels at random, but the same for scans that lie close together."
    ),
    4: Exercise(
        _luck,
        on=lambda: [(5, 1.0, 2.0), (20, 0.5, 1.5), (3, 2.0, 2.0)],
        tolerance=0.05,
        hint="choose by the noisy numbers; then compare what is reported with what is true.",
    ),
}
