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
        the nearest point's barycentric coordinates, shape (k, 3): on an edge that of the opposite
        corner is exactly 0, and at a corner its own is exactly 1;
        and the nearest point itself, shape (k, 3), or the query if nothing is within reach.
    """
    corners = np.ascontiguousarray(points, dtype=np.float64)[triangles]
    queries = np.ascontiguousarray(queries, dtype=np.float64)
    with interrupts_held():  # the first calls compile
        low, high, planes = _boxes_and_planes(corners)
        first = low[:, :2].min(axis=0)
        cell = _cell_width(low[:, :2] - first, high[:, :2] - first)
        grid = _grid(low, high, first, cell)
        return _search(queries, planes, low, high, first, cell, *grid, reach, order)


@numba.njit(cache=True)
def border_edges(triangles: np.ndarray, points: int) -> np.ndarray:
    """Find the edges that belong to one triangle only.

    Args:
        triangles: shape (m, 3).
        points: how many points the mesh has.

    Returns:
        For each triangle whether the edge opposite each of its corners is one, shape (m, 3).
    """
    lower, higher = np.empty(triangles.size, np.int64), np.empty(triangles.size, np.int64)
    for edge in range(triangles.size):
        t, corner = edge // 3, edge % 3
        one, other = triangles[t, (corner + 1) % 3], triangles[t, (corner + 2) % 3]
        lower[edge], higher[edge] = min(one, other), max(one, other)
    # sorted by the lower end, and those of one lower end by the higher: equal edges follow each other
    order = _sorted_by(lower, _sorted_by(higher, np.arange(triangles.size), points), points)
    alone = np.ones(triangles.size, np.bool_)
    for i in range(1, len(order)):
        one, other = order[i - 1], order[i]
        if lower[one] == lower[other] and higher[one] == higher[other]:
            alone[one] = alone[other] = False
    return alone.reshape(-1, 3)


@numba.njit(cache=True)
def _sorted_by(keys, order, largest):
    """Return an order sorted by keys below `largest`; what has equal keys stays as it was."""
    start = np.zeros(largest + 1, np.int64)
    for key in keys:
        start[key + 1] += 1
    start = np.cumsum(start)
    by_key = np.empty(len(order), np.int64)
    for i in order:
        by_key[start[keys[i]]] = i
        start[keys[i]] += 1
    return by_key


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
def _search(queries, planes, low, high, first, cell, start, members, bottom, top, reach, order):
    """Exact nearest points.

    A triangle lies in every cell that its box touches. It is passed over only if its box, or all
    cells that hold it, are no nearer than the nearest point found so far. Two guesses come first,
    which leave little to search: the triangle that was nearest to the query before, and those in
    the cell of its point that is nearest to this query.
    """
    columns, rows = bottom.shape
    triangle, weights = np.full(len(queries), -1), np.zeros((len(queries), 3))
    nearest = queries.copy()
    tried = np.full(len(planes), -1)
    latest = 0
    for k in order:
        x, y, z = queries[k]
        least, wa, wb, wc = _nearest_in_triangle(planes, latest, x, y, z)
        found = latest
        at_x, at_y, _ = _point_in_triangle(planes, found, wb, wc)
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
                            squared, a, b, c = _nearest_in_triangle(planes, t, x, y, z)
                            if squared < least:
                                least, found, wa, wb, wc = squared, t, a, b, c
        if found >= 0:
            triangle[k], latest = found, found
            weights[k] = wa, wb, wc
            nearest[k] = _point_in_triangle(planes, found, wb, wc)
    return triangle, weights, nearest


@numba.njit(cache=True)
def _boxes_and_planes(corners):
    """Return the lowest and highest coordinates of triangles, and what `_nearest_in_triangle` needs.

    That is, shape (m, 16): the first corner (0-2), the edges b and c from there to the others (3-8),
    their products bb, bc and cc (9-11), and the inverses (0 of 0) of bb, cc, the third edge's square
    and the square of the edges' cross product (12-15).
    """
    low, high = np.empty((len(corners), 3)), np.empty((len(corners), 3))
    planes = np.empty((len(corners), 16))
    for t in range(len(corners)):
        bb, bc, cc = 0.0, 0.0, 0.0
        for axis in range(3):
            a, b, c = corners[t, 0, axis], corners[t, 1, axis], corners[t, 2, axis]
            low[t, axis], high[t, axis] = min(a, b, c), max(a, b, c)
            b, c = b - a, c - a
            planes[t, axis], planes[t, 3 + axis], planes[t, 6 + axis] = a, b, c
            bb, bc, cc = bb + b * b, bc + b * c, cc + c * c
        planes[t, 9], planes[t, 10], planes[t, 11] = bb, bc, cc
        squares = (bb, cc, bb - 2 * bc + cc, bb * cc - bc * bc)
        for number in range(4):
            planes[t, 12 + number] = 1 / squares[number] if squares[number] > 1e-30 else 0.0
    return low, high, planes


@numba.njit(cache=True, inline="always")
def _nearest_in_triangle(planes, t, x, y, z):
    """Return the squared distance of a triangle's nearest point, and its barycentric coordinates.

    The point lies inside the triangle, or on the nearest of its edges.
    """
    ax, ay, az = planes[t, 0] - x, planes[t, 1] - y, planes[t, 2] - z
    bx, by, bz = planes[t, 3], planes[t, 4], planes[t, 5]
    cx, cy, cz = planes[t, 6], planes[t, 7], planes[t, 8]
    bb, bc, cc = planes[t, 9], planes[t, 10], planes[t, 11]
    ab, ac = -(bx * ax + by * ay + bz * az), -(cx * ax + cy * ay + cz * az)
    beta, gamma = (cc * ab - bc * ac) * planes[t, 15], (bb * ac - bc * ab) * planes[t, 15]
    alpha = 1 - beta - gamma
    if not (alpha > 0 and beta > 0 and gamma > 0):
        # squared distances below are less that of the first corner
        beta, gamma = min(max(ab * planes[t, 12], 0.0), 1.0), 0.0
        alpha, least = 1 - beta, beta * (beta * bb - 2 * ab)
        along = min(max(ac * planes[t, 13], 0.0), 1.0)
        if along * (along * cc - 2 * ac) < least:
            alpha, beta, gamma, least = 1 - along, 0.0, along, along * (along * cc - 2 * ac)
        far, towards = bb - 2 * bc + cc, ac - ab + bb - bc
        along = min(max(towards * planes[t, 14], 0.0), 1.0)
        if bb - 2 * ab + along * (along * far - 2 * towards) < least:
            alpha, beta, gamma = 0.0, 1 - along, along
    dx, dy, dz = (
        ax + beta * bx + gamma * cx,
        ay + beta * by + gamma * cy,
        az + beta * bz + gamma * cz,
    )
    return dx * dx + dy * dy + dz * dz, alpha, beta, gamma


@numba.njit(cache=True, inline="always")
def _point_in_triangle(planes, t, beta, gamma):
    return (
        planes[t, 0] + beta * planes[t, 3] + gamma * planes[t, 6],
        planes[t, 1] + beta * planes[t, 4] + gamma * planes[t, 7],
        planes[t, 2] + beta * planes[t, 5] + gamma * planes[t, 8],
    )
