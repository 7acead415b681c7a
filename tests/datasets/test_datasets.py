"""The readers of licensed databases and of own scans: trees laid out alike, and broken files."""

import os
import random
import shutil
import tracemalloc

import licensed
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drfer.common.errors import DrferError, ScanFormatError
from drfer.datasets import open_dataset
from drfer.datasets.bosphorus import (
    EXPRESSIVE_SUBJECTS,
    MOST_PIXELS,
    Bosphorus,
    mesh_of_range_image,
    read_bnt,
    read_nose_tip,
)
from drfer.datasets.bu3dfe import BU3DFE, read_vrml
from drfer.datasets.scan import EXPRESSIONS, ScanKey
from drfer.datasets.scan_file import UP, read_scan
from drfer.preprocessing.faceset import preprocess
from drfer.preprocessing.resampling import preprocess_scan

KEY = ScanKey("F0001", "fear", 4)
SUFFIXES = ["wrl", "bnt", "lm3", "obj", "ply", "stl", "xyz", "npy"]
MUTATIONS = int(os.environ.get("DRFER_MUTATIONS", "150"))
"""Mutated files of each format; raise it for a longer search."""


def test_bu3dfe_gives_back_the_scans_it_was_written_from(bu3dfe, database):
    dataset = BU3DFE(bu3dfe)
    assert dataset.subjects == database.subjects
    assert len(dataset.keys()) == 12 * 13
    for key in dataset.keys()[::7]:
        scan, original = dataset.load(key), database.load(key)
        used = np.unique(original.triangles)
        assert np.allclose(scan.points, original.points[used], atol=1e-4)
        assert {frozenset(map(int, t)) for t in used[scan.triangles]} == {
            frozenset(map(int, t)) for t in original.triangles
        }


def test_bosphorus_gives_the_surface_without_spikes_and_hair(bosphorus, database):
    from scipy.spatial import cKDTree

    dataset = Bosphorus(bosphorus)
    assert dataset.subjects == [f"bs{number:03d}" for number in range(12)]
    assert len(dataset.keys()) == 12 * 7
    for key in dataset.keys()[::9]:
        original = database.load(
            ScanKey(database.subjects[int(key.subject[2:])], key.expression, 4 * key.intensity)
        )
        scan = dataset.load(key)
        distance = cKDTree(original.points).query(scan.points)[0]
        assert np.percentile(distance, 99) < 2.5 and distance.max() < 8
        assert len(scan.points) > 5000
        normal = np.cross(
            *(scan.points[scan.triangles[:, k]] - scan.points[scan.triangles[:, 0]] for k in (1, 2))
        )
        assert (normal[:, 2] > 0).mean() > 0.99, "triangles face the viewer"


def test_other_landmarks_are_other_data(bosphorus, tmp_path):
    root = tmp_path / "bosphorus"
    shutil.copytree(bosphorus, root)
    before = Bosphorus(root).hash
    landmarks = next(root.rglob("*.lm3"))  # the nose tip decides the crop
    landmarks.write_bytes(landmarks.read_bytes().replace(b"Nose tip", b"Nose top"))
    assert Bosphorus(bosphorus).hash == before != Bosphorus(root).hash


@pytest.mark.parametrize("content", [b"", b"garbage", b"1 landmarks:\nNose tip\n1 nan 3\n"])
def test_a_damaged_nose_tip_refuses_no_scan(content, bosphorus, tmp_path):
    root = tmp_path / "bosphorus"
    shutil.copytree(bosphorus / "bs000", root)
    key = ScanKey("bs000", "fear", 1)
    sound = Bosphorus(root).load(key)
    landmarks = root / "bs000_E_FEAR_0.lm3"
    landmarks.write_bytes(content)
    scan = Bosphorus(root).load(key)
    assert "cropped around its foremost point" in scan.source and str(landmarks) in scan.source
    landmarks.unlink()
    without = Bosphorus(root).load(key)
    assert np.array_equal(scan.points, without.points)
    assert "foremost" not in without.source and "foremost" not in sound.source


