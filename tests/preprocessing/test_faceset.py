"""Sets of preprocessed scans: cached under all that determines them, and from any dataset."""

import hashlib
import pickle
from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest

from drfer.common.errors import DrferError, ScanFormatError
from drfer.datasets.scan import EXPRESSIONS, NEUTRAL, FaceScan, ScanKey
from drfer.fast.points import farthest_point_order
from drfer.preprocessing import faceset, surface
from drfer.preprocessing import template as common_mesh
from drfer.preprocessing.faceset import FEWEST, Settings, mean_face, preprocess, stand_out
from drfer.preprocessing.resampling import OTHER_FACES


def test_clouds_are_in_farthest_point_order_and_in_the_unit_ball(faces):
    for cloud in faces.clouds[:5]:
        assert np.array_equal(farthest_point_order(cloud, 256), np.arange(256))
    assert np.linalg.norm(faces.clouds, axis=-1).max() < 1


FROZEN = {
    "clouds": "7747308455f69f4b9287fd8bb9f7ad3aae7d7114da16dbff5740864c97feca0b",
    "vertices": "14cecaa8412764eb6e5f4b1f264fc62df6ba4c1b28283590aefc8efa8aec2535",
    "missing": "b933da4c16d6b77bf60e10fad7b6f311552300643d4b9d52354d0645f665e423",
    "residuals": "12a0c5a38799dac797dab5d82a69f9cc4231f11562a8ccce7c5de7e2e9c3f270",
    "doubtful": "659d36ca563ba4622daabb36a71dafaf6060cdcbf89bb12e75426198496d272c",
    "poses": "36934ed16f45f6aa1b89e1c7bdae2485bfff5648b71ec50c83ba178cc279c6de",
}
"""Content of F0001's and M0001's neutral scans and intensities 3 and 4."""


@pytest.fixture(scope="module")
def pair(database):
    keys = [
        key
        for key in database.keys()
        if key.subject in ("F0001", "M0001") and key.intensity in (0, 3, 4)
    ]
    return preprocess(database, keys)


@pytest.mark.parametrize("name", FROZEN)
def test_preprocessed_faces_are_those_of_version_6(pair, name):
    """To the last bit, but for what is kept in float64: that to six digits after the point."""
    array = np.ascontiguousarray(getattr(pair, name))
    if array.dtype == np.float64:
        array = np.round(array, 6) + 0.0  # no -0
    assert hashlib.sha256(array.tobytes()).hexdigest() == FROZEN[name]


def file_of(faces, cache):
    return next(cache.glob(f"faceset-*-{faces.hash[:16]}.npz"))


def cut_off(path):
    path.write_bytes(path.read_bytes()[:10_000])


def with_fewer_scans(path):
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    np.savez(path, **{name: a[:5] if a.ndim else a for name, a in arrays.items()})


@pytest.mark.parametrize("damage", [cut_off, with_fewer_scans])
def test_the_cache_gives_the_same_faces_and_heals(database, cache, damage):
    keys = database.keys()[:7]
    faces = preprocess(database, keys)
    again = preprocess(database, keys)
    assert again.hash == faces.hash and np.array_equal(again.clouds, faces.clouds)
    damage(file_of(faces, cache))
    healed = preprocess(database, keys)
    assert len(healed.clouds) == len(healed) == 7
    assert np.array_equal(healed.clouds, faces.clouds)
    assert np.array_equal(healed.missing, faces.missing)


def test_a_set_in_anothers_place_is_not_taken_for_it(database, cache):
    one, other = (preprocess(database, [key]) for key in database.keys()[:2])
    file_of(one, cache).write_bytes(file_of(other, cache).read_bytes())
    healed = preprocess(database, database.keys()[:1])
    assert np.array_equal(healed.clouds, one.clouds)


def test_a_set_is_cheap_to_send(pair, cache):
    sent = pickle.dumps(pair)
    arrays = sum(getattr(pair, name).nbytes for name in FROZEN)
    assert len(sent) < arrays + 20_000
    received = pickle.loads(sent)
    assert received.dataset.hash == pair.dataset.hash and received.hash == pair.hash
    scan = received.dataset.load(received.keys[3])
    assert np.array_equal(scan.points, pair.dataset.load(pair.keys[3]).points)


