"""Registration against the pose that the open faces know, whatever damage they have."""

from dataclasses import fields, replace

import numpy as np
import other_faces
import pytest
from damage import case, damaged, pose_error, registered_case
from other_faces import BENDS, KINDS, best_rigid_fit, between_expressions, joined

from drfer.preprocessing import registration as module
from drfer.preprocessing.registration import (
    FreeModes,
    Registration,
    RegistrationSettings,
    register,
)
from drfer.preprocessing.resampling import OTHER_FACES


def test_registration_finds_the_true_pose(database):
    keys = [key for key in database.keys() if key.intensity in (0, 3, 4)]
    angles, shifts = np.transpose(
        [pose_error(register(database.load(k)).pose @ database.truth(k).pose) for k in keys]
    )
    assert np.median(angles) < 0.5 and np.median(shifts) < 1.0
    assert np.mean((angles < 2) & (shifts < 3)) >= 0.99


def test_damaged_faces_register_from_any_pose_up_to_30_degrees_and_200_mm(database):
    """Spikes, hair, collar, a missing cheek; what fails must be doubtful.

    `tests/registration_cases.py` draws more.
    """
    outcomes = [registered_case(database, number, seed=1) for number in range(40)]
    good = np.array([angle < 2 and shift < 3 for _, angle, shift in outcomes])
    doubtful = np.array([registration.is_doubtful() for registration, _, _ in outcomes])
    assert good.mean() >= 0.95 and (good | doubtful).all()


def test_coarse_meshes_are_paired_with_their_surface(database):
    """A few thousand triangles: neither doubtful nor less exact."""
    for key in database.keys()[::31]:
        scan = database.load(key)
        points, triangles = joined(scan.points, scan.triangles, cell=5.0)
        coarse = replace(
            scan, points=points.astype(np.float32), triangles=triangles.astype(np.int32)
        )
        assert len(np.unique(coarse.triangles)) < 2500
        found = register(coarse)
        angle, shift = pose_error(found.pose @ database.truth(key).pose)
        assert angle < 2.5 and shift < 3 and not found.is_doubtful()
        corners_alone = register(coarse, RegistrationSettings(coarsest=np.inf))
        assert found.residual < 0.8 * corners_alone.residual


def test_faces_that_the_modes_do_not_know_register_with_free_modes(database):
    """Bent by up to 4 or 6 mm; `tests/other_faces.py` draws more, and other kinds."""
    plain = RegistrationSettings()
    strong = [kind for kind, (height, _) in BENDS.items() if height > 2]
    numbers = [n for n in range(4 * len(KINDS)) if KINDS[n % len(KINDS)] in strong]
    with_free, without = (
        np.array([other_faces.registered_case(number, database, how) for number in numbers])
        for how in (OTHER_FACES.registration, plain)
    )
    good, fewer = ((each <= [2, 3]).all(axis=1).mean() for each in (with_free, without))
    assert good >= 0.85 and good >= fewer + 0.1
    for settings in (OTHER_FACES.registration, plain):
        turns = [between_expressions(one, database, None, settings) for one in database.subjects]
        assert np.mean(np.concatenate(turns) <= 1) >= 0.9


def test_free_modes_neither_turn_nor_shift_and_are_of_the_process():
    free = FreeModes()
    mean, modes, _ = module._free_model(free)
    own = module._model()[1]
    np.testing.assert_array_equal(modes[..., : own.shape[2]], own)
    moved = modes[..., own.shape[2] :]
    assert moved.shape[2] == 3 * free.count
    rng = np.random.default_rng(0)
    for _ in range(5):
        bent = mean + moved @ rng.normal(size=moved.shape[2])
        pose = best_rigid_fit(bent, mean)
        assert (
            pose_error(pose)[0] < 0.05
            and np.abs(bent.mean(axis=0) - mean.mean(axis=0)).max() < 1e-9
        )
    # all modes of the kernel make its covariance: half of it lies in the first ones
    deviation = np.sqrt((moved**2).sum(axis=2)).mean()
    assert 0.7 * free.deviation < deviation < free.deviation


def test_free_modes_are_for_faces_that_need_them(database):
    scan = database.load(database.keys()[4])
    plain = register(scan)
    for kept in (FreeModes(least=np.inf), FreeModes(smallest_share=1.0)):
        found = register(scan, RegistrationSettings(free=kept))
        assert found.pose.tolist() == plain.pose.tolist() and found.cost == plain.cost
    found = register(scan, RegistrationSettings(free=FreeModes(least=0.0)))
    assert found.pose.tolist() != plain.pose.tolist() and found.cost == plain.cost


