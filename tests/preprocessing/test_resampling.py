"""One scan on its way to the network: resampled on the true surface, or refused in one sentence."""

import ast
import inspect
from dataclasses import replace

import numpy as np
import pytest
import trimesh
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drfer.common.errors import ScanFormatError
from drfer.datasets.anny3dfe import head as open_head
from drfer.datasets.scan import FaceScan, ScanKey
from drfer.preprocessing import head_pose, registration, resampling
from drfer.preprocessing import template as common_mesh
from drfer.preprocessing.registration import register
from drfer.preprocessing.resampling import carry_template, preprocess_scan, resample

KEY = ScanKey("F0001", "fear", 1)


@pytest.fixture(scope="module")
def head():
    return open_head.load()


def complete_scan(database, head, key):
    """The true surface of a scan's face, in the head's frame, without noise, hole or hair."""
    truth = database.truth(key)
    surface = head.subdivide(
        head.pose_face(database.true_neutral(key.subject), truth.activation)[None]
    )[0]
    return FaceScan(
        surface.astype(np.float32), head.fine_triangles.astype(np.int32), key, "the generator"
    )


def test_resampled_points_lie_on_the_true_surface(database, head):
    import igl

    errors = []
    for key in database.keys()[5:100:19]:
        pose = register(database.load(key)).pose
        points, missing = resample(database.load(key), pose)
        truth = database.truth(key).pose
        in_head_frame = (points[~missing] - pose[:3, 3]) @ pose[:3, :3]
        in_head_frame = (in_head_frame - truth[:3, 3]) @ truth[:3, :3]
        surface = complete_scan(database, head, key)
        squared = igl.point_mesh_squared_distance(
            in_head_frame, surface.points.astype(float), surface.triangles.astype(np.int64)
        )[0]
        errors.append(np.sqrt(squared))
    errors = np.concatenate(errors)
    assert np.median(errors) < 0.3 and np.percentile(errors, 99) < 1.5


def test_nothing_is_invented_where_the_scan_has_a_hole(database):
    scan = database.load(database.keys()[0])
    pose = register(scan).pose
    vertices = common_mesh.load().vertices
    cheek = vertices[np.argmin(np.linalg.norm(vertices[:, :2] - [35, -25], axis=1))]
    centres = scan.points[scan.triangles].mean(axis=1) @ pose[:3, :3].T + pose[:3, 3]
    kept = np.linalg.norm(centres - cheek, axis=1) > 16
    with_hole = FaceScan(scan.points, scan.triangles[kept], scan.key, scan.source)
    _, missing = resample(with_hole, pose)
    inside = np.linalg.norm(vertices - cheek, axis=1) < 8
    assert inside.sum() > 50 and missing[inside].all()


def test_size_is_kept(database):
    key = database.keys()[0]
    scan = database.load(key)
    smaller = FaceScan(scan.points * np.float32(0.95), scan.triangles, key, scan.source)
    extent = [np.ptp(preprocess_scan(each)["cloud"][:, 0]) for each in (scan, smaller)]
    assert extent[1] < 0.98 * extent[0]


@pytest.mark.parametrize(
    "damage, message",
    [
        ("empty", "no points"),
        ("nan", "point 7 is not finite"),
        ("index", "names point"),
        ("flat", "triangles must be"),
    ],
)
def test_a_scan_that_cannot_be_one_is_refused(database, damage, message):
    scan = database.load(database.keys()[0])
    points, triangles = scan.points.copy(), scan.triangles.copy()
    if damage == "empty":
        points = points[:0]
    elif damage == "nan":
        points[7, 1] = np.nan
    elif damage == "index":
        triangles[3, 0] = len(points)
    else:
        triangles = triangles[:0]
    with pytest.raises(ScanFormatError, match=message):
        FaceScan(points, triangles, scan.key, "file.wrl")


def no_faces():
    """Triangle meshes of a head's size that are none."""
    hands = {f"hand, fingers spread by {spread} degrees": hand(spread) for spread in (0, 4, 8, 12)}
    return {
        "ball": trimesh.creation.icosphere(4, 75),
        "box": trimesh.creation.box((150, 200, 60)).subdivide_to_size(5),
        "plane": trimesh.creation.box((160, 200, 1)).subdivide_to_size(5),
        "torus": trimesh.creation.torus(80, 30, 64, 64),
        **hands,
    }


def hand(spread):
    """A rounded palm, four fingers and a thumb, mm."""
    palm = trimesh.creation.icosphere(4).apply_scale((42, 48, 15))
    parts = [palm]
    for number, (length, angle, x, y) in enumerate(
        [(55, 45, -35, 0), *((75, spread * (1.5 - k), 18 * k - 27, 38) for k in range(4))]
    ):
        finger = trimesh.creation.capsule(length, 9)
        for degrees, axis in ((-90, (1, 0, 0)), (angle, (0, 0, 1))):
            finger.apply_transform(
                trimesh.transformations.rotation_matrix(np.radians(degrees), axis)
            )
        parts.append(finger.apply_translation((x, y, number % 2)))
    return trimesh.util.concatenate(parts).subdivide_to_size(6)


