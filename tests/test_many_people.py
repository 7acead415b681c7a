"""The people that the kit's own models have met: wider populations, with and without eyes, and warped."""

from types import SimpleNamespace

import numpy as np
import pytest

from drfer.common.errors import ScanFormatError
from drfer.datasets.anny3dfe import database
from drfer.datasets.anny3dfe.head import load, load_people
from drfer.datasets.anny3dfe.identity import draw_identity
from drfer.datasets.scan import EXPRESSIONS, NEUTRAL, ScanKey
from tools import many_people, unseen_people
from tools.many_people import APART, TRAINING, UNSEEN, Population, Warped, build_of, wide

pytestmark = pytest.mark.usefixtures("one_thread")
EYELESS, WITH_EYES = 2001, 2002


@pytest.fixture
def two_people(cache, monkeypatch):
    """Populations of two people each, whose heads ship with the kit."""
    people = load_people(0)
    monkeypatch.setattr(many_people, "PEOPLE", 2)
    monkeypatch.setattr(
        database, "_heads", lambda names, *_: [(load(), {name: people[name] for name in names})]
    )


def test_dials_are_each_populations_own_and_always_the_same():
    dials = [wide(seed) for seed in (*TRAINING, *APART, *UNSEEN)]
    assert dials == [wide(seed) for seed in (*TRAINING, *APART, *UNSEEN)]
    assert len({each.scanner.noise for each in dials}) == len(dials)
    spreads = [each.identity.spread for each in dials]
    assert min(spreads) < database.Identity().spread < max(spreads), "wider than the benchmark's"


def test_nobody_is_in_two_of_the_three_parts():
    assert not set(TRAINING) & set(APART) and not set(UNSEEN) & {*TRAINING, *APART}


def test_a_population_has_each_expression_once_and_names_of_its_own(two_people):
    for seed in (EYELESS, WITH_EYES):
        population = Population(seed)
        assert [key.expression for key in population.keys()] == 2 * [NEUTRAL, *EXPRESSIONS]
        assert {key.subject for key in population.keys()} == {f"{seed}-F0001", f"{seed}-M0001"}
    assert Population(EYELESS).hash != Population(WITH_EYES).hash != Warped(WITH_EYES).hash


def test_scans_without_eyes_have_holes_there(two_people, monkeypatch):
    population = Population(EYELESS)
    key = population.keys()[0]
    without = population.load(key)
    monkeypatch.setattr(many_people, "has_eyes", lambda seed: True)
    whole = population.load(key)
    assert 0 < len(whole.points) - len(without.points) < 0.1 * len(whole.points)
    assert len(np.unique(without.triangles)) == len(without.points), "no point is left over"


def test_a_wave_moves_each_point_by_no_more_than_its_height(two_people):
    key = Population(WITH_EYES).keys()[3]
    plain, warped = Population(WITH_EYES).load(key), Warped(WITH_EYES).load(key)
    moved = np.linalg.norm(warped.points - plain.points, axis=1)
    assert 1.5 < moved.max() <= many_people.WAVE[0] + 1e-3
    again = Warped(WITH_EYES).load(key).points
    assert np.array_equal(again, warped.points)


def test_what_is_refused_is_left_out_and_without_neutral_the_whole_person(two_people, monkeypatch):
    population = Population(WITH_EYES)
    keys = population.keys()[:7]
    refused = {keys[2]}

    def preprocess_scan(scan, settings):
        if scan.key in refused:
            raise ScanFormatError("no face")
        return {"cloud": scan.points[:3]}

    monkeypatch.setattr(many_people, "preprocess_scan", preprocess_scan)
    kept = many_people._preprocess_person(keys, population, many_people.NARROW)
    assert [str(row["key"]) for row in kept] == [str(key) for key in keys if key != keys[2]]
    refused.add(keys[0])
    assert many_people._preprocess_person(keys, population, many_people.NARROW) == []


def test_two_populations_are_one_set_of_faces(two_people):
    faces = many_people.many_people(range(2001, 2003), many_people.NARROW)
    assert faces.subjects == ["2001-F0001", "2001-M0001", "2002-F0001", "2002-M0001"]
    assert len(faces.clouds) == len(faces.keys) == len(faces) and len(faces) > 24
    assert faces.hash != many_people.many_people(range(2002, 2003), many_people.NARROW).hash


def test_a_persons_build_is_the_one_that_was_drawn():
    rng = database._generator(WITH_EYES, "F0001", 0)
    drawn, _ = draw_identity(rng, True, ["nose-x", "l-eye-x"], wide(WITH_EYES).identity)
    assert build_of(f"{WITH_EYES}-F0001") == drawn
    assert build_of("100-M0001") != build_of("101-M0001")


def test_what_a_card_says_of_answers_follows_from_them():
    labels = np.array([*range(7), 3])
    answers = np.eye(7)[[*range(7), 2]] * 0.93 + 0.01
    said = unseen_people.measured(answers, labels)
    assert said["scans"] == 8 and said["right, %"] == 87.5
    assert said["right by class, %"] == dict.fromkeys((*EXPRESSIONS, NEUTRAL), 100) | {
        "happiness": 50
    }
    assert said["expected calibration error, %"] == pytest.approx(94 - 87.5)


def test_everyone_is_in_one_group_of_each_kind():
    people = [f"2201-{sex}{number:04d}" for sex in "FM" for number in range(1, 16)]
    faces = SimpleNamespace(keys=[ScanKey(person, "fear", 3) for person in people])
    groups = unseen_people.groups_of(faces)
    assert all(len(group) == len(people) for group in groups.values())
    assert (groups["sex"] == "women").sum() == 15
    for dial in unseen_people.THIRDS:
        values = np.array([build_of(person)[dial] for person in people])
        third, most = (unseen_people.THIRDS[dial][end] for end in (0, 2))
        assert values[groups[dial] == third].max() < values[groups[dial] == most].min()
        assert (groups[dial] == third).sum() == 10