FREE_SETTINGS = {"length": 60.0, "deviation": 2.0, "count": 5, "reach": (3.0,)}


@pytest.mark.parametrize("name", FREE_SETTINGS)
def test_every_setting_of_free_modes_is_used(database, name):
    scan = database.load(database.keys()[4])
    free = FreeModes(least=0.0)
    usual = register(scan, RegistrationSettings(free=free))
    other = register(scan, RegistrationSettings(free=replace(free, **{name: FREE_SETTINGS[name]})))
    assert usual.pose.tolist() != other.pose.tolist()


def test_damage_is_what_it_says(database):
    key = database.keys()[0]
    truth = database.truth(key).pose
    scan = database.load(key)
    points = (scan.points - truth[:3, 3]) @ truth[:3, :3]
    rng = np.random.default_rng(0)
    for name, low, high in (("hair", 30, 125), ("collar", -150, -70)):
        more, _ = damaged(rng, points, scan.triangles, (name,))
        assert (more[:, 1] > low).sum() - (more[:, 1] > high).sum() > (points[:, 1] > low).sum() - (
            points[:, 1] > high
        ).sum() + 500
    less, _ = damaged(rng, points, scan.triangles, ("cheek",))
    assert 0.1 < 1 - len(less) / len(points) < 0.35
    thrown, _ = damaged(rng, points, scan.triangles, ("spikes",))
    assert 0.005 < (np.linalg.norm(thrown - points, axis=1) > 9).mean() <= 0.01
    assert [case(number)[0] for number in range(4)] == [0, 10, 20, 30]


def registration(residual=0.5, strain=0.5, share=1.0):
    return Registration(np.eye(4), residual, strain, share, 1.0)


@pytest.mark.parametrize(
    "found, doubtful, refused",
    [
        (registration(), False, False),
        (registration(residual=1.6), True, False),
        (registration(strain=2.0), True, False),
        (registration(share=0.4), True, False),
        (registration(strain=2.7), True, True),
        (registration(residual=1.8, share=0.5), True, True),
        (registration(float("inf"), float("inf"), 0.0), True, True),
        (registration(residual=float("nan")), False, True),
    ],
)
def test_bounds_of_doubt_and_refusal(found, doubtful, refused):
    assert (found.is_doubtful(), found.is_refused()) == (doubtful, refused)
    lax = RegistrationSettings(refused_residual=9.0, refused_strain=9.0)
    assert not (refused and found.share and np.isfinite(found.residual) and found.is_refused(lax))


def test_doubts_say_what_is_beyond_which_bound():
    assert registration().doubts() == ()
    assert registration(strain=2.04).doubts() == ("strain 2.0, above 1.9",)
    assert registration(residual=1.6, share=0.4).doubts() == (
        "residual 1.6 mm, above 1.5",
        "40% of the mesh near the scan, below 50%",
    )


SETTINGS_THAT_MOVE_A_POSE = {
    "starts": ((10.0, 10.0),),
    "coarse_vertices": 50,
    "coarse_reach": (20.0, 12.0),
    "coarse_steps": 3,
    "fine_reach": (15.0, 6.0),
    "fine_steps": 5,
    "stiffness": (40.0, 20.0, 5.0),
    "softening": 0.9,
    "rest_turn": 1e-9,
    "rest_shift": 1e-9,
    "smallest_cosine": 0.9,
    "fewest_paired": 1.0,
    "isolated": 0.9,
    "strain_cost": 5.0,
}
"""Of the others, `tried` and `sure_cost` decide how long is searched, and the rest judge."""


@pytest.mark.parametrize("name", SETTINGS_THAT_MOVE_A_POSE)
def test_every_setting_is_used(database, name):
    assert name in {field.name for field in fields(RegistrationSettings)}
    scan = database.load(database.keys()[4])
    settings = replace(RegistrationSettings(), sure_cost=np.inf)
    usual = register(scan, settings)
    other = register(scan, replace(settings, **{name: SETTINGS_THAT_MOVE_A_POSE[name]}))
    assert (usual.cost, usual.pose.tolist()) != (other.cost, other.pose.tolist())
