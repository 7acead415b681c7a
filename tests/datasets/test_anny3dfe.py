"""The open faces: BU-3DFE's structure, the same from run to run, and a truth that fits."""

import ast
import hashlib
import inspect
import shutil
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from drfer.common.errors import DrferError, ScanFormatError
from drfer.common.files import digest_of
from drfer.datasets.anny3dfe import (
    VERSION,
    Anny3DFE,
    FaceSettings,
    Populations,
    expressions,
    generator,
    identity,
    scanner,
    subject_names,
)
from drfer.datasets.anny3dfe import (
    database as module,
)
from drfer.datasets.anny3dfe import (
    head as open_head,
)
from drfer.datasets.anny3dfe.database import all_settings, scan_keys
from drfer.datasets.anny3dfe.expressions import ACTION_UNITS, PROTOTYPES
from drfer.datasets.scan import EXPRESSIONS, ScanKey

FROZEN = {
    1: "779943d607eedfd38ca5c3d1860a35f6c3859bddae532d49a4e4159e893b00d1",
    2: "9cab5a894786fcff4d39c4e7137b4f149ccc617b01d0ec8ec4bb9506f0bdddfa",
}
"""Content of version 2.0, seed 0, by the number of subjects."""


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A cache folder with a database of two subjects, made in it."""
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DRFER_CACHE", str(folder))
        Anny3DFE(2)
    return folder


@pytest.fixture
def own(two, tmp_path, monkeypatch):
    """The same in a folder that the test may damage."""
    shutil.copytree(two, tmp_path / "cache")
    monkeypatch.setenv("DRFER_CACHE", str(tmp_path / "cache"))
    return Anny3DFE(2)


def file_of(database, subject):
    return Path(database.load(ScanKey(subject, "neutral", 0)).source)


def test_structure_is_that_of_bu3dfe(database):
    names = subject_names(100)
    assert len(set(names)) == 100 and sum(name[0] == "F" for name in names) == 56
    keys = scan_keys(database.subjects[0])
    assert len(keys) == len(set(keys)) == 25
    assert {(key.expression, key.intensity) for key in keys} == {("neutral", 0)} | {
        (expression, intensity) for expression in EXPRESSIONS for intensity in (1, 2, 3, 4)
    }


def test_scans_have_a_real_scanners_size(database):
    scans = [database.load(key) for key in database.keys()[::7]]
    sizes = [len(scan.points) for scan in scans]
    assert 7000 < np.median(sizes) < 9000
    for scan in scans:
        assert len(np.unique(scan.triangles)) == len(scan.points), "each point is a corner"


@pytest.mark.parametrize("subjects", FROZEN)
def test_the_faces_are_those_of_version_2(database, subjects):
    """On another processor the last digits may differ, and so these hashes."""
    assert VERSION == "2.0" and Anny3DFE(subjects).hash == FROZEN[subjects]


def test_the_same_seed_gives_the_same_bits_and_a_part_of_a_larger_database(database, own):
    assert own.hash == FROZEN[2]
    for key in own.keys()[::5]:
        assert np.array_equal(own.load(key).points, database.load(key).points)


def test_another_seed_gives_another_population(tmp_path, monkeypatch):
    monkeypatch.setenv("DRFER_CACHE", str(tmp_path))
    other = Anny3DFE(1, seed=1)
    assert other.hash != FROZEN[1] and other.settings["seed"] == 1


def test_who_ships_is_the_same_whoever_else_is_asked_for():
    people = open_head.load_people(1)
    alone = module._heads(["F0001"], 1, FaceSettings())
    several = module._heads(["F0050", "F0001"], 1, FaceSettings())
    assert "F0001" in people and "F0050" not in people
    assert [list(heads) for _, heads in alone] == [["F0001"]]
    assert [list(heads) for _, heads in several] == [["F0001"], ["F0050"]]
    for head, heads in (alone[0], several[0]):
        assert np.array_equal(heads["F0001"], people["F0001"])
        assert np.array_equal(head.average, open_head.load().average)
    wider = FaceSettings(identity=replace(FaceSettings().identity, spread=0.3))
    [(_, heads)] = module._heads(["F0001"], 1, wider)
    assert np.abs(heads["F0001"] - people["F0001"]).max() > 1, "nobody else is shipped"


def test_populations_are_named_first_and_are_those_of_their_seeds(tmp_path, monkeypatch):
    monkeypatch.setenv("DRFER_CACHE", str(tmp_path))
    both = Populations({1: 1, 100: 1})
    assert both.subjects == ["001-F0001", "100-F0001"]
    assert len(both.keys()) == len(set(both.keys())) == 2 * 13
    assert both.hash == Populations({7: 3}).hash, "who it is, the names say"
    assert not list(tmp_path.iterdir()), "nothing is made"
    both.make()
    for seed in (1, 100):
        own, name = Anny3DFE(1, seed, intensities=(3, 4)), f"{seed:03d}-F0001"
        key = ScanKey(name, "fear", 4)
        scan, expected = both.load(key), own.load(ScanKey("F0001", "fear", 4))
        assert scan.key == key and np.array_equal(scan.points, expected.points)
        truth = own.truth(ScanKey("F0001", "fear", 4))
        assert np.array_equal(both.truth(key).activation, truth.activation)
        assert np.array_equal(both.true_neutral(name), own.true_neutral("F0001"))
        assert both.folder_of(seed) == own.root
    for unknown in ("002-F0001", "F0001", "001-F0002", "x-F0001"):
        with pytest.raises(DrferError, match="has no scan"):
            both.load(ScanKey(unknown, "fear", 4))
    both.remove(1)
    assert not both.folder_of(1).exists() and both.folder_of(100).exists()


def test_truth_fits_the_scan(database):
    """Each point lies where its ray met the true surface, but for noise and spikes."""
    head = open_head.load()
    for key in database.keys()[3:40:9]:
        scan, truth = database.load(key), database.truth(key)
        surface = head.subdivide(
            head.pose_face(database.true_neutral(key.subject), truth.activation)[None]
        )[0]
        corners = surface[head.fine_triangles[truth.hit_triangle]]
        u, v = truth.hit_barycentric.T[..., None]
        true = corners[:, 0] * (1 - u - v) + corners[:, 1] * u + corners[:, 2] * v
        in_head_frame = (scan.points - truth.pose[:3, 3]) @ truth.pose[:3, :3]
        distance = np.linalg.norm(in_head_frame - true, axis=1)
        assert np.median(distance) < 0.2 and np.percentile(distance, 99) < 0.6
        assert distance.max() < 21, "a spike is at most 20 mm"


def test_expressions_grow_with_intensity(database):
    strengths = {intensity: [] for intensity in (1, 2, 3, 4)}
    for key in database.keys():
        if key.intensity:
            strengths[key.intensity].append(np.linalg.norm(database.truth(key).activation))
    means = [np.mean(strengths[intensity]) for intensity in (1, 2, 3, 4)]
    assert means == sorted(means)


def test_the_table_of_expressions_names_real_units():
    units = open_head.load().units
    for prototype in PROTOTYPES.values():
        for unit in (*prototype.always, *prototype.sometimes):
            assert unit in ACTION_UNITS and (unit in units or unit + "Left" in units)


# What determines the faces: every number is in the settings, and so in the hash.


def leaves(settings, path=()):
    """Paths to every single value in nested settings: (field, ..., index in a tuple)."""
    if is_dataclass(settings):
        for field in fields(settings):
            yield from leaves(getattr(settings, field.name), (*path, field.name))
    elif isinstance(settings, tuple):
        for index, value in enumerate(settings):
            yield from leaves(value, (*path, index))
    else:
        yield path


def changed(settings, path):
    """The settings with one value changed."""
    if not path:
        return settings + "x" if isinstance(settings, str) else settings + 1
    name, *rest = path
    if isinstance(settings, tuple):
        return (*settings[:name], changed(settings[name], rest), *settings[name + 1 :])
    return replace(settings, **{name: changed(getattr(settings, name), rest)})


def settings_hash(seed=0, faces=FaceSettings()):
    return digest_of(all_settings(seed, faces))


@pytest.mark.parametrize(
    "path", list(leaves(FaceSettings())), ids=lambda path: ".".join(map(str, path))
)
def test_another_setting_is_another_database(path):
    assert settings_hash(faces=changed(FaceSettings(), path)) != settings_hash()


def test_another_seed_or_version_is_another_database(monkeypatch):
    hashes = {settings_hash(), settings_hash(seed=1)}
    monkeypatch.setattr(module, "VERSION", "2.1")
    hashes.add(settings_hash())
    assert len(hashes) == 3


@pytest.mark.parametrize("expression", EXPRESSIONS)
@pytest.mark.parametrize("part", ["always", "sometimes"])
def test_another_prototype_is_another_database(expression, part, monkeypatch):
    before = settings_hash()
    table = getattr(PROTOTYPES[expression], part)
    for unit in list(table):
        with monkeypatch.context() as patch:
            patch.setitem(table, unit, table[unit] + 0.01)
            assert settings_hash() != before
    assert settings_hash() == before


def test_another_order_of_face_units_is_another_database(monkeypatch):
    before = settings_hash()
    monkeypatch.setattr(expressions, "ACTION_UNITS", dict(reversed(ACTION_UNITS.items())))
    assert settings_hash() != before


@pytest.mark.parametrize(
    "of", [expressions, generator, identity, scanner], ids=lambda m: m.__name__
)
def test_no_number_hides_outside_the_settings(of):
    """Functions hold none but counts of axes and corners and mm in a metre, modules only tables."""
    tree = ast.parse(inspect.getsource(of))
    plain = {0, 1, 2, 3, 4, 1000}
    for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
        numbers = {
            node.value
            for statement in function.body
            for node in ast.walk(statement)
            if isinstance(node, ast.Constant) and type(node.value) in (int, float)
        }
        assert numbers <= plain, f"{function.name} holds {numbers - plain}"
    for node in tree.body:
        if isinstance(node, ast.Assign):
            assert not isinstance(node.value, ast.Constant), ast.unparse(node)


def test_settings_reach_what_is_drawn():
    rng = np.random.default_rng(0)
    units = ["jawOpen", "mouthSmileLeft", "mouthSmileRight"]
    style = expressions.draw_style(rng)
    for name, value in (("strongest", 0.1), ("intensity_strength", (9.0,) * 4)):
        spread = replace(expressions.Spread(), **{name: value})
        same, other = (
            expressions.draw_activation(
                np.random.default_rng(1), "happiness", 3, style, units, spread=each
            )
            for each in (expressions.Spread(), spread)
        )
        assert not np.allclose(same, other)
    people = [
        identity.draw_identity(
            np.random.default_rng(2), True, ["l-eye", "r-eye"], replace(identity.Identity(), **way)
        )
        for way in ({}, {"spread": 0.5}, {"asymmetry": 0.5}, {"age": (0.1, 0.2)}, {"ancestry": 9.0})
    ]
    assert len({str(person) for person in people}) == 5


# The cache: resumed, healed, and never mistaken.


def test_what_is_missing_is_made_and_the_rest_stays(own, capsys):
    """As after a kill: a subject's file is there, whole, or not."""
    kept, gone = file_of(own, "F0001"), file_of(own, "M0001")
    gone.unlink()
    before = kept.stat().st_mtime_ns
    assert Anny3DFE(2).hash == own.hash and gone.exists()
    assert kept.stat().st_mtime_ns == before
    assert "1 subjects" in capsys.readouterr().out