# What determines the points: every number is in the hash.


def leaves(value, path=()):
    """Paths to every single value in nested settings."""
    if is_dataclass(value):
        for field in fields(value):
            yield from leaves(getattr(value, field.name), (*path, field.name))
    elif isinstance(value, tuple):
        for index, part in enumerate(value):
            yield from leaves(part, (*path, index))
    else:
        yield path


def changed(value, path):
    if not path:
        return value + 1
    name, *rest = path
    if isinstance(value, tuple):
        return (*value[:name], changed(value[name], rest), *value[name + 1 :])
    return replace(value, **{name: changed(getattr(value, name), rest)})


def hash_of(dataset, keys, settings=Settings()):
    return faceset.digest_of(faceset._determined_by(dataset, keys, settings))


@pytest.mark.parametrize("path", list(leaves(OTHER_FACES)), ids=lambda p: ".".join(map(str, p)))
def test_another_setting_is_another_hash(pair, path):
    assert hash_of(pair.dataset, pair.keys) == pair.hash
    one, other = (
        hash_of(pair.dataset, pair.keys, settings)
        for settings in (OTHER_FACES, changed(OTHER_FACES, path))
    )
    assert pair.hash != one != other


def test_another_version_cell_dataset_or_choice_is_another_hash(pair, monkeypatch):
    hashes = {pair.hash, hash_of(pair.dataset, pair.keys[:-1]), hash_of(Toy(), pair.keys)}
    for module, name in ((faceset, "VERSION"), (surface, "CELL")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, getattr(module, name) + 1)
            hashes.add(hash_of(pair.dataset, pair.keys))
    assert len(hashes) == 5


@pytest.mark.parametrize(
    "name, value",
    [
        ("MIDDLE", 9.0),
        ("FITTED_OF", 990),
        ("FITTED_OVAL", (60.0, 82.0)),
        ("HAIRLINE", 40.0),
        ("HAIRLINE_FALL", 0.02),
    ],
)
def test_another_region_that_is_fitted_is_another_template(name, value, monkeypatch):
    before = common_mesh.load().hash
    monkeypatch.setattr(common_mesh, name, value)
    assert replace(common_mesh.load()).hash != before


@pytest.mark.parametrize("name", ["vertices", "triangles", "modes"])
def test_another_mesh_is_another_template(name):
    template = common_mesh.load()
    moved = getattr(template, name).copy()
    moved[-1, -1] += 1
    assert replace(template, **{name: moved}).hash != template.hash


# Any object with the attributes of `drfer.datasets.Dataset` is a dataset.


class Toy:
    """Two subjects whose faces are the common mesh itself, a little larger or smaller."""

    name = "toy"
    hash = "version 1"
    subjects = ["anna", "ben"]
    intensities = (1,)

    def keys(self):
        return [
            ScanKey(subject, expression, int(expression != NEUTRAL))
            for subject in self.subjects
            for expression in (NEUTRAL, *EXPRESSIONS)
        ]

    def load(self, key):
        template, size = common_mesh.load(), {"anna": 0.97, "ben": 1.02}[key.subject]
        return FaceScan(template.vertices * np.float32(size), template.triangles, key, "toy")


def test_a_dataset_of_twenty_lines_is_preprocessed():
    dataset = Toy()
    faces = preprocess(dataset, dataset.keys())
    assert faces.subjects == ["anna", "ben"] and faces.clouds.shape == (14, 2048, 3)
    assert faces.dataset is dataset and not faces.doubtful.any()
    width = np.ptp(faces.clouds[..., 0], axis=1)
    assert width[:7].max() < width[7:].min()
    assert np.linalg.norm(faces.poses[:, :3, 3], axis=1).max() < 3


class Blank(Toy):
    name = "blank"

    def load(self, key):
        if key.expression == "fear":
            raise ScanFormatError("the fear of anna is blank")
        return super().load(key)