def test_only_the_nose_tip_of_the_landmarks_counts(bosphorus, tmp_path):
    path = tmp_path / "a.lm3"
    path.write_bytes(b"3 landmarks:\r\nChin\r\nnothing\r\nNose tip\r\n 1 -2.5\t3e1 \r\n")
    assert read_nose_tip(path).tolist() == [1, -2.5, 30]
    path.write_bytes(b"1 landmarks\nChin middle\n1 2 3\n")
    assert read_nose_tip(path) is None


def test_landmarks_of_bu3dfe_refuse_no_scan(bu3dfe):
    """The tree's `.bnd` files hold no landmarks at all."""
    for path in list(bu3dfe.rglob("*_F3D.bnd"))[:5]:
        scan = path.with_suffix(".wrl")
        assert not path.read_text()[0].isdigit()
        assert len(BU3DFE(scan.parent).read_file(scan, KEY).points) > 5000


def test_range_images_run_from_the_top(bosphorus):
    image = read_bnt(next(bosphorus.rglob("*_N_N_0.bnt")))
    y = image[..., 1]
    assert np.nanmean(y[: len(y) // 3]) > np.nanmean(y[-len(y) // 3 :])


def test_the_65_subjects_are_the_published_ones():
    assert len(EXPRESSIVE_SUBJECTS) == 65


@pytest.mark.parametrize("of", [BU3DFE, Bosphorus])
def test_scans_from_files_become_what_the_network_sees(of, bu3dfe, bosphorus, faces):
    """BU-3DFE's files hold the open scans to four decimals, Bosphorus' a grid of 1 mm."""
    dataset = of({BU3DFE: bu3dfe, Bosphorus: bosphorus}[of])
    subject = dataset.subjects[0]
    keys = dataset.needed(subject)
    seen = preprocess(dataset, keys)
    assert seen.subjects == [subject] and seen.dataset is dataset
    assert {key.intensity for key in keys} == {0, *dataset.intensities}
    original = faces.keys.index(ScanKey(faces.subjects[0], "neutral", 0))
    both = ~seen.missing[0] & ~faces.missing[original]
    apart = np.linalg.norm(seen.vertices[0, both] - faces.vertices[original, both], axis=1)
    assert np.median(apart) * 120 < {BU3DFE: 0.01, Bosphorus: 1}[of]


@pytest.mark.parametrize("suffix", ["obj", "ply", "stl"])
@pytest.mark.parametrize("up", UP)
def test_own_scans_come_to_the_same_pose_in_any_format_unit_and_axis(
    suffix, up, database, tmp_path
):
    import trimesh

    scan = database.load(KEY)
    metres = up in ("z", "-x")
    turned = (scan.points.astype(float) @ UP[up]) / (1000 if metres else 1)
    path = tmp_path / f"face.{suffix}"
    trimesh.Trimesh(turned, scan.triangles, process=False).export(path)
    read = read_scan(path, KEY, up)
    assert ("metres" in read.source) == metres
    original = scan.points[scan.triangles].reshape(-1, 3)
    assert np.allclose(read.points[read.triangles].reshape(-1, 3), original, atol=0.01)


@pytest.mark.parametrize(
    "name, root, up", [("anny3dfe", ".", "y"), ("anny3dfe", None, "z"), ("bu3dfe", ".", "z")]
)
def test_what_a_dataset_cannot_use_is_refused_rather_than_ignored(name, root, up):
    with pytest.raises(DrferError, match="say --dataset"):
        open_dataset(name, root, up=up)


def test_own_scans_are_labelled_by_their_table(database, tmp_path):
    import trimesh

    rows = ["file,subject,expression"]
    for subject in ("anna", "ben"):
        (tmp_path / subject).mkdir()
        for expression in ("neutral", *EXPRESSIONS):
            scan = database.load(KEY)
            trimesh.Trimesh(scan.points, scan.triangles, process=False).export(
                tmp_path / subject / f"{expression}.ply"
            )
            rows.append(f"{subject}/{expression}.ply,{subject},{expression.title()}")
    (tmp_path / "scans.csv").write_text("\n".join(rows))
    dataset = open_dataset("scans", tmp_path)
    assert dataset.subjects == ["anna", "ben"]
    assert preprocess_scan(dataset.load(ScanKey("ben", "fear", 1)))["cloud"].shape == (2048, 3)
    assert open_dataset("scans", tmp_path, up="z").hash != dataset.hash, (
        "another axis, other faces in the cache"
    )
    for line, sentence in (
        (f"x.ply,x,{'joy' * 20}", "too long a name"),
        (rows[1], "'anna/neutral.ply' stands in it twice"),
    ):
        (tmp_path / "scans.csv").write_text("\n".join([*rows, line]))
        with pytest.raises(DrferError, match=f"line 16.*{sentence}"):
            open_dataset("scans", tmp_path)


@pytest.mark.parametrize(
    "name, message", [("bu3dfe", "--root"), ("bosphorus", "--root"), ("nonsense", "no dataset")]
)
def test_a_dataset_without_its_folder_is_one_sentence(name, message, tmp_path):
    with pytest.raises(DrferError, match=message):
        open_dataset(name)
    with pytest.raises(DrferError):
        open_dataset(name, tmp_path)


# Broken files. Each reader ends in a face or in one ScanFormatError, in time and memory in
# proportion to the file.

VRML = (
    "#VRML V2.0 utf8\nShape {{ geometry IndexedFaceSet {{ "
    "coord Coordinate {{ point [ {points} ] }}\ncoordIndex [ {index} ] }} }}"
)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "no point list"),
        (VRML.format(points="0 0 0, 1 0 0, 0 1", index="0 1 2 -1"), "not a multiple of 3"),
        (VRML.format(points="0 0 0, 1 nan 0, 0 1 0", index="0 1 2 -1"), "point 1 is not finite"),
        (VRML.format(points="0 0 0, 1 -inf 0, 0 1 0", index="0 1 2 -1"), "point 1 is not finite"),
        (
            VRML.format(points="0 0 0, 1 1e300 0, 0 1 0", index="0 1 2 -1"),
            "farther than a kilometre",
        ),
        (
            VRML.format(points="0 0 0, 1 x 0, 0 1 0", index="0 1 2 -1"),
            "word 5 of its point list is b'x'",
        ),
        (VRML.format(points="0 0 0, 1 0 0, 0 1 0", index="0 1 3 -1"), "names point 3"),
        (VRML.format(points="0 0 0, 1 0 0, 0 1 0", index="0 1 -1"), "no polygon"),
        (
            VRML.format(points="0 0 0, 1 0 0, 0 1 0", index="0 1 -7 -1"),
            "polygon names point -7, but there are 3",
        ),
        (
            VRML.format(points="0 0 0, 1 0 \0\x7f, 0 1 0", index="0 1 2 -1"),
            "word 6 of its point list",
        ),
        (VRML.format(points="0 0 0, 1 0 0, 0 1 0", index="0 1 99999999999999999999 -1"), "word 3"),
        (VRML.format(points="0 0 0, 1 0 0, 0 1 0", index="0 1 2 -1")[:95], "cut off"),
    ],
)
def test_broken_vrml_is_named(text, message, tmp_path):
    path = tmp_path / "F0001_FE04WH_F3D.wrl"
    path.write_text(text)
    with pytest.raises(ScanFormatError, match=message) as raised:
        read_vrml(path)
    assert str(path) in str(raised.value)


