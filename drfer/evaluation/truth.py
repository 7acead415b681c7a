"""The open faces without noise: what the generator knows of them, for measurements alone."""

from __future__ import annotations

import numpy as np

from drfer.datasets.anny3dfe import head as open_head
from drfer.preprocessing import template as common_mesh
from drfer.preprocessing.faceset import FaceSet


def true_faces(dataset, subject: str, activations: np.ndarray) -> np.ndarray:
    """Return a subject's noise-free faces at the template's vertices.

    Args:
        dataset: open faces, which know the truth.
        subject: whose face it is.
        activations: strengths of the face units, shape (k, 52).

    Returns:
        Points in the template's frame, shape (k, 39923, 3), mm.
    """
    head, template = open_head.load(), common_mesh.load()
    surfaces = head.subdivide(head.pose_face(dataset.true_neutral(subject), activations))
    return _at_template(surfaces, head, template)


def activations_of(faces: FaceSet, scans: np.ndarray) -> np.ndarray:
    """Return how strongly each face unit moves in some scans of open faces, shape (n, 52)."""
    return np.stack([faces.dataset.truth(faces.keys[scan]).activation for scan in scans])


def registered_true_faces(
    faces: FaceSet, scans: np.ndarray, activations: np.ndarray
) -> list[np.ndarray]:
    """Return noise-free faces where registration puts given scans of the same people.

    A network sees scans as they are registered, some tenths of a millimetre beside the truth.

    Args:
        faces: of open faces.
        scans: whose people the faces show, and whose registrations count, shape (n,).
        activations: strengths of the face units, shape (n, 52).

    Returns:
        For each scan a face in the template's frame, shape (39923, 3), mm.
    """
    subjects = np.array([faces.keys[scan].subject for scan in scans])
    found: list[np.ndarray] = [np.empty(0)] * len(scans)
    for subject in dict.fromkeys(subjects):
        rows = np.flatnonzero(subjects == subject)
        in_frame = true_faces(faces.dataset, subject, activations[rows])
        for row, face in zip(rows, in_frame):
            found[row] = _registered(face, faces, scans[row])
    return found


def _registered(face: np.ndarray, faces: FaceSet, scan: int) -> np.ndarray:
    """Move a face from the template's frame to the scanner's and back, as registration did."""
    from_head = faces.poses[scan] @ faces.dataset.truth(faces.keys[scan]).pose
    return (face + common_mesh.load().origin) @ from_head[:3, :3].T + from_head[:3, 3]


def _at_template(surfaces: np.ndarray, head, template) -> np.ndarray:
    corners = surfaces[:, head.fine_triangles[template.head_triangle]]
    uv = template.head_place
    barycentric = np.column_stack([1 - uv.sum(axis=1), uv])[..., None]
    return (corners * barycentric).sum(axis=2) - template.origin
