"""The nearest places on a triangle mesh, and the mesh's border."""

from __future__ import annotations

import numba
import numpy as np

CELL = 2.0
"""width of the grid's cells, mm: a little more than an edge of a scan"""


def nearest_on_surface(
    places: np.ndarray, points: np.ndarray, triangles: np.ndarray, reach: float, order: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What on a mesh (n, 3), (m, 3) is nearest to each of `places` (k, 3), mm: its triangle (k,), -1 where nothing lies
    within `reach`; the weights (k, 3) of the triangle's corners, exactly 0 beside an edge and 1 at a corner; and where
    that is (k, 3), the place itself where there is nothing.

    The search is in float64, place by place in an order (k,); it goes faster if near ones follow each other.
    """
    corners = np.ascontiguousarray(points, dtype=np.float64)[triangles]
    return _search(
        np.ascontiguousarray(places, dtype=np.float64), corners, *_grid(corners), reach, order
    )


def border_edges(triangles: np.ndarray, points: int) -> np.ndarray:
    """Codes (see `edge_codes`), in order, of the edges that belong to one triangle only."""
    codes = np.sort(edge_codes(triangles, points), axis=None)
    new = np.concatenate([[True], codes[1:] != codes[:-1], [True]])
    return codes[new[:-1] & new[1:]]


def edge_codes(triangles: np.ndarray, points: int) -> np.ndarray:
    """One number (m, 3) for the edge opposite each corner, the same in both triangles: lower end * points + higher."""
    ends = (
        np.roll(triangles, -1, axis=1).astype(np.int64),
        np.roll(triangles, -2, axis=1).astype(np.int64),
    )
    return np.minimum(*ends) * points + np.maximum(*ends)


@numba.njit(cache=True)
def _grid(corners):
    """Each triangle into all cells over x, y that its box touches: of a cell, members[start[cell] : start[cell + 1]]
    and the lowest and highest z. Also each triangle's box."""
    low, high = np.empty((len(corners), 3)), np.empty((len(corners), 3))
    for t in range(len(corners)):
        for axis in range(3):
            low[t, axis] = min(corners[t, 0, axis], corners[t, 1, axis], corners[t, 2, axis])
            high[t, axis] = max(corners[t, 0, axis], corners[t, 1, axis], corners[t, 2, axis])
    first = np.array([low[:, 0].min(), low[:, 1].min()])
    columns, rows = (
        int((high[:, 0].max() - first[0]) / CELL) + 1,
        int((high[:, 1].max() - first[1]) / CELL) + 1,
    )
    start = np.zeros(columns * rows + 1, dtype=np.int64)
    bottom, top = np.full((columns, rows), np.inf), np.full((columns, rows), -np.inf)
    members = np.empty(0, dtype=np.int32)
    for filling in range(2):
        for t in range(len(corners)):
            for i in range(
                int((low[t, 0] - first[0]) / CELL), int((high[t, 0] - first[0]) / CELL) + 1
            ):
                for j in range(
                    int((low[t, 1] - first[1]) / CELL), int((high[t, 1] - first[1]) / CELL) + 1
                ):
                    if filling:
                        start[i * rows + j] -= 1
                        members[start[i * rows + j]] = t
                    else:
                        start[i * rows + j] += 1
                        bottom[i, j], top[i, j] = (
                            min(bottom[i, j], low[t, 2]),
                            max(top[i, j], high[t, 2]),
                        )
        if not filling:  # from how many each cell has to where it ends; filling, this goes down to where it starts
            start = np.cumsum(start)
            members = np.empty(start[-1], dtype=np.int32)
    return low, high, first, start, members, bottom, top


@numba.njit(cache=True)
def _search(places, corners, low, high, first, start, members, bottom, top, reach, order):
    """Exact: a triangle lies in every cell that its box touches, and is passed over only if its box, which holds it, or
    all cells that hold its parts are no nearer than the nearest place found so far. The triangle that was nearest to
    the place before, and then those in the cell where it is nearest to this one, are tried first: little is left then.
    """
    columns, rows = bottom.shape
    triangle, weights, nearest = np.full(len(places), -1), np.zeros((len(places), 3)), places.copy()
    tried = np.full(len(corners), -1)
    latest = 0
    for k in order:
        x, y, z = places[k]
        least, wa, wb, wc = _nearest_in_triangle(corners, latest, x, y, z)
        found = latest
        left = right = int(
            (
                wa * corners[found, 0, 0]
                + wb * corners[found, 1, 0]
                + wc * corners[found, 2, 0]
                - first[0]
            )
            / CELL
        )
        front = back = int(
            (
                wa * corners[found, 0, 1]
                + wb * corners[found, 1, 1]
                + wc * corners[found, 2, 1]
                - first[1]
            )
            / CELL
        )
        for everywhere in range(2):
            if everywhere:
                if least > reach * reach:
                    least, found = reach * reach, -1
                radius = np.sqrt(least)
                left, right = (
                    int((x - radius - first[0]) / CELL),
                    int((x + radius - first[0]) / CELL),
                )
                front, back = (
                    int((y - radius - first[1]) / CELL),
                    int((y + radius - first[1]) / CELL),
                )
            for i in range(max(left, 0), min(right + 1, columns)):
                dx = max(first[0] + i * CELL - x, x - first[0] - (i + 1) * CELL, 0.0)
                for j in range(max(front, 0), min(back + 1, rows)):
                    dy = max(first[1] + j * CELL - y, y - first[1] - (j + 1) * CELL, 0.0)
                    dz = max(bottom[i, j] - z, z - top[i, j], 0.0)
                    if dx * dx + dy * dy + dz * dz >= least:
                        continue
                    for member in range(start[i * rows + j], start[i * rows + j + 1]):
                        t = members[member]
                        if tried[t] == k:
                            continue
                        tried[t] = k
                        bx = max(low[t, 0] - x, x - high[t, 0], 0.0)
                        by = max(low[t, 1] - y, y - high[t, 1], 0.0)
                        bz = max(low[t, 2] - z, z - high[t, 2], 0.0)
                        if bx * bx + by * by + bz * bz < least:
                            squared, a, b, c = _nearest_in_triangle(corners, t, x, y, z)
                            if squared < least:
                                least, found, wa, wb, wc = squared, t, a, b, c
        if found >= 0:
            triangle[k], latest = found, found
            weights[k] = wa, wb, wc
            nearest[k] = wa * corners[found, 0] + wb * corners[found, 1] + wc * corners[found, 2]
    return triangle, weights, nearest


@numba.njit(cache=True, inline="always")
def _nearest_in_triangle(corners, t, x, y, z):
    """Squared distance of a triangle's nearest place, and the weights of its corners: inside it, or on the nearest of
    its edges."""
    ax, ay, az = corners[t, 0, 0] - x, corners[t, 0, 1] - y, corners[t, 0, 2] - z
    bx, by, bz = corners[t, 1, 0] - x - ax, corners[t, 1, 1] - y - ay, corners[t, 1, 2] - z - az
    cx, cy, cz = corners[t, 2, 0] - x - ax, corners[t, 2, 1] - y - ay, corners[t, 2, 2] - z - az
    bb, bc, cc = (
        bx * bx + by * by + bz * bz,
        bx * cx + by * cy + bz * cz,
        cx * cx + cy * cy + cz * cz,
    )
    ab, ac = -(bx * ax + by * ay + bz * az), -(cx * ax + cy * ay + cz * az)
    b, c, area = cc * ab - bc * ac, bb * ac - bc * ab, bb * cc - bc * bc
    if b > 0 and c > 0 and b + c < area:
        b, c = b / area, c / area
        a = 1 - b - c
    else:  # squared distances below are less that of the first corner
        b, c = min(max(ab / max(bb, 1e-30), 0.0), 1.0), 0.0
        a, least = 1 - b, b * (b * bb - 2 * ab)
        along = min(max(ac / max(cc, 1e-30), 0.0), 1.0)
        if along * (along * cc - 2 * ac) < least:
            a, b, c, least = 1 - along, 0.0, along, along * (along * cc - 2 * ac)
        far, towards = bb - 2 * bc + cc, ac - ab + bb - bc
        along = min(max(towards / max(far, 1e-30), 0.0), 1.0)
        if bb - 2 * ab + along * (along * far - 2 * towards) < least:
            a, b, c = 0.0, 1 - along, along
    dx, dy, dz = ax + b * bx + c * cx, ay + b * by + c * cy, az + b * bz + c * cz
    return dx * dx + dy * dy + dz * dz, a, b, c
