"""The compiled loops of `drfer.fast.groups`.

Rows are float32, or the bits of bfloat16 as int16: numba has no such type, but those bits are the
upper half of a float32. Sums over many rows are taken in float32 over the rows of one job, and in
float64 over jobs.
"""

from __future__ import annotations

import numba
import numpy as np
from numba.extending import overload

from drfer.fast.compiled import parallel_loops

ROWS_A_JOB = 1024
"""How many rows one job sums up."""


def _wide(value):
    """Return a value of rows as float32."""


def _like(value, example):
    """Return a float32 as rows keep it, of the type of an example, rounded to nearest, ties to even."""


@overload(_wide)
def _wide_of_type(value):
    if value == numba.float32:
        return lambda value: value
    return lambda value: np.int32(np.int32(value) << np.int32(16)).view(np.float32)


@overload(_like)
def _like_type(value, example):
    if example == numba.float32:
        return lambda value, example: np.float32(value)

    def rounded(value, example):
        bits = np.float32(value).view(np.int32)
        upwards = np.int32(0x7FFF) + ((bits >> np.int32(16)) & np.int32(1))
        return np.int16((bits + upwards) >> np.int32(16))

    return rounded


@numba.njit(inline="always")
def _passed(gradient, value, scale, offset):
    """Return what the ReLU of a normed value lets pass of a gradient."""
    return _wide(gradient) if value * scale + offset > 0 else np.float32(0)


