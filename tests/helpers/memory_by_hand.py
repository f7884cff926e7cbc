"""What a memory shows and which ray a cell looks along, by their definition, in float64."""

import numpy as np


def centres(intrinsics, size, grid):
    """Cell centres on the plane z = 1 of the camera, [h, w, 3]."""
    fx, fy, cx, cy = intrinsics
    x = (np.arange(grid[1]) + 0.5) * size[1] / grid[1]
    y = (np.arange(grid[0]) + 0.5) * size[0] / grid[0]
    x, y = np.meshgrid((x - cx) / fx, (y - cy) / fy)
    return np.stack([x, y, np.ones_like(x)], axis=-1)


def points(depth, intrinsics, pose, size):
    """The places of a picture's cells in the world, [h, w, 3], from their z-depth [h, w]."""
    local = centres(intrinsics, size, depth.shape) * depth[..., None]
    return local @ pose[:3, :3].T + pose[:3, 3]


def shown(xyz, tokens, intrinsics, pose, size, grid):
    """Of the elements that fall into each cell the nearest: (tokens [h, w, C], depth [h, w])."""
    fx, fy, cx, cy = intrinsics
    seen, nearest = np.zeros((*grid, tokens.shape[-1])), np.full(grid, np.inf)
    for place, token in zip(xyz, tokens, strict=True):
        x, y, z = pose[:3, :3].T @ (place - pose[:3, 3])
        if z <= 0:
            continue
        row = int(np.floor((fy * y / z + cy) * grid[0] / size[0]))
        column = int(np.floor((fx * x / z + cx) * grid[1] / size[1]))
        inside = 0 <= row < grid[0] and 0 <= column < grid[1]
        if inside and z < nearest[row, column]:
            seen[row, column], nearest[row, column] = token, z
    return seen, np.where(np.isinf(nearest), 0.0, nearest)


def pluecker(intrinsics, pose, first, size, grid):
    """Unit direction and moment of each cell's ray as the camera `first` has them, [h, w, 6]."""
    pose = np.linalg.inv(first) @ pose
    direction = centres(intrinsics, size, grid) @ pose[:3, :3].T
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    return np.concatenate([direction, np.cross(pose[:3, 3], direction)], axis=-1)
