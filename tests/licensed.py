"""Writes trees laid out as BU-3DFE and Bosphorus are, from open faces, with real copies' quirks."""

import io

import numpy as np
from scipy.interpolate import LinearNDInterpolator
from scipy.spatial import cKDTree

from drfer.datasets.bosphorus import EXPRESSION_CODES as BOSPHORUS_CODES
from drfer.datasets.bosphorus import mesh_of_range_image, read_bnt, read_nose_tip
from drfer.datasets.bu3dfe import EXPRESSION_CODES as BU_CODES
from drfer.datasets.bu3dfe import read_vrml
from drfer.datasets.scan import NEUTRAL
from drfer.datasets.scan_file import read_scan

RACES = ("AE", "AM", "BL", "IN", "LA", "WH")
BACKGROUND = -1e9
LM3_NAMES = (
    "Outer left eyebrow",
    "Middle of the left eyebrow",
    "Inner left eyebrow",
    "Inner right eyebrow",
    "Nose tip",
    "Left mouth corner",
    "Chin middle",
)


def write_bu3dfe(root, database, subjects):
    """One folder a subject; the layout of the files varies from scan to scan."""
    for number, subject in enumerate(subjects):
        folder = root / "Subjects" / subject if number % 3 == 0 else root / subject
        folder.mkdir(parents=True)
        for key in [
            key for key in database.keys() if key.subject == subject and key.intensity in (0, 3, 4)
        ]:
            code = next(code for code, name in BU_CODES.items() if name == key.expression)
            stem = f"{subject}_{code}{key.intensity:02d}{RACES[number % 6]}"
            scan = database.load(key)
            style = (number + key.intensity + len(key.expression)) % 4
            (folder / f"{stem}_F3D.wrl").write_text(vrml(scan.points, scan.triangles, style))
            (folder / f"{stem}_F3D.bnd").write_text("landmarks, which are not to be read\n")
            (folder / f"{stem}_RAW.wrl").write_text(
                "#VRML V2.0 utf8\n# the whole capture, not to be read\n"
            )
            (folder / f"{stem}_F2D.bmp").write_bytes(b"BM")


def vrml(points, triangles, style=0):
    """A face as VRML text.

    Styles: 0 the common layout, 1 several triplets a line and commas between indices, 2 keywords on
    lines of their own and polygons of four, 3 the registered variant's short header.
    """
    triplets = [f"{x:.4f} {y:.4f} {z:.4f}" for x, y, z in points]
    polygons = [list(map(int, triangle)) for triangle in triangles]
    if style == 2:
        polygons = with_quadrilaterals(polygons)
    header = [
        "#VRML V2.0 utf8",
        *[f"# line {number} of the header" for number in range(2, 3 if style == 3 else 14)],
    ]
    coordinate = (
        ["coord Coordinate", "{", "point", "["] if style == 2 else ["coord Coordinate {", "point ["]
    )
    per_line = 3 if style == 1 else 1
    joined = [
        ",  ".join(triplets[start : start + per_line])
        for start in range(0, len(triplets), per_line)
    ]
    separator = ", " if style in (1, 3) else " "
    ends = ",\n" if style != 1 else "\n"
    faces = ends.join(
        separator.join(map(str, [*polygon, -1])) + ("," if style == 1 else "")
        for polygon in polygons
    )
    return "\n".join(
        [
            *header,
            "Shape {",
            "geometry IndexedFaceSet {",
            *coordinate,
            ",\n".join(f"   {line}" for line in joined),
            "  ]",
            "}",
            "coordIndex [",
            faces,
            "]",
            "texCoord TextureCoordinate {",
            "point [",
            "0.1 0.2,",
            "0.3 0.4",
            "]",
            "}",
            "texCoordIndex [",
            "0 1 0 -1",
            "]",
            "}",
            "}",
            "",
        ]
    )


def with_quadrilaterals(polygons):
    """Join triangles a b c, a c d that follow each other, so that a fan gives them back."""
    joined, number = [], 0
    while number < len(polygons):
        a, b = polygons[number], polygons[number + 1] if number + 1 < len(polygons) else None
        if b is not None and b[0] == a[0] and b[1] == a[2]:
            joined.append([*a, b[2]])
            number += 2
        else:
            joined.append(a)
            number += 1
    return joined