def refuse_to_make(files, *arguments):
    raise DrferError(f"to be made: {', '.join(files)}")


def test_a_killed_generation_leaves_nothing_that_looks_complete(tmp_path, monkeypatch):
    monkeypatch.setenv("DRFER_CACHE", str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(module, "_make", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            Anny3DFE(2)
    monkeypatch.setattr(module, "_make", refuse_to_make)
    with pytest.raises(DrferError, match="to be made: F0001, M0001"):
        Anny3DFE(2)


def cut_off(path, other):
    path.write_bytes(path.read_bytes()[:5000])


def emptied(path, other):
    path.write_bytes(b"")


def put_in_its_place(path, other):
    shutil.copy(other, path)


@pytest.mark.parametrize("damage", [cut_off, emptied, put_in_its_place])
def test_a_damaged_or_swapped_file_is_made_again(own, damage, monkeypatch, capsys):
    damage(file_of(own, "M0001"), file_of(own, "F0001"))
    monkeypatch.setattr(module, "_make", refuse_to_make)
    with pytest.raises(DrferError, match="to be made: M0001"):
        Anny3DFE(2)
    assert "is damaged" in capsys.readouterr().out


def test_another_subjects_faces_are_never_read_for_someones(own):
    put_in_its_place(file_of(own, "M0001"), file_of(own, "F0001"))
    module._read_subject.cache_clear()
    with pytest.raises(ScanFormatError, match="it holds .*F0001.*next run makes it again"):
        own.load(ScanKey("M0001", "fear", 4))


def test_a_file_that_is_damaged_or_goes_while_it_is_used_is_named(own):
    path = file_of(own, "F0001")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    module._read_subject.cache_clear()
    with pytest.raises(ScanFormatError, match=f"{path} is damaged"):
        own.load(own.keys()[0])
    path.unlink()
    with pytest.raises(ScanFormatError, match=f"{path} is not there; run `drfer faces`"):
        own.load(own.keys()[0])


def test_other_settings_have_files_of_their_own(own, monkeypatch):
    monkeypatch.setattr(module, "_make", refuse_to_make)
    quiet = replace(FaceSettings(), scanner=scanner.Scanner(noise=0.0))
    with pytest.raises(DrferError, match="to be made"):
        Anny3DFE(1, faces=quiet)
    assert Anny3DFE(1).hash == FROZEN[1]


def test_bad_questions_are_one_sentence(database):
    with pytest.raises(DrferError, match="1 to 100 subjects"):
        Anny3DFE(101)
    with pytest.raises(DrferError, match="^-1 is no seed for Anny-3DFE; give 0 or more"):
        Anny3DFE(2, seed=-1)
    with pytest.raises(DrferError, match="has no scan"):
        database.load(ScanKey("F0099", "fear", 1))


def test_what_making_needs_is_named_if_it_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setenv("DRFER_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "embreex" else name)
    with pytest.raises(DrferError, match=r"needs embreex; the extra drfer\[faces\]"):
        Anny3DFE(1)


# the heads that ship with the kit, and anny's own tables


def test_the_heads_that_ship_are_those_that_anny_makes():
    """To a micrometre: float32 sums differ by 0.2 of one between makers of processors."""
    head = open_head.load()
    for seed, count, names in ((0, 100, ["F0001", "F0056", "M0044"]), (1, 12, ["M0005"])):
        shipped = open_head.load_people(seed)
        assert list(shipped) == subject_names(count)
        made, people = module.make_heads(names, seed)
        for name in names:
            np.testing.assert_allclose(shipped[name], people[name], atol=1e-3)
    assert open_head.load_people(2) == {}
    assert head.units == made.units and head.subdivisions == made.subdivisions
    # anny divides each square along its shorter diagonal, and four squares have two of one length
    squares, theirs = (one.triangles.reshape(-1, 6) for one in (head, made))
    differ = np.flatnonzero((squares != theirs).any(axis=1))
    assert len(differ) <= 4
    assert all(set(squares[i]) == set(theirs[i]) and len(set(squares[i])) == 4 for i in differ)
    np.testing.assert_array_equal(head.seen_from_front, made.seen_from_front)
    np.testing.assert_allclose(head.average, made.average, atol=1e-3)
    np.testing.assert_allclose(head.unit_shapes, made.unit_shapes, atol=1e-3)


def test_other_people_than_those_that_ship_need_the_body_model(own, monkeypatch):
    there = module.find_spec
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "anny" else there(name))
    Anny3DFE(3)
    for other in (
        {"seed": 2},
        {"faces": FaceSettings(identity=identity.Identity(spread=0.1))},
        {"faces": FaceSettings(head=generator.HeadSettings(face_radius=80.0))},
    ):
        with pytest.raises(DrferError, match=r"needs anny; the extra drfer\[populations\]"):
            Anny3DFE(1, **other)


@pytest.fixture
def built(monkeypatch, tmp_path):
    """Where anny is told to keep its tables, each time that it is built."""
    folders = []

    def build(tables=None):
        folders.append(tables)
        if tables is not None:
            tables.mkdir(exist_ok=True)
            (tables / "table").write_text("whole")

    monkeypatch.setattr(generator, "_built", build)
    monkeypatch.delenv("ANNY_CACHE_DIR", raising=False)
    monkeypatch.setenv("DRFER_CACHE", str(tmp_path / "cache"))
    return folders


def test_annys_tables_are_kept_in_our_cache_and_their_making_is_said(built, tmp_path, capsys):
    generator._anny()
    assert "3.4 GB of memory" in capsys.readouterr().out
    (folder,) = (tmp_path / "cache").iterdir()
    assert folder.name.startswith("anny-") and (folder / "table").read_text() == "whole"
    generator._anny()
    assert built[1] == folder and capsys.readouterr().out == ""


def test_annys_tables_are_whole_or_absent(built, tmp_path, monkeypatch):
    def killed(tables):
        (tables.parent / tables.name).mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(generator, "_built", killed)
    with pytest.raises(KeyboardInterrupt):
        generator._anny()
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_users_own_folder_for_annys_tables_serves(built, tmp_path, monkeypatch):
    monkeypatch.setenv("ANNY_CACHE_DIR", str(tmp_path / "elsewhere"))
    generator._anny()
    assert built == [None] and not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_hold_annys_tables_is_one_sentence(built, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DRFER_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DrferError, match="set DRFER_CACHE to another folder"):
        generator._anny()


def test_stored_arrays_are_those_that_version_2_stored(own):
    """The database's hash is that of its bytes, file by file."""
    hashes = []
    for subject in own.subjects:
        with np.load(file_of(own, subject)) as stored:
            arrays = [stored[name] for name in stored.files[1:]]
        content = b"".join(array.tobytes() for array in arrays)
        hashes.append(hashlib.sha256(content).hexdigest())
    assert hashes == [
        "ebdab93173c1ee89cb90fe6a9acc27c39672a940283b16e070ae222d1c9d832f",
        "d81ed13f14c9587ed16250bacc6fed73d22e34dde0bdf09b08f164f46363476b",
    ]


def test_fewer_intensities_are_a_part_of_all(database):
    fewer = Anny3DFE(2, intensities=(4, 3))
    assert len(fewer.keys()) == 2 * 13 and fewer.root != database.root
    for key in fewer.keys()[:13:4]:
        here, there = fewer.load(key), database.load(key)
        assert np.array_equal(here.points, there.points)
        assert np.array_equal(here.triangles, there.triangles)
        assert np.array_equal(fewer.truth(key).activation, database.truth(key).activation)
    with pytest.raises(DrferError, match="has no scan"):
        fewer.load(ScanKey("F0001", "anger", 2))
    assert fewer.intensities == (3, 4) and Anny3DFE(1, intensities=(2, 4)).intensities == (4,)


@pytest.mark.parametrize("intensities", [(), (0,), (3, 5)])
def test_other_intensities_are_refused(intensities):
    with pytest.raises(DrferError, match="intensities 1 to 4"):
        Anny3DFE(2, intensities=intensities)


def test_some_subjects_of_a_population_come_out_as_among_all(two, monkeypatch):
    monkeypatch.setenv("DRFER_CACHE", str(two))
    second = Anny3DFE(2, intensities=(3, 4), only=["M0001"])
    assert second.subjects == ["M0001"] and len(second.keys()) == 13
    whole = second.at_all_intensities(["M0001"])
    assert whole.subjects == ["M0001"] and whole.made_at == (1, 2, 3, 4)
    everybody = Anny3DFE(2)
    for key in second.keys()[::4]:
        points = everybody.load(key).points
        assert np.array_equal(second.load(key).points, points)
        assert np.array_equal(whole.load(key).points, points)
    for wrong in ([], ["M0009"]):
        with pytest.raises(DrferError, match="no subjects of Anny-3DFE"):
            Anny3DFE(2, only=wrong)