@pytest.mark.parametrize("shape", no_faces())
def test_what_is_no_face_is_refused(database, shape):
    mesh = no_faces()[shape]
    scan = FaceScan(
        mesh.vertices.astype(np.float32),
        mesh.faces.astype(np.int32),
        database.keys()[0],
        f"{shape}.obj",
    )
    with pytest.raises(ScanFormatError, match=f"{shape}.obj.*does not register"):
        preprocess_scan(scan)


def degenerate(kind):
    """Points and triangles of meshes that are no surface."""
    rng, count = np.random.default_rng(0), 3000
    triangles = rng.integers(0, count, (2 * count, 3))
    points = np.zeros((count, 3))
    if kind == "one point":
        return points[:1], np.zeros((1, 3), dtype=int)
    if kind == "all points the same":
        return points + [5, 6, 7], triangles
    if kind == "a line":
        return points + np.arange(count)[:, None] * [0, 0.1, 0], triangles
    if kind == "triangles of two points":
        return rng.normal(0, 50, (count, 3)), np.repeat(triangles[:, :1], 3, axis=1)
    if kind == "most triangles of one point":
        return rng.normal(0, 50, (count, 3)), np.vstack([np.zeros((9 * count, 3)), triangles])
    return rng.normal(0, 50, (3, 3)), np.array([[0, 1, 2]])  # one triangle


KINDS = ("one point", "all points the same", "a line", "triangles of two points")
KINDS += ("most triangles of one point", "one triangle")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("error")
def test_a_degenerate_mesh_is_one_sentence(kind):
    points, triangles = degenerate(kind)
    scan = FaceScan(points.astype(np.float32), triangles.astype(np.int32), KEY, "mesh.obj")
    with pytest.raises(ScanFormatError, match="^mesh.obj, scan F0001 fear 1: ") as raised:
        preprocess_scan(scan)
    said = str(raised.value)
    assert "no area" in said or "does not register" in said
    assert "inf" not in said and "nan" not in said and "\n" not in said


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 60),
    size=st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 100.0, 1e5, 1e6]),
    flat=st.booleans(),
    whole=st.booleans(),
)
def test_any_mesh_ends_in_a_face_or_in_one_sentence(seed, count, size, flat, whole):
    rng = np.random.default_rng(seed)
    points = rng.uniform(-size, size, (count, 3)).astype(np.float32)
    if flat:
        points[:, 2] = 0
    if whole:
        points = np.round(points)
    triangles = rng.integers(0, count, (2 * count, 3)).astype(np.int32)
    try:
        preprocess_scan(FaceScan(points, triangles, KEY, "mesh.obj"))
    except ScanFormatError as error:
        assert str(error).startswith("mesh.obj")


@pytest.mark.parametrize("of", [registration, resampling, head_pose], ids=lambda m: m.__name__)
def test_no_number_hides_outside_the_settings(of):
    """Functions hold none but counts of axes, and what keeps a division from zero."""
    plain = {0, 1, 2, 3, 4, 5, 6, 10, 1e-12}
    for function in ast.walk(ast.parse(inspect.getsource(of))):
        if isinstance(function, ast.FunctionDef):
            numbers = {
                node.value
                for statement in function.body
                for node in ast.walk(statement)
                if isinstance(node, ast.Constant) and type(node.value) in (int, float)
            }
            assert numbers <= plain, f"{function.name} holds {numbers - plain}"


def test_a_scan_of_which_little_is_found_is_doubtful(database):
    """Thinned evenly, so that it registers as well as the whole does."""
    scan = database.load(KEY)
    whole = carry_template(scan)
    kept = np.random.default_rng(0).random(len(scan.triangles)) < 0.3
    shreds = carry_template(replace(scan, triangles=scan.triangles[kept]))
    assert not whole.doubts and (~whole.missing).mean() > 0.47
    share = (~shreds.missing).mean()
    assert share < 0.4 and f"{share:.0%} of the mesh found, below 40%" in shreds.doubts


def test_two_faces_in_one_file_are_refused_and_a_whole_head_is_not(database):
    one, other = (database.load(ScanKey(subject, "neutral", 0)) for subject in ("F0001", "M0001"))
    both = replace(
        one,
        points=np.concatenate([one.points, other.points + np.float32([250, 0, 0])]),
        triangles=np.concatenate([one.triangles, other.triangles + len(one.points)]),
    )
    with pytest.raises(ScanFormatError, match="holds a second face; give a file for each"):
        carry_template(both)
    head = open_head.load()
    whole = replace(
        one,
        points=head.subdivide(head.average[None])[0].astype(np.float32),
        triangles=head.fine_triangles.astype(np.int32),
    )
    assert not carry_template(whole).missing.all()
