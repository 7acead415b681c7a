"""The drawer of faces: surfaces that are there, lit from where it says, in one scale."""

import numpy as np
import pytest
import trimesh
from matplotlib.collections import TriMesh
from matplotlib.figure import Figure
from scipy.spatial.transform import Rotation

from drfer.datasets.scan import FaceScan, ScanKey
from drfer.figures.faces import (
    BROWS,
    FACE,
    MOUTH,
    colour_map,
    draw_face,
    mesh_trace,
    scale_bar,
    scan_sheet,
    windows,
)
from drfer.figures.shading import LAMP, displacement, surface, triangulated


def sphere(points=2000, radius=80.0, keep=0.1):
    """Points spread evenly over a sphere's front, by the golden angle."""
    number = np.arange(2 * points) + 0.5
    z = 1 - number / points
    angle = np.pi * (1 + 5**0.5) * number
    across = np.sqrt(1 - z**2)
    cloud = np.column_stack([across * np.cos(angle), across * np.sin(angle), z])
    return radius * cloud[z > keep]


def panel():
    axis = Figure(figsize=(3, 3), dpi=100).add_axes((0, 0, 1, 1))
    axis.set_facecolor("white")
    return axis


def pixels(axis):
    """What is drawn, as brightness (300, 300), 0 to 1, row 0 at the top."""
    canvas = axis.figure.canvas
    if not hasattr(canvas, "buffer_rgba"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        canvas = FigureCanvasAgg(axis.figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba(), dtype=float)[..., :3].mean(axis=2) / 255


def mesh_of(axis):
    [mesh] = [each for each in axis.collections if isinstance(each, TriMesh)]
    return mesh


def test_normals_of_a_sphere_point_away_from_its_middle():
    cloud = sphere()
    face = surface(cloud)
    inner = cloud[:, 2] > 20  # at the rim a plane has neighbours on one side only
    cosine = (face.normals[inner] * cloud[inner] / 80).sum(axis=1)
    assert cosine.min() > 0.99 and np.allclose(np.linalg.norm(face.normals, axis=1), 1)
    a, b, c = (cloud[face.triangles[:, corner]] for corner in range(3))
    assert ((np.cross(b - a, c - a) * (a + b + c)).sum(axis=1) > 0).all()


def test_noise_is_smoothed_away_in_the_shading():
    noisy = sphere() + np.random.default_rng(0).normal(scale=0.3, size=sphere().shape)
    inner = noisy[:, 2] > 20
    smooth, rough = surface(sphere()).brightness[inner], surface(noisy).brightness[inner]
    assert np.abs(smooth - rough).mean() < 0.03


def test_the_brightest_point_of_a_sphere_faces_the_lamp():
    assert np.isclose(np.linalg.norm(LAMP), 1, atol=0.01)
    assert LAMP[0] < 0 < LAMP[1] and LAMP[2] > 0.5, "above the viewer's left shoulder"
    axis = panel()
    draw_face(axis, surface(sphere()), window=(-100, 100, -100, 100))
    light = pixels(axis)
    light[light == 1] = 0  # the ground
    rows, columns = np.nonzero(light > np.quantile(light[light > 0], 0.9))
    assert rows.mean() < 145 and columns.mean() < 145, "upper left of the middle, which is at 150"
    assert light[150, 60] > light[150, 240] and light[60, 150] > light[240, 150]


def test_a_crease_is_darker_and_a_ridge_brighter_than_a_flat_place():
    x, y = np.meshgrid(np.linspace(-75, 75, 50), np.linspace(-75, 75, 50))
    for sign, darker in ((1, True), (-1, False)):
        cloud = np.stack([x, y, sign * 15 * np.abs(x) / 75], axis=-1).reshape(-1, 3)
        creases = surface(cloud).creases.reshape(50, 50)
        middle, side = creases[10:40, 24:26].mean(), creases[10:40, 8:16].mean()
        assert (middle < side - 0.05) if darker else (middle > side + 0.02)


def test_the_open_mouth_is_left_out_and_the_shut_one_is_not(face):
    for open_mouth in (False, True):
        axis = panel()
        draw_face(axis, surface(face(open_mouth)), window=FACE)
        light = pixels(axis)
        left, right, low, high = FACE
        # the panel is square and the window is not: its height fills the panel
        row = int(300 * (high + 45) / (high - low))
        assert (light[row - 4 : row + 4, 146:154] == 1).all() == open_mouth
        assert (light[100:110, 146:154] < 1).all(), "above the nose there is skin"


def test_far_outliers_are_joined_to_nothing(face):
    cloud = np.vstack([face(), [[0, 0, 400], [300, 0, 0]]])
    assert triangulated(cloud).max() < len(cloud) - 2


def test_what_lies_behind_is_hidden(face):
    """Two squares of a mesh, the far one listed last: the near one is seen, whatever the order."""
    square = np.array([[-50, -50], [50, -50], [50, 50], [-50, 50.0]])
    near, far = (np.column_stack([square, np.full(4, depth)]) for depth in (30, -30))
    triangles = np.array([[0, 1, 2], [0, 2, 3]])
    for order in ((0, 4), (4, 0)):
        points = np.vstack([near, far]) if order[0] == 0 else np.vstack([far, near])
        mesh = surface(points, np.vstack([triangles, triangles + 4]))
        axis = panel()
        values = np.where(points[:, 2] > 0, 1.0, 0.0)
        draw_face(axis, mesh, values=values, scale=(0, 1), window=(-60, 60, -60, 60))
        seen = mesh_of(axis).get_facecolor()[np.flatnonzero(values == 1)]
        middle = np.asarray(axis.figure.canvas.buffer_rgba() if pixels(axis).any() else None)
        assert np.allclose(middle[150, 150, :3] / 255, seen[0, :3], atol=0.02)


@pytest.mark.parametrize("axis", "yx")
@pytest.mark.parametrize("degrees", [-60, 60])
def test_a_turned_face_has_the_surface_of_the_frontal_one(axis, degrees, face):
    """The same triangles, but for some at the rim; a plane across the view would join far points."""
    frontal = {frozenset(each) for each in triangulated(face(True)).tolist()}
    turn = Rotation.from_euler(axis, degrees, degrees=True).as_matrix()
    turned = {frozenset(each) for each in triangulated(face(True) @ turn.T).tolist()}
    assert len(frontal & turned) > 0.95 * len(frontal | turned)


def test_the_side_that_is_hidden_is_not_drawn(face):
    """Of a face from which the camera removed what it did not see, nothing is made up."""
    cloud = face()
    seen = cloud[cloud[:, 0] < 0]
    axis = panel()
    draw_face(axis, surface(seen), window=FACE)
    light = pixels(axis)
    assert (light[:, 160:] == 1).all() and (light[140:160, 60:140] < 1).all()


def test_triangles_that_are_wound_the_other_way_round_look_the_same(face):
    cloud = face()
    triangles = triangulated(cloud)
    one, other = surface(cloud, triangles), surface(cloud, triangles[:, ::-1])
    assert np.allclose(one.brightness, other.brightness)


@pytest.mark.parametrize("wound", [1, -1])
def test_a_whole_head_is_lit_from_outside(wound):
    """Its normals cancel out, so that which side is out is not what most of them look at."""
    head = trimesh.creation.icosphere(3, 80)
    head.vertices[head.vertices[:, 2] > 0] *= [1, 1, 0.8]  # flatter in front
    drawn = surface(head.vertices, head.faces[:, ::wound])
    assert ((drawn.normals * head.vertices).sum(axis=1) > 0).mean() > 0.99


@pytest.mark.parametrize(
    "cloud",
    [
        np.zeros((0, 3)),
        np.zeros((2, 3)),
        np.zeros((50, 3)),
        np.outer(np.arange(50), [1, 2, 3]),
        np.column_stack([np.arange(50), np.zeros((50, 2))]),
    ],
    ids=["empty", "two", "all the same", "on a line", "on an axis"],
)
def test_what_is_no_face_is_drawn_without_a_word(cloud, recwarn):
    axis = panel()
    draw_face(axis, surface(cloud))
    assert pixels(axis).min() == 1 and not recwarn.list
    assert mesh_trace(surface(cloud))["type"] == "mesh3d"


def test_a_mesh_of_degenerate_triangles_is_drawn(recwarn):
    points = np.zeros((5, 3))
    draw_face(panel(), surface(points, np.array([[0, 1, 2], [2, 2, 2]])))
    assert not recwarn.list


def test_displacement_is_signed_millimetres_along_the_normal(face):
    reference = surface(sphere(4000))
    for shift in (3.0, -3.0):
        moved = sphere(3000)
        moved = moved[moved[:, 2] > 30] * (1 + shift / 80)
        found = displacement(moved, reference)
        assert np.allclose(found, shift, atol=0.15)
    beside = displacement(np.array([[0.0, 0, 83], [300.0, 0, 0]]), reference)
    assert np.isclose(beside[0], 3, atol=0.1) and np.isnan(beside[1])


def test_values_are_colours_of_the_scale_and_unknown_ones_have_none(face):
    cloud = face()
    values = np.where(cloud[:, 0] > 0, 5.0, -5.0)
    values[0] = np.nan
    axis = panel()
    mapped = draw_face(axis, surface(cloud), values=values, scale=(-5, 5))
    assert (
        mapped.get_clim() == (-5, 5) and mapped.get_cmap().name == colour_map((-5, 5)) == "RdBu_r"
    )
    red, _, blue, _ = mesh_of(axis).get_facecolor().T
    assert (red > blue)[values == 5].all() and (blue > red)[values == -5].all()
    assert np.isfinite([red, blue]).all() and abs(red[0] - blue[0]) < 0.2
    assert colour_map((0, 5)) != "RdBu_r"
    assert draw_face(panel(), surface(cloud)) is None


def test_windows_are_equally_large_and_around_each_face(face):
    small, large = face(), 1.5 * face(True) + [200, -50, 0]
    stray = np.vstack([small, [[5000, 0, 0]]])
    edges = np.array(windows([small, large, stray]))
    widths, heights = edges[:, 1] - edges[:, 0], edges[:, 3] - edges[:, 2]
    assert np.allclose(widths, widths[0]) and np.allclose(heights, heights[0])
    assert widths[0] >= 1.5 * 128 and np.allclose(edges[0], edges[2], atol=3), "a stray is no face"
    assert edges[1, 0] < 200 < edges[1, 1] and edges[0, 0] < 0 < edges[0, 1]


def test_close_ups_lie_within_the_face():
    for left, right, low, high in (MOUTH, BROWS):
        assert FACE[0] < left < right < FACE[1] and FACE[2] < low < high < FACE[3]
    assert MOUTH[3] <= BROWS[2]


def scan(cloud, subject="F0001", expression="fear"):
    key = ScanKey(subject, expression, 4)
    return FaceScan(cloud.astype("f4"), triangulated(cloud).astype("i4"), key, "made up")


def test_a_sheet_of_scans_has_one_scale_and_names_each(face):
    rows = [[scan(face()), scan(2 * face(True))], [scan(face() + 400, "a $b$ 脸")]]
    figure = scan_sheet(rows, "title $x$")
    lengths = [np.ptp(axis.get_xlim()) for axis in figure.axes[:3]]
    assert np.allclose(lengths, lengths[0]) and lengths[0] > 2 * 128
    assert figure.axes[1].get_title() == "F0001 fear 4" and "b" in figure.axes[2].get_title()
    sizes = [np.ptp(mesh_of(axis)._triangulation.x) for axis in figure.axes[:2]]
    assert np.isclose(sizes[1] / sizes[0], 2, rtol=0.02)
    figure.savefig("/dev/null", format="png")


def test_a_huge_scan_is_drawn_with_fewer_points_and_all_its_holes():
    """A bulging sheet of 490,000 points with a hole of 30 mm: as large, as deep, and with the hole."""
    x, y = (each.ravel() for each in np.meshgrid(*2 * [np.linspace(-75, 75, 700)]))
    points = np.column_stack([x, y, 30 - (x**2 + y**2) / 200])
    corner = np.arange(490_000).reshape(700, 700)[:-1, :-1].ravel()
    halves = [[0, 1, 701], [0, 701, 700]]
    triangles = np.concatenate([corner[:, None] + np.array(half) for half in halves])
    triangles = triangles[np.hypot(x, y)[triangles].min(axis=1) > 15]
    key = ScanKey("F0001", "fear", 4)
    figure = scan_sheet([[FaceScan(points.astype("f4"), triangles.astype("i4"), key, "x")]], "huge")
    drawn = mesh_of(figure.axes[0])._triangulation
    assert len(drawn.x) < 80_000 and np.isclose(np.ptp(drawn.x), 150, atol=1)
    assert 14 < np.hypot(drawn.x, drawn.y)[drawn.triangles].min() < 16
    a, b, c = (np.stack([drawn.x, drawn.y], axis=1)[drawn.triangles[:, n]] for n in range(3))
    (u, v), (s, t) = (b - a).T, (c - a).T
    assert np.isclose(np.abs(u * t - v * s).sum() / 2, 150**2 - np.pi * 15**2, rtol=0.02)


def test_a_scale_bar_is_as_long_as_it_says():
    axis = panel()
    axis.set(xlim=(-80, 80), ylim=(-97, 91))
    scale_bar(axis, 50)
    assert np.ptp(axis.lines[0].get_xdata()) == 50 and axis.texts[0].get_text() == "50 mm"


def test_plotly_gets_the_same_surface_and_shade(face):
    drawn = surface(face(True))
    trace = mesh_trace(drawn, "#808080")
    assert np.allclose(np.stack([trace[each] for each in "xyz"], axis=1), drawn.points, atol=1e-3)
    assert (np.stack([trace[each] for each in "ijk"], axis=1) == drawn.triangles).all()
    assert np.allclose(trace["intensity"], drawn.creases)
    low, high = trace["cmin"], trace["cmax"]
    assert low <= drawn.creases.min() and drawn.creases.max() <= high
    assert trace["colorscale"][0][1] == "#" + 3 * f"{round(128 * low):02x}"
    valued = mesh_trace(drawn, values=np.full(len(drawn.points), np.nan))
    assert (valued["intensity"] == 0).all() and valued["coloraxis"] == "coloraxis"
    lamp = trace["lightposition"]
    assert np.sign([lamp["x"], lamp["y"]]).tolist() == np.sign(LAMP[:2]).tolist()
