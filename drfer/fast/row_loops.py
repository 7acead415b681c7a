"""The compiled loops of `drfer.fast.rows`.

They see float32 and bfloat16 alike: as integers of the same bits, which are float32 after a shift up
by 0 or 16. Sums over many rows are taken in float32 over the rows of one job, and in float64 over
jobs.
"""

from __future__ import annotations

import numba
import numpy as np

from drfer.fast.compiled import parallel_loops

ROWS_A_JOB = 1024
"""How many rows one job sums up."""


@numba.njit(inline="always")
def _widen(bits, shift):
    return np.int32(np.int32(bits) << shift).view(np.float32)


@numba.njit(inline="always")
def _narrow(value, shift):
    """Round to nearest, ties to even, as the processor does."""
    bits = np.float32(value).view(np.int32)
    if shift == 0:
        return bits
    return np.int32((bits + np.int32(0x7FFF) + ((bits >> shift) & np.int32(1))) >> shift)


@parallel_loops
def sums_of_rows(rows, shift, first):
    """Return sums of differences from `first`, and of their squares, shape (jobs, 2, C)."""
    count, channels = rows.shape
    jobs = (count + ROWS_A_JOB - 1) // ROWS_A_JOB
    sums = np.zeros((jobs, 2, channels), dtype=np.float32)
    for job in numba.prange(jobs):
        total = np.zeros(channels, dtype=np.float32)
        squares = np.zeros(channels, dtype=np.float32)
        for row in range(job * ROWS_A_JOB, min((job + 1) * ROWS_A_JOB, count)):
            for c in range(channels):
                difference = _widen(rows[row, c], shift) - first[c]
                total[c] += difference
                squares[c] += difference * difference
        sums[job, 0], sums[job, 1] = total, squares
    return sums


@parallel_loops
def norm_relu(rows, shift, scale, offset, out):
    """Write relu(rows * scale + offset) into `out`."""
    count, channels = rows.shape
    for row in numba.prange(count):
        for c in range(channels):
            out[row, c] = _narrow(
                max(_widen(rows[row, c], shift) * scale[c] + offset[c], np.float32(0)), shift
            )


@parallel_loops
def gradient_sums(rows, gradient, shift, scale, offset, mean):
    """Return sums of what the ReLU lets pass of the gradient, and of that times (rows - mean).

    Shape (jobs, 2, C).
    """
    count, channels = rows.shape
    jobs = (count + ROWS_A_JOB - 1) // ROWS_A_JOB
    sums = np.zeros((jobs, 2, channels), dtype=np.float64)
    for job in numba.prange(jobs):
        total = np.zeros(channels, dtype=np.float32)
        weighted = np.zeros(channels, dtype=np.float32)
        for row in range(job * ROWS_A_JOB, min((job + 1) * ROWS_A_JOB, count)):
            for c in range(channels):
                value = _widen(rows[row, c], shift)
                passed = value * scale[c] + offset[c] > 0
                into = _widen(gradient[row, c], shift) if passed else np.float32(0)
                total[c] += into
                weighted[c] += into * (value - mean[c])
        sums[job, 0], sums[job, 1] = total, weighted
    return sums


@parallel_loops
def norm_relu_backward(rows, gradient, shift, scale, offset, constant, slope, out):
    """Write into `out` the gradient of rows, given that of relu(rows * scale + offset).

    `constant` and `slope` are what batch norm's mean and variance take from it.
    """
    count, channels = rows.shape
    for row in numba.prange(count):
        for c in range(channels):
            value = _widen(rows[row, c], shift)
            passed = value * scale[c] + offset[c] > 0
            into = _widen(gradient[row, c], shift) if passed else np.float32(0)
            out[row, c] = _narrow(scale[c] * (into - constant[c] - slope[c] * value), shift)


@parallel_loops
def sums_and_largest(rows, shift, first, sign, largest, index):
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
                    value = _widen(rows[group, member, c], shift)
                    total[c] += value - first[c]
                    squares[c] += (value - first[c]) * (value - first[c])
                    larger = value * sign[c] > best[c]
                    best[c] = value * sign[c] if larger else best[c]
                    at[c] = np.int32(member) if larger else at[c]
            for c in range(channels):
                largest[group, c], index[group, c] = best[c] * sign[c], at[c]
        sums[job, 0], sums[job, 1] = total, squares
    return sums


@parallel_loops
def add_sparse(x, of_x, shift, into, index, matrix, constant, jobs):
    """Add to the gradient of x, shape (G, members, C), what its group's maxima and a constant bring.

    `into`, shape (G, D), is the gradient of the largest of each group, and `index` says which member
    that is. Returns each job's sum of into x', shape (jobs, D, C), and its sum of x, (jobs, C).
    """
    groups, members, width = x.shape
    channels = len(matrix)
    of_matrix = np.zeros((jobs, channels, width), np.float32)
    sums = np.zeros((jobs, width), np.float64)
    for job in numba.prange(jobs):
        total = np.empty(width, np.float32)
        mine = np.empty((members, width), np.float32)
        of_mine = np.empty((members, width), np.float32)
        for group in range(groups * job // jobs, groups * (job + 1) // jobs):
            total[:] = 0
            for member in range(members):
                for k in range(width):
                    mine[member, k] = _widen(x[group, member, k], shift)
                    of_mine[member, k] = _widen(of_x[group, member, k], shift) + constant[k]
                    total[k] += mine[member, k]
            for k in range(width):
                sums[job, k] += total[k]
            for c in range(channels):
                member, value = index[group, c], into[group, c]
                for k in range(width):
                    of_mine[member, k] += value * matrix[c, k]
                    of_matrix[job, c, k] += value * mine[member, k]
            for member in range(members):
                for k in range(width):
                    of_x[group, member, k] = _narrow(of_mine[member, k], shift)
    return of_matrix, sums
