"""Tangents of a depth map's cells, one after the other, from the planes that they lie on."""

import numpy as np


def tangents(depth, lens, rotation=None):
    """`memory.surface.tangents` of one frame, in float64, by differences of points on each plane.

    Args:
      depth: [h, w]; 0 = unknown.
      lens: fx, fy, cx, cy in cells.
      rotation: of the camera, camera to world.

    Returns:
      [h, w, 2, 3].
    """
    fx, fy, cx, cy = lens
    found = np.zeros((*depth.shape, 2, 3))
    for row, column in zip(*np.nonzero(depth), strict=True):
        inverse = 1 / float(depth[row, column])
        for axis, step in ((0, (0, 1)), (1, (1, 0))):
            slopes = []
            for sign in (1, -1):
                i, j = row + sign * step[0], column + sign * step[1]
                inside = 0 <= i < depth.shape[0] and 0 <= j < depth.shape[1]
                if inside and depth[i, j] > 0:
                    slopes.append(sign * (1 / float(depth[i, j]) - inverse))
            slope = np.clip(min(slopes, key=abs, default=0.0), -inverse, inverse)

            def point(by, row=row, column=column, step=step, slope=slope, inverse=inverse):
                u, v = column + 0.5 + by * step[1], row + 0.5 + by * step[0]
                return np.array([(u - cx) / fx, (v - cy) / fy, 1.0]) / (inverse + by * slope)

            found[row, column, axis] = (point(1e-5) - point(-1e-5)) / 2e-5
    return found if rotation is None else found @ np.asarray(rotation, np.float64).T