@parallel_loops
def first_layer(points, centroids, neighbours, located, weight, first, out):
    """Write W_x (x_j - x_i) + `located`_j into `out` for each member j of each group i.

    Args:
        points: shape (B, N, 3).
        centroids: one of each group, shape (B, S, 3).
        neighbours: the members of each group, shape (B, S, K).
        located: what is added for each point, shape (B, N, C), or None.
        weight: W_x, transposed, shape (3, C).
        first: where sums count from, shape (C,).
        out: shape (B * S * K, C).

    Returns:
        What `sums_of_rows` returns.
    """
    _, groups, members = neighbours.shape
    count, channels = out.shape
    groups_a_job = max(ROWS_A_JOB // members, 1)
    jobs = (count // members + groups_a_job - 1) // groups_a_job
    sums = np.zeros((jobs, 2, channels), dtype=np.float32)
    for job in numba.prange(jobs):
        total = np.zeros(channels, dtype=np.float32)
        squares = np.zeros(channels, dtype=np.float32)
        for number in range(job * groups_a_job, min((job + 1) * groups_a_job, count // members)):
            cloud, group = number // groups, number % groups
            x, y, z = centroids[cloud, group]
            for member in range(members):
                row = number * members + member
                j = neighbours[cloud, group, member]
                dx, dy, dz = (
                    points[cloud, j, 0] - x,
                    points[cloud, j, 1] - y,
                    points[cloud, j, 2] - z,
                )
                for c in range(channels):
                    value = dx * weight[0, c] + dy * weight[1, c] + dz * weight[2, c]
                    if located is not None:
                        value += _wide(located[cloud, j, c])
                    out[row, c] = _like(value, out[row, c])
                    total[c] += value - first[c]
                    squares[c] += (value - first[c]) * (value - first[c])
        sums[job, 0], sums[job, 1] = total, squares
    return sums


@parallel_loops
def first_layer_backward(
    rows, gradient, scale, offset, constant, slope, neighbours, of_points, of_centroids
):
    """Turn the gradient of what left the ReLU into that of the first layer's rows, and add it up.

    Each row's gradient is added to its point's, `of_points` (B, N, C), and to its centroid's,
    `of_centroids` (B, S, C).
    """
    clouds, groups, members = neighbours.shape
    channels = rows.shape[1]
    for cloud in numba.prange(clouds):
        for group in range(groups):
            for member in range(members):
                row = (cloud * groups + group) * members + member
                j = neighbours[cloud, group, member]
                for c in range(channels):
                    value = _wide(rows[row, c])
                    into = _passed(gradient[row, c], value, scale[c], offset[c])
                    of_row = scale[c] * (into - constant[c] - slope[c] * value)
                    of_points[cloud, j, c] += of_row
                    of_centroids[cloud, group, c] += of_row


@parallel_loops
def sums_of_rows(rows, first):
    """Return sums of differences from `first`, and of their squares, shape (jobs, 2, C)."""
    count, channels = rows.shape
    jobs = (count + ROWS_A_JOB - 1) // ROWS_A_JOB
    sums = np.zeros((jobs, 2, channels), dtype=np.float32)
    for job in numba.prange(jobs):
        total = np.zeros(channels, dtype=np.float32)
        squares = np.zeros(channels, dtype=np.float32)
        for row in range(job * ROWS_A_JOB, min((job + 1) * ROWS_A_JOB, count)):
            for c in range(channels):
                difference = _wide(rows[row, c]) - first[c]
                total[c] += difference
                squares[c] += difference * difference
        sums[job, 0], sums[job, 1] = total, squares
    return sums


@parallel_loops
def norm_relu(rows, scale, offset, out):
    """Write relu(rows * scale + offset) into `out`."""
    count, channels = rows.shape
    for row in numba.prange(count):
        for c in range(channels):
            value = max(_wide(rows[row, c]) * scale[c] + offset[c], np.float32(0))
            out[row, c] = _like(value, out[row, c])


@parallel_loops
def gradient_sums(rows, gradient, scale, offset, mean):
    """Return sums of what the ReLU lets pass of the gradient, and of that times (rows - mean).

    Shape (jobs, 2, C).
    """
    count, channels = rows.shape
    jobs = (count + ROWS_A_JOB - 1) // ROWS_A_JOB
    sums = np.zeros((jobs, 2, channels), dtype=np.float32)
    for job in numba.prange(jobs):
        total = np.zeros(channels, dtype=np.float32)
        weighted = np.zeros(channels, dtype=np.float32)
        for row in range(job * ROWS_A_JOB, min((job + 1) * ROWS_A_JOB, count)):
            for c in range(channels):
                value = _wide(rows[row, c])
                into = _passed(gradient[row, c], value, scale[c], offset[c])
                total[c] += into
                weighted[c] += into * (value - mean[c])
        sums[job, 0], sums[job, 1] = total, weighted
    return sums


@parallel_loops
def norm_relu_backward(rows, gradient, scale, offset, constant, slope):
    """Turn the gradient of relu(rows * scale + offset), in its memory, into that of rows.

    `constant` and `slope` are what batch norm's mean and variance take from it.
    """
    count, channels = rows.shape
    for row in numba.prange(count):
        for c in range(channels):
            value = _wide(rows[row, c])
            into = _passed(gradient[row, c], value, scale[c], offset[c])
            of_row = scale[c] * (into - constant[c] - slope[c] * value)
            gradient[row, c] = _like(of_row, gradient[row, c])


@parallel_loops
def sums_and_largest(rows, first, sign, largest, index):
    """Return `sums_of_rows` of rows (G, members, C), and find the largest of each group on the way.

    Of sign * value the largest is meant; it goes into `largest`, and which member it is into `index`.
    """
    groups, members, channels = rows.shape
    groups_a_job = max(ROWS_A_JOB // members, 1)
    jobs = (groups + groups_a_job - 1) // groups_a_job
    sums = np.zeros((jobs, 2, channels), dtype=np.float32)
    for job in numba.prange(jobs):
        total = np.zeros(channels, dtype=np.float32)
        squares = np.zeros(channels, dtype=np.float32)
        best = np.empty(channels, dtype=np.float32)
        at = np.empty(channels, dtype=np.int32)
        for group in range(job * groups_a_job, min((job + 1) * groups_a_job, groups)):
            best[:], at[:] = -np.inf, 0
            for member in range(members):
                for c in range(channels):
                    value = _wide(rows[group, member, c])
                    total[c] += value - first[c]
                    squares[c] += (value - first[c]) * (value - first[c])
                    larger = (value * sign[c] > best[c]) | (value != value)  # a NaN stays
                    best[c] = value * sign[c] if larger else best[c]
                    at[c] = np.int32(member) if larger else at[c]
            for c in range(channels):
                largest[group, c], index[group, c] = best[c] * sign[c], at[c]
        sums[job, 0], sums[job, 1] = total, squares
    return sums


@parallel_loops
def add_sparse(rows, x, of_x, into, index, matrix, constant, mean, jobs):
    """Add to the gradient of x, shape (G, members, C), what its group's maxima and a constant bring.

    `into`, shape (G, D), is the gradient of the largest of each group, and `index` says which member
    that is. x is relu(norm(rows)), and `mean` is that of rows.

    Returns:
        Each job's sum of into x', shape (jobs, D, C), its sum of x, (jobs, C), and `gradient_sums`.
    """
    groups, members, width = x.shape
    channels = len(matrix)
    of_matrix = np.zeros((jobs, channels, width), np.float32)
    sums_of_x = np.zeros((jobs, width), np.float32)
    sums = np.zeros((jobs, 2, width), np.float32)
    for job in numba.prange(jobs):
        mine = np.empty((members, width), np.float32)
        of_mine = np.empty((members, width), np.float32)
        total = np.zeros(width, np.float32)
        weighted = np.zeros(width, np.float32)
        sum_of_x = np.zeros(width, np.float32)
        for group in range(groups * job // jobs, groups * (job + 1) // jobs):
            for member in range(members):
                for k in range(width):
                    mine[member, k] = _wide(x[group, member, k])
                    of_mine[member, k] = _wide(of_x[group, member, k]) + constant[k]
            for c in range(channels):
                member, value = index[group, c], into[group, c]
                for k in range(width):
                    of_mine[member, k] += value * matrix[c, k]
                    of_matrix[job, c, k] += value * mine[member, k]
            for member in range(members):
                for k in range(width):
                    passed = of_mine[member, k] if mine[member, k] > 0 else np.float32(0)
                    of_x[group, member, k] = _like(of_mine[member, k], of_x[group, member, k])
                    sum_of_x[k] += mine[member, k]
                    total[k] += passed
                    weighted[k] += passed * (_wide(rows[group, member, k]) - mean[k])
        sums_of_x[job] = sum_of_x
        sums[job, 0], sums[job, 1] = total, weighted
    return of_matrix, sums_of_x, sums