def test_a_scan_that_cannot_be_used_is_named_and_nothing_is_cached(cache):
    with pytest.raises(ScanFormatError, match="^the fear of anna is blank$"):
        preprocess(Blank(), Blank().keys())
    assert not list(cache.glob("faceset-blank-*"))


def test_no_scans_at_all_are_one_sentence():
    with pytest.raises(DrferError, match="no scan of toy"):
        preprocess(Toy(), [])


def test_mean_face_leaves_missing_vertices_out(faces):
    members = np.arange(6)
    mean = mean_face(faces, members, 256)
    seen = ~faces.missing[members]
    common = [vertex for vertex in range(seen.shape[1]) if seen[:, vertex].sum() >= 3][:256]
    for row, vertex in enumerate(common):
        values = [
            faces.vertices[member, vertex]
            for member in members
            if not faces.missing[member, vertex]
        ]
        assert np.allclose(mean[row], np.mean(values, axis=0), atol=1e-6)
    with pytest.raises(DrferError, match="common vertices"):
        mean_face(faces, members, 4096)


def warped(database, key, size, length):
    """A scan bent by smooth waves of so many mm, so long: a face unlike any of the generator's."""
    rng, scan, pose = np.random.default_rng(0), database.load(key), database.truth(key).pose
    points = (scan.points - pose[:3, 3]) @ pose[:3, :3]
    waves, phases = (
        rng.normal(size=(24, 3)) * 2 * np.pi / length / np.sqrt(3),
        rng.uniform(0, 2 * np.pi, 24),
    )
    points = points + np.cos(points @ waves.T + phases) @ rng.normal(size=(24, 3)) * size * np.sqrt(
        2 / 24
    )
    points = points @ pose[:3, :3].T + pose[:3, 3]
    return FaceScan(points.astype(np.float32), scan.triangles, key, "someone.wrl")


class Someone:
    """A database whose expressive faces are unlike the open ones."""

    name, hash, subjects, intensities = "someone", "warped", ["F0001"], (4,)

    def __init__(self, database):
        self.database = database

    def load(self, key):
        return warped(self.database, key, 3, 60) if key.intensity else self.database.load(key)


class Plain(Someone):
    """A database of open faces that does not say so."""

    def load(self, key):
        return self.database.load(key)


def test_among_faces_of_another_kind_only_those_that_stand_out_are_doubtful():
    residuals = np.random.default_rng(0).normal(1.9, 0.1, 50)
    residuals[7] = 2.9
    unlike = residuals > 1.5
    assert np.flatnonzero(stand_out(unlike, residuals)).tolist() == [7]
    few = np.zeros(50, dtype=bool)
    few[[3, 7]] = True
    assert (stand_out(few, residuals) == few).all(), "a few among faces of our kind"
    assert (stand_out(unlike[:19], residuals[:19]) == unlike[:19]).all(), "too few to tell"


def test_only_the_open_faces_are_registered_by_the_templates_modes_alone(database):
    keys = [key for key in database.keys() if key.intensity == 4][:1]
    open_faces, others = preprocess(database, keys), preprocess(Plain(database), keys)
    assert open_faces.settings == Settings() and others.settings == OTHER_FACES
    assert hash_of(Plain(database), keys, OTHER_FACES) == others.hash


def test_a_folder_of_another_kind_is_said_to_be_one(database, capsys):
    keys = [key for key in database.keys() if key.intensity == 4][:FEWEST]
    faces = preprocess(Someone(database), keys)
    assert faces.doubtful.sum() <= 2
    said = capsys.readouterr().out
    assert "of 20 scans of someone register less well" in said and "of another kind" in said


def test_a_face_unlike_the_open_ones_is_used_but_said(database, capsys):
    keys = [key for key in database.keys() if key.intensity in (0, 4)][:4]
    faces = preprocess(Someone(database), keys)
    assert faces.doubtful.tolist() == [False, True, True, True]
    assert (
        f"3 scans of someone register less well than any good open face: {keys[1]}"
        in capsys.readouterr().out
    )