def write_bosphorus(root, database, subjects, spacing=1.0):
    """Flat folders of range images, `.lm3` landmarks for most, and a few other files."""
    for number, subject in enumerate(subjects):
        folder = root / f"bs{number:03d}"
        folder.mkdir(parents=True)
        for key in [
            key for key in database.keys() if key.subject == subject and key.intensity in (0, 4)
        ]:
            code = "N_N" if key.expression == NEUTRAL else f"E_{bosphorus_code(key.expression)}"
            stem = folder / f"bs{number:03d}_{code}_0"
            scan = database.load(key)
            image = range_image(scan.points, spacing, seed=number)
            stem.with_suffix(".bnt").write_bytes(bnt(image, f"{stem.name}.png"))
            if number % 4 != 3:
                stem.with_suffix(".lm3").write_bytes(lm3(database.truth(key).pose[:3, 3]))
        (folder / f"bs{number:03d}_LFAU_lw10_0.bnt").write_bytes(b"")
        (folder / f"bs{number:03d}_N_N_0.png").write_bytes(b"\x89PNG")


def bosphorus_code(expression):
    return next(code for code, name in BOSPHORUS_CODES.items() if name == expression)


def range_image(points, spacing, seed):
    """(rows, columns, 5), bottom row first, with background, spikes and an island of hair."""
    rng = np.random.default_rng(seed)
    low, high = points[:, :2].min(axis=0) - 4, points[:, :2].max(axis=0) + 4
    x, y = np.meshgrid(np.arange(low[0], high[0], spacing), np.arange(low[1], high[1], spacing))
    z = LinearNDInterpolator(points[:, :2], points[:, 2])(x, y)
    far = (
        cKDTree(points[:, :2]).query(np.column_stack([x.ravel(), y.ravel()]))[0].reshape(x.shape)
        > 2
    )
    seen = ~far & np.isfinite(z)
    for row, column in rng.integers(5, min(x.shape) - 5, (12, 2)):
        z[row, column] += rng.choice([-1, 1]) * rng.uniform(15, 60)
    image = np.stack(
        [x, y, z, *np.meshgrid(np.linspace(0, 1, x.shape[1]), np.linspace(0, 1, x.shape[0]))],
        axis=-1,
    )
    image[~seen, :3] = BACKGROUND
    image[1:4, 1:4, :3] = np.stack(
        [x[1:4, 1:4], y[1:4, 1:4], np.full((3, 3), points[:, 2].max() + 30)], axis=-1
    )
    seen_rows, seen_columns = np.nonzero(seen)
    image[seen_rows[7], seen_columns[7], 0] = BACKGROUND  # background by one coordinate alone
    return image


def bnt(image, name):
    rows, columns, _ = image.shape
    planes = np.moveaxis(image, -1, 0).astype("<f8")
    title = name.encode()
    return (
        np.array([rows, columns], "<u2").tobytes()
        + np.array([BACKGROUND], "<f8").tobytes()
        + np.array([len(title)], "<u2").tobytes()
        + title
        + np.array([planes.size], "<u4").tobytes()
        + planes.tobytes()
    )


def lm3(nose):
    positions = nose + np.array(
        [
            [45, 45, -30],
            [30, 50, -20],
            [10, 48, -15],
            [-10, 48, -15],
            [0, 0, 0],
            [25, -35, -20],
            [0, -70, -15],
        ]
    )
    lines = ["# 3D Landmark File", "* made for a test", "", f"{len(LM3_NAMES)} landmarks:"]
    for name, position in zip(LM3_NAMES, positions):
        lines += [name, " ".join(f"{value:.4f}" for value in position)]
    return ("\r\n".join(lines) + "\r\n").encode()


def small_files(scan, points, spacing):
    """A sound file of each format, and how it is read: {suffix: (bytes, function of a path)}.

    It holds the first so many points of a scan; a range image all, so many mm apart.
    """
    import trimesh

    image, kept = range_image(scan.points, spacing, seed=0), (scan.triangles < points).all(axis=1)
    points, triangles = scan.points[:points], scan.triangles[kept]
    mesh = trimesh.Trimesh(points, triangles, process=False)
    return {
        "wrl": (vrml(points, triangles, 2).encode(), read_vrml),
        "bnt": (bnt(image, "a.png"), lambda path: mesh_of_range_image(path, read_bnt(path))),
        "lm3": (lm3(points[np.argmax(points[:, 2])]), read_nose_tip),
        **{
            suffix: (
                exported
                if isinstance(exported := mesh.export(file_type=suffix), bytes)
                else exported.encode(),
                lambda path: read_scan(path, scan.key),
            )
            for suffix in ("obj", "ply", "stl")
        },
        "xyz": (_text_of(scan.points[:700]), lambda path: read_scan(path, scan.key)),
        "npy": (_array_of(scan.points[:700]), lambda path: read_scan(path, scan.key)),
    }


def _text_of(points):
    return "\n".join(" ".join(map(str, point)) for point in points).encode()


def _array_of(points):
    file = io.BytesIO()
    np.save(file, points)
    return file.getvalue()
