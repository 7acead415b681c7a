"""The nearest points on a triangle mesh, and the mesh's border."""

from __future__ import annotations

import numba
import numpy as np

from drfer.fast.compiled import interrupts_held

CELL = 2.0
"""Width of the search grid's cells, mm: a little more than an edge of a scan."""
MOST_CELLS = 4_000_000
"""A mesh with stray triangles far away would need more cells; it gets larger ones."""
MOST_ENTRIES = 40_000_000
"""The same for the entries of triangles in cells: a large triangle lies in many."""


def nearest_on_surface(
    queries: np.ndarray, points: np.ndarray, triangles: np.ndarray, reach: float, order: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find what on a mesh is nearest to each of some points, in float64.

    Args:
        queries: the points, shape (k, 3), mm.
        points: of the mesh, shape (n, 3), mm.
        triangles: of the mesh, shape (m, 3).
        reach: what lies farther away does not count, mm.
        order: the order in which the queries are answered, shape (k,); the search is faster if
            near ones follow each other.

    Returns:
        For each query
        the nearest triangle, shape (k,), or -1 if nothing is within reach;
        the nearest point's barycentric coordinates, shape (k, 3), which are exactly 0 beside an
        edge and 1 at a corner;
        and the nearest point itself, shape (k, 3), or the query if nothing is within reach.
    """
    corners = np.ascontiguousarray(points, dtype=np.float64)[triangles]
    low, high = corners.min(axis=1), corners.max(axis=1)
    first = low[:, :2].min(axis=0)
    cell = _cell_width(low[:, :2] - first, high[:, :2] - first)
    with interrupts_held():  # the first call compiles
        grid = _grid(low, high, first, cell)
        queries = np.ascontiguousarray(queries, dtype=np.float64)
        return _search(queries, corners, low, high, first, cell, *grid, reach, order)


def border_edges(triangles: np.ndarray, points: int) -> np.ndarray:
    """Return the codes (see `edge_codes`), in order, of edges that belong to one triangle only.

    Args:
        triangles: shape (m, 3).
        points: how many points the mesh has.
    """
    codes = np.sort(edge_codes(triangles, points), axis=None)
    new = np.concatenate([[True], codes[1:] != codes[:-1], [True]])
    return codes[new[:-1] & new[1:]]


def edge_codes(triangles: np.ndarray, points: int) -> np.ndarray:
    """Return one number for each edge, the same in both triangles that share it.

    Args:
        triangles: shape (m, 3).
        points: how many points the mesh has.

    Returns:
        The code `lower end * points + higher end` of the edge opposite each corner, shape (m, 3).
    """
    one = np.roll(triangles, -1, axis=1).astype(np.int64)
    other = np.roll(triangles, -2, axis=1).astype(np.int64)
    return np.minimum(one, other) * points + np.maximum(one, other)


def _cell_width(low: np.ndarray, high: np.ndarray) -> float:
    """Double the cells until the grid fits in memory; boxes (m, 2) are given from its corner."""
    cell = CELL
    while True:
        columns, rows = high.max(axis=0) // cell + 1
        across, along = (high // cell - low // cell + 1).T
        if columns * rows == 1 or (
            columns * rows <= MOST_CELLS and (across * along).sum() <= MOST_ENTRIES
        ):
            return cell
        cell *= 2


@numba.njit(cache=True)
def _grid(low, high, first, cell):
    """Put each triangle into all cells over x and y that its box touches.

    The triangles of a cell are members[start[cell] : start[cell + 1]]; bottom and top are the
    lowest and highest z of their boxes.
    """
    columns = int((high[:, 0].max() - first[0]) / cell) + 1
    rows = int((high[:, 1].max() - first[1]) / cell) + 1
    start = np.zeros(columns * rows + 1, dtype=np.int64)
    bottom, top = np.full((columns, rows), np.inf), np.full((columns, rows), -np.inf)
    members = np.empty(0, dtype=np.int32)
    for filling in range(2):
        for t in range(len(low)):
            left, right = int((low[t, 0] - first[0]) / cell), int((high[t, 0] - first[0]) / cell)
            front, back = int((low[t, 1] - first[1]) / cell), int((high[t, 1] - first[1]) / cell)
            for i in range(left, right + 1):
                for j in range(front, back + 1):
                    if filling:
                        start[i * rows + j] -= 1
                        members[start[i * rows + j]] = t
                    else:
                        start[i * rows + j] += 1
                        bottom[i, j] = min(bottom[i, j], low[t, 2])
                        top[i, j] = max(top[i, j], high[t, 2])
        if not filling:
            # from how many triangles each cell has to where they end; filling counts this down
            # to where they start
            start = np.cumsum(start)
            members = np.empty(start[-1], dtype=np.int32)
    return start, members, bottom, top


@numba.njit(cache=True)
def _search(queries, corners, low, high, first, cell, start, members, bottom, top, reach, order):
    """Exact nearest points.

    A triangle lies in every cell that its box touches. It is passed over only if its box, or all
    cells that hold it, are no nearer than the nearest point found so far. Two guesses come first,
    which leave little to search: the triangle that was nearest to the query before, and those in
    the cell of its point that is nearest to this query.
    """
    columns, rows = bottom.shape
    triangle, weights = np.full(len(queries), -1), np.zeros((len(queries), 3))
    nearest = queries.copy()
    tried = np.full(len(corners), -1)
    latest = 0
    for k in order:
        x, y, z = queries[k]
        least, wa, wb, wc = _nearest_in_triangle(corners, latest, x, y, z)
        found = latest
        at_x = wa * corners[found, 0, 0] + wb * corners[found, 1, 0] + wc * corners[found, 2, 0]
        at_y = wa * corners[found, 0, 1] + wb * corners[found, 1, 1] + wc * corners[found, 2, 1]
        left = right = int((at_x - first[0]) / cell)
        front = back = int((at_y - first[1]) / cell)
        for everywhere in range(2):
            if everywhere:
                if least > reach * reach:
                    least, found = reach * reach, -1
                radius = np.sqrt(least)
                left = int((x - radius - first[0]) / cell)
                right = int((x + radius - first[0]) / cell)
                front = int((y - radius - first[1]) / cell)
                back = int((y + radius - first[1]) / cell)
            for i in range(max(left, 0), min(right + 1, columns)):
                dx = max(first[0] + i * cell - x, x - first[0] - (i + 1) * cell, 0.0)
                for j in range(max(front, 0), min(back + 1, rows)):
                    dy = max(first[1] + j * cell - y, y - first[1] - (j + 1) * cell, 0.0)
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
    """Return the squared distance of a triangle's nearest point, and its barycentric coordinates.

    The point lies inside the triangle, or on the nearest of its edges.
    """
    ax, ay, az = corners[t, 0, 0] - x, corners[t, 0, 1] - y, corners[t, 0, 2] - z
    bx, by, bz = corners[t, 1, 0] - x - ax, corners[t, 1, 1] - y - ay, corners[t, 1, 2] - z - az
    cx, cy, cz = corners[t, 2, 0] - x - ax, corners[t, 2, 1] - y - ay, corners[t, 2, 2] - z - az
    bb = bx * bx + by * by + bz * bz
    bc = bx * cx + by * cy + bz * cz
    cc = cx * cx + cy * cy + cz * cz
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