def test_a_header_may_promise_more_than_the_file_holds(tmp_path):
    path = tmp_path / "bs000_N_N_0.bnt"
    path.write_bytes(
        np.array([65535, 65535], "<u2").tobytes()
        + np.array([-1e9], "<f8").tobytes()
        + np.array([0], "<u2").tobytes()
        + np.array([2**32 - 1], "<u4").tobytes()
        + bytes(1000)
    )
    tracemalloc.start()
    with pytest.raises(ScanFormatError, match="65535"):
        read_bnt(path)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


@pytest.mark.parametrize("rows, columns", [(65535, 65535), (65535, 40), (1415, 1414)])
def test_a_range_image_larger_than_any_scanners_is_refused_unread(rows, columns, tmp_path):
    """The file holds all that its header claims, in a hole: a disk's gigabytes for nothing."""
    assert rows * columns > MOST_PIXELS
    path = tmp_path / "bs000_N_N_0.bnt"
    with path.open("wb") as file:
        file.write(np.array([rows, columns], "<u2").tobytes() + bytes(10))
        file.write(np.array([min(5 * rows * columns, 2**32 - 1)], "<u4").tobytes())
        file.truncate(18 + 40 * rows * columns)
    tracemalloc.start()
    with pytest.raises(ScanFormatError, match=f"{rows} rows of {columns}"):
        read_bnt(path)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


