"""Depth measured by a camera of its own, brought into the colour picture."""

import numpy as np
from jaxtyping import Float


def register_depth(
    depth: Float[np.ndarray, "H W"],
    depth_lens: Float[np.ndarray, "4"],
    colour_lens: Float[np.ndarray, "4"],
    place: Float[np.ndarray, "3"],
) -> Float[np.ndarray, "H W"]:
    """z-depth as the colour camera sees it, the nearest surface of each pixel; 0 where unknown.

    Every measured point is moved and put down on the pixels that its own pixel covers there, so
    that no holes open between the points of one surface. Both pictures are of the same size.

    Args:
      depth: metres, 0 unknown.
      depth_lens: `fx, fy, cx, cy` of the depth camera, pixels.
      colour_lens: the same of the colour camera.
      place: of the depth camera in the colour camera, metres; both look the same way.
    """
    height, width = depth.shape
    rows, columns = np.nonzero((depth > 0) & np.isfinite(depth))
    z = depth[rows, columns].astype(np.float64)
    fx, fy, cx, cy = depth_lens
    points = np.stack([(columns + 0.5 - cx) / fx * z, (rows + 0.5 - cy) / fy * z, z], -1) + place
    fx, fy, cx, cy = colour_lens
    z = points[:, 2]
    u, v = points[:, 0] / z * fx + cx, points[:, 1] / z * fy + cy
    nearest = np.full((height, width), np.inf)
    # Half the step between the places of neighbouring pixels.
    reach = 0.5 * np.array([colour_lens[0] / depth_lens[0], colour_lens[1] / depth_lens[1]])
    for du in {-reach[0], reach[0]} if max(reach) > 0.5 else {0.0}:
        for dv in {-reach[1], reach[1]} if max(reach) > 0.5 else {0.0}:
            column, row = np.floor(u + du).astype(int), np.floor(v + dv).astype(int)
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (z > 0)
            np.minimum.at(nearest, (row[inside], column[inside]), z[inside])
    return np.where(np.isfinite(nearest), nearest, 0).astype(np.float32)
