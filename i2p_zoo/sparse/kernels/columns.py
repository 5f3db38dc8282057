"""Kernels for weights that repeat along an axis: whether they do, and the two maps that then replace one."""

from __future__ import annotations

from i2p_zoo.sparse.kernels.team import team_kernel


@team_kernel
def find_differences(chunk, start, stop, weight, axis, differs):
    """differs[chunk] = whether a (C_out, kz, ky, kx, C_in) weight's outputs start to stop change along axis 0, 1 or 2."""
    for output in range(start, stop):
        for z in range(weight.shape[1]):
            for y in range(weight.shape[2]):
                for x in range(weight.shape[3]):
                    first_z, first_y, first_x = 0 if axis == 0 else z, 0 if axis == 1 else y, 0 if axis == 2 else x
                    differ = False
                    for channel in range(weight.shape[4]):  # to the end, which the compiler can make vectors of
                        differ |= weight[output, z, y, x, channel] != weight[output, first_z, first_y, first_x, channel]
                    if differ:
                        differs[chunk] = True
                        return


@team_kernel
def find_columns(chunk, start, stop, table, lines, plane, known):
    """Finds the column that each output from start to stop reads at each place of the plane.

    A column is known by the first tap along the axis that reads a voxel, and by that voxel.

    Args:
        table: (K, N_out) kernel map.
        lines: (length, P) int64, the row of `table` of each tap along the axis at each place, -1 where there is none.
        plane: (P, N_out) gets voxel * length + tap, -1 where nothing is read.
        known: (N_in * length,) gets 1 for each of those.
    """
    length = lines.shape[0]
    for place in range(lines.shape[1]):
        plane[place, start:stop] = -1
        for tap in range(length - 1, -1, -1):
            row = lines[tap, place]
            if row < 0:
                continue
            for out in range(start, stop):
                if table[row, out] >= 0:
                    plane[place, out] = table[row, out] * length + tap
        for out in range(start, stop):
            if plane[place, out] >= 0:
                known[plane[place, out]] = 1


@team_kernel
def fill_columns(chunk, start, stop, table, lines, numbers, plane, along):
    """Gives the columns of `find_columns` their numbers, and along[tap, column] the voxels they read, -1 beforehand."""
    for place in range(lines.shape[1]):
        for out in range(start, stop):
            if plane[place, out] < 0:
                continue
            column = numbers[plane[place, out]]
            plane[place, out] = column
            for tap in range(lines.shape[0]):
                if lines[tap, place] >= 0:
                    along[tap, column] = table[lines[tap, place], out]
