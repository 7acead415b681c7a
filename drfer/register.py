"""Scans on the common mesh: `drfer register`, for whoever wants a pose or a mesh, and no expression."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from drfer.common.errors import DrferError
from drfer.common.files import write_json, written_whole
from drfer.datasets.scan import FaceScan
from drfer.each_scan import each_scan, output_name
from drfer.figures.faces import CLAY, draw_face, scale_bar, simplified, surface
from drfer.figures.style import BLUE, NORMAL, ORANGE, literal, look, save, sheet
from drfer.preprocessing import template as common_mesh
from drfer.preprocessing.resampling import OTHER_FACES, Carried, carry_template

DOUBT = "it registers less well than a good scan of a face ({}): look at the picture"
WIRES = 1000
"""Vertices of the mesh that a picture draws over the scan."""


@dataclass(frozen=True)
class Answer:
    """What is said of one file: where its mesh, pose and picture are, or why there are none."""

    source: str
    """The file, and what was decided about it, such as its unit."""
    carried: Carried | None = None
    """None if the scan was refused."""
    refusal: str = ""
    """Why it was."""
    written: tuple[Path, ...] = ()
    """Mesh, pose and picture."""

    def as_text(self) -> str:
        """Return the answer in a few lines."""
        if self.carried is None:
            return f"{self.source}: refused\n  {self.refusal}"
        fit = self.carried.registration
        lines = [
            self.source,
            f"  residual {fit.residual:.2f} mm, {1 - self.carried.missing.mean():.0%} of the mesh found",
        ]
        if self.carried.doubts:
            lines.append(f"  {DOUBT.format('; '.join(self.carried.doubts))}")
        return "\n".join([*lines, *(f"  {path}" for path in self.written)])


def answers(paths: tuple[Path, ...], up: str, unit: str | None, out: Path) -> Iterator[Answer]:
    """Register files, and write a mesh, a pose and a picture for each.

    Args:
        paths: files with one face each.
        up: the axis that points up in them, such as "z" or "-y".
        unit: their unit, such as "cm"; None if it is to be judged by their size.
        out: the folder to write into.

    Raises:
        DrferError: there is no file, or no such axis or unit.
    """

    def carried(scan: FaceScan) -> tuple[FaceScan, Carried]:
        return scan, carry_template(scan, OTHER_FACES)

    for path, made, refusal in each_scan(paths, up, unit, carried):
        if made is None:
            yield Answer(str(path), refusal=refusal)
            continue
        scan, result = made
        try:
            written = write(scan, result, out / output_name(path, up, unit))
        except DrferError as error:
            yield Answer(scan.source, refusal=str(error))
        else:
            yield Answer(scan.source, result, written=written)


def write(scan: FaceScan, carried: Carried, stem: Path) -> tuple[Path, ...]:
    """Write a registered scan as STEM.ply, STEM.json and STEM.png, and return these.

    Raises:
        DrferError: one of them cannot be written.
    """
    paths = tuple(stem.with_name(stem.name + suffix) for suffix in (".ply", ".json", ".png"))
    mesh, pose, drawn = paths
    write_mesh(carried, mesh)
    write_json(pose, pose_of(scan, carried))
    save(picture(scan, carried), drawn, small=False)
    return paths


def write_mesh(carried: Carried, path: Path) -> None:
    """Write the template's mesh on a scan as a binary PLY file, in mm.

    All these files have the same 39,923 vertices and the same triangles, so that a vertex is the
    same place of the face in each. Where the scan has no surface, `missing` is 1 and the colour is
    orange.

    Raises:
        DrferError: it cannot be written.
    """
    import trimesh

    colours = np.where(carried.missing[:, None], _bytes_of(ORANGE), _bytes_of(CLAY))
    mesh = trimesh.Trimesh(
        carried.points, common_mesh.load().triangles, process=False, vertex_colors=colours
    )
    mesh.vertex_attributes["missing"] = carried.missing.astype(np.uint8)
    with written_whole(path) as target:
        mesh.export(target, file_type="ply")


def _bytes_of(colour: str) -> np.ndarray:
    return np.array([*bytes.fromhex(colour[1:]), 255], dtype=np.uint8)


def pose_of(scan: FaceScan, carried: Carried) -> dict:
    """Return what is known of a registration, as JSON has it."""
    fit = carried.registration
    return {
        "scan": scan.source,
        "from the file to the template, mm": (fit.pose @ scan.from_file).tolist(),
        "residual, mm": round(fit.residual, 3),
        "strain": round(fit.strain, 3),
        "share of the mesh found": round(float(1 - carried.missing.mean()), 4),
        "doubtful": bool(carried.doubts),
        "doubts": list(carried.doubts),
    }


@look()
def picture(scan: FaceScan, carried: Carried) -> Figure:
    """Return a figure of the scan in the template's pose, the mesh on it, and both in one place."""
    template, pose = common_mesh.load(), carried.registration.pose
    points, triangles = simplified(scan.points, scan.triangles)
    scanned = surface(points @ pose[:3, :3].T + pose[:3, 3], triangles)
    kept = template.triangles[~carried.missing[template.triangles].any(axis=1)]
    wires = template.coarse_triangles(WIRES)
    wires = wires[~carried.missing[wires].any(axis=1)]
    figure, (axes,) = sheet(1, 3, (10, 4.6))
    draw_face(axes[0], scanned)
    draw_face(axes[1], surface(carried.points, kept, smooth=False))
    draw_face(axes[2], scanned)
    axes[2].triplot(*carried.points[:WIRES, :2].T, wires, color=BLUE, linewidth=0.5)
    titles = (
        "the scan, turned",
        "the common mesh on it",
        f"both ({WIRES:,} of {len(carried.points):,} vertices)",
    )
    for panel, title in zip(axes, titles):
        panel.set_title(title, size=NORMAL)
    scale_bar(axes[0])
    figure.suptitle(literal(scan.source), size=NORMAL)
    return figure