@pytest.mark.parametrize("kind", ["pipe", "folder", "link to nothing"])
def test_what_is_no_file_is_refused_at_once(kind, bu3dfe, tmp_path):
    path = tmp_path / "F0001_FE04WH_F3D.wrl"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "nothing")
    dataset = BU3DFE(tmp_path)
    with pytest.raises(ScanFormatError, match=f"{path}: (this is no file|cannot be read)"):
        dataset.load(KEY)


def test_lines_may_end_as_on_any_machine(samples, tmp_path):
    content, read = samples["wrl"]
    for ending in (b"\r", b"\r\n"):  # of comments too
        path = tmp_path / "F0001_FE04WH_F3D.wrl"
        path.write_bytes(content)
        points, triangles = read(path)
        path.write_bytes(content.replace(b"\n", ending))
        assert np.array_equal(read(path)[0], points) and np.array_equal(read(path)[1], triangles)


PLY = """ply
format ascii 1.0
element vertex {vertices}
property float x
property float y
property float z
element face {faces}
property list uchar int vertex_indices
end_header
0 0 0
1 0 0
0 1 0
3 0 1 2
"""


@pytest.mark.parametrize(
    "suffix, content, message",
    [
        ("lm3", b"1 landmarks:\nNose tip\n1 nan 3", "line 3: .* are no coordinates"),
        ("lm3", b"1 landmarks:\nNose tip\n1 inf 3", "line 3: .* are no coordinates"),
        ("lm3", b"1 landmarks:\nNose tip\n1 2 \xff", "line 3: .* are no coordinates"),
        ("lm3", b"1 landmarks:\nNose tip\n1 2", "line 3: .* are no coordinates"),
        ("lm3", b"1 landmarks:\nNose tip", "line 3: .* are no coordinates"),
        ("lm3", b"no landmarks at all", "no line 'N landmarks:'"),
        ("lm3", b"\n" * 10_000_000, "10000000 bytes are too many"),
        (
            "bnt",
            b"\3\0\3\0" + bytes(8) + b"\xff\xff" + bytes(100),
            "image name of 65535 bytes runs past the end",
        ),
        ("obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9", "cannot be read as OBJ"),
        ("obj", b"v 0 0 0\nv 1 nan 0\nv 0 1 0\nf 1 2 3", "point 1 is not finite"),
        ("obj", b"v 0 0 0\nv 1 inf 0\nv 0 1 0\nf 1 2 3", "point 1 is not finite"),
        ("obj", b"\0\xff" * 1000, "OBJ|no triangle"),
        ("ply", PLY.format(vertices=3, faces=2).encode(), "promises 2 polygons, but 1 are there"),
        ("ply", PLY.format(vertices=65535 * 65535, faces=65535 * 65535).encode(), "promises"),
        (
            "ply",
            PLY.format(vertices=3, faces=1).replace("0 1 2", "0 1 9").encode(),
            "cannot be read|not there",
        ),
        ("stl", bytes(80) + b"\xff\xff\xff\xff" + bytes(1000), "STL|no triangle"),
    ],
)
def test_other_broken_files_are_named(suffix, content, message, samples, tmp_path):
    path = tmp_path / f"broken.{suffix}"
    path.write_bytes(content)
    with pytest.raises(ScanFormatError, match=message) as raised:
        samples[suffix][1](path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_a_pixel_without_a_position_is_background(value, database, tmp_path):
    image = licensed.range_image(database.load(KEY).points, 3.0, seed=0)
    row, column = np.argwhere(image[..., 2] > -1e8)[100]
    image[row, column, 1] = value
    path = tmp_path / "a.bnt"
    path.write_bytes(licensed.bnt(image, "a.png"))
    read = read_bnt(path)
    assert np.isnan(read[len(read) - 1 - row, column]).all()
    assert np.isfinite(mesh_of_range_image(path, read)[0]).all()


def test_nothing_beside_a_scan_is_read(tmp_path):
    """A texture takes seconds to decode, and a broken one is no reason to refuse the face."""
    (tmp_path / "a.mtl").write_text("newmtl skin\nmap_Kd skin.png\n")
    (tmp_path / "skin.png").write_bytes(b"no picture")
    path = tmp_path / "a.obj"
    path.write_text("mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nusemtl skin\nf 1/1 2/1 3/1\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("PIL.Image.open", lambda *_: pytest.fail("the texture was opened"))
        assert read_scan(path, KEY).points.shape == (3, 3)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_line_of_ten_megabytes_is_read_or_refused(suffix, samples, tmp_path):
    content, read = samples[suffix]
    path = tmp_path / f"long.{suffix}"
    path.write_bytes(content[: len(content) // 2] + b"1.5 " * 2_500_000)
    try:
        read(path)
    except ScanFormatError as error:
        assert str(path) in str(error) and len(str(error)) < 400


@pytest.fixture(scope="module")
def samples(database):
    return licensed.small_files(database.load(KEY), 300, 3.0)


WORDS = [
    b"nan",
    b"inf",
    b"-1",
    b"1e308",
    b"99999999999999999999",
    b"-",
    b"[",
    b"]",
    b",",
    b"\0",
    b"\xff\xfe",
    b"{",
    b"}",
    b"\r",
    b"0x10",
    b"1_0",
    b"element face 4294967295",
    b"f 1/2/3 9/9/9 1//1",
    b"v",
]


def mutated(content, rng):
    """A file after one to six cuts, swaps, repeats, flips and foreign words."""
    content = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        start = rng.randrange(len(content) + 1)
        kind = rng.randrange(7)
        if kind == 0:
            del content[start:]
        elif kind == 1:
            del content[start : start + rng.randrange(1, 200)]
        elif kind == 2:
            content[start:start] = rng.choice(WORDS)
        elif kind == 3 and start < len(content):
            content[start] = rng.randrange(256)
        elif kind == 4:
            content[start:start] = content[start : start + rng.randrange(1, 300)]
        elif kind == 5:
            content[start : start + 8] = rng.randbytes(8)
        else:
            content[start : start + rng.randrange(1, 9)] = rng.choice(WORDS)
        if not content:
            break
    return bytes(content)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_mutated_files_end_in_a_face_or_in_one_sentence(suffix, samples, tmp_path):
    content, read = samples[suffix]
    path = tmp_path / f"mutated.{suffix}"
    path.write_bytes(content)
    read(path)
    refused = 0
    for seed in range(MUTATIONS):
        path.write_bytes(mutated(content, random.Random(f"{suffix} {seed}")))
        try:
            read(path)
        except ScanFormatError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 0


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    content=st.binary(max_size=300),
    suffix=st.sampled_from(SUFFIXES),
)
@pytest.mark.filterwarnings("ignore")
def test_any_bytes_end_in_a_face_or_in_one_sentence(content, suffix, samples, tmp_path):
    path = tmp_path / f"any.{suffix}"
    path.write_bytes(content)
    try:
        samples[suffix][1](path)
    except ScanFormatError as error:
        assert str(path) in str(error)
