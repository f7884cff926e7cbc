"""Refines the pose between two clouds of elements: closest points that look alike, then surfaces.

Host side, in float64; `alignment` finds the poses to begin with.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from mirage_jax.memory.bank import LatentMemory


@dataclasses.dataclass(frozen=True)
class Cloud:
    """Voxels of a memory: places, whitened tokens, and what describes their surroundings."""

    xyz: np.ndarray
    tokens: np.ndarray
    features: np.ndarray


def elements_of(mem: LatentMemory) -> tuple[np.ndarray, np.ndarray]:
    """Places and tokens of the elements that there are."""
    valid = np.asarray(mem.valid)
    xyz = np.asarray(mem.xyz, np.float64)[valid]
    return xyz, np.asarray(mem.tokens[valid], np.float64)


def pose_of(turn: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """The rigid transform [4, 4] of a turn and a shift."""
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = turn, shift
    return pose


def placed_by(pose: np.ndarray, xyz: np.ndarray) -> np.ndarray:
    """Points where a rigid transform takes them."""
    return xyz @ pose[:3, :3].T + pose[:3, 3]


def refine(
    one: Cloud, other: Cloud, pose: np.ndarray, voxel: float, axes: np.ndarray
) -> np.ndarray:
    """Iterated closest points that look alike, within a reach that shrinks."""
    scale = np.sqrt(one.tokens.shape[1])
    goals = np.concatenate([one.xyz / voxel, one.tokens / scale], axis=1)
    for reach in (6.0, 4.0, 3.0, 2.0, 2.0, 2.0):
        placed = placed_by(pose, other.xyz)
        points = np.concatenate([placed / voxel, other.tokens / scale], axis=1)
        near, nearest = _pairs(goals, points, reach)
        if len(near) < _LEAST_PAIRS:
            break
        along = np.tile(np.eye(3), (len(near), 1))
        wanted = (one.xyz[nearest] - placed[near]).reshape(-1)
        pose = _step(np.repeat(placed[near], 3, axis=0), along, wanted, axes) @ pose
    return pose


def overlap_at(one: Cloud, other: Cloud, pose: np.ndarray, voxel: float) -> float:
    """Share of the smaller cloud that lies on the other and looks alike."""
    distance, nearest = cKDTree(one.xyz).query(placed_by(pose, other.xyz))
    near = distance < 1.5 * voxel
    apart = np.linalg.norm(one.tokens[nearest] - other.tokens, axis=1)
    alike = np.exp(-_UNLIKE * apart**2 / one.tokens.shape[1])
    return float(np.sum(alike * near) / min(len(one.xyz), len(other.xyz)))


def refine_on_surfaces(
    one: LatentMemory,
    other: LatentMemory,
    clouds: tuple[Cloud, Cloud],
    pose: np.ndarray,
    voxel: float,
    axes: np.ndarray,
) -> tuple[np.ndarray, float]:
    """Refines a pose on all elements; also gives the distance that is left.

    Surfaces say nothing of a shift along themselves: there the slopes of the tokens do (as colours
    in Park et al. 2017, "Colored point cloud registration revisited"). Each counts by how well it
    is met.
    """
    (xyz, _), (moving, _) = elements_of(one), elements_of(other)
    normals = _normals(xyz)
    coarse, fine = clouds
    slopes = _slopes(coarse, voxel)
    residual = np.inf
    for reach in (2.0, 1.5, *[1.0] * 10):
        placed, voxels = placed_by(pose, moving), placed_by(pose, fine.xyz)
        near, nearest = _pairs(xyz, placed, reach * voxel)
        close, closest = _pairs(coarse.xyz, voxels, reach * voxel)
        if min(len(near), len(close)) < _LEAST_PAIRS:
            break
        away = np.sum((xyz[nearest] - placed[near]) * normals[nearest], axis=1)
        step = voxels[close] - coarse.xyz[closest]
        expected = coarse.tokens[closest] + np.einsum("ncx,nx->nc", slopes[closest], step)
        unlike = (fine.tokens[close] - expected).reshape(-1)
        channels = coarse.tokens.shape[1]
        points = np.concatenate([placed[near], np.repeat(voxels[close], channels, axis=0)])
        residual, trust = _spread(away), np.concatenate([_trust(away), _trust(unlike)])
        along = np.concatenate([normals[nearest], slopes[closest].reshape(-1, 3)])
        wanted = np.concatenate([away, unlike])
        pose = _step(points, trust[:, None] * along, trust * wanted, axes) @ pose
    return pose, residual


def _pairs(goals: np.ndarray, points: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of points and goals that are nearest to each other, and within reach.

    Points beyond the end of what the goals cover are nearest to the goals at that end, but not the
    nearest to these: as pairs they would pull all towards it.
    """
    distance, nearest = cKDTree(goals).query(points, distance_upper_bound=reach)
    near = np.flatnonzero(np.isfinite(distance))
    _, back = cKDTree(points).query(goals[nearest[near]])
    near = near[back == near]
    return near, nearest[near]


def _spread(errors: np.ndarray) -> float:
    """Standard deviation of errors about 0, but for outliers."""
    return 1.4826 * float(np.median(np.abs(errors))) + 1e-9


def _trust(errors: np.ndarray) -> np.ndarray:
    """What to multiply equations with these errors by, so that outliers count little (Cauchy)."""
    spread = _spread(errors)
    return 1.0 / (spread * np.sqrt(1.0 + np.square(errors / (2.0 * spread))))


def _normals(xyz: np.ndarray) -> np.ndarray:
    """Unit normals [n, 3] of the surface through the nearest of the points."""
    _, around = cKDTree(xyz).query(xyz, k=min(8, len(xyz)))
    offsets = xyz[around] - xyz[around].mean(1, keepdims=True)
    return np.linalg.eigh(np.swapaxes(offsets, 1, 2) @ offsets)[1][:, :, 0]


def _slopes(cloud: Cloud, voxel: float) -> np.ndarray:
    """How the tokens change with place, [n, C, 3] per metre, from the nearest voxels."""
    _, around = cKDTree(cloud.xyz).query(cloud.xyz, k=min(12, len(cloud.xyz)))
    offsets = cloud.xyz[around] - cloud.xyz[:, None]
    change = cloud.tokens[around] - cloud.tokens[:, None]
    square = np.einsum("nkx,nky->nxy", offsets, offsets) + voxel**2 * np.eye(3)
    return np.swapaxes(np.linalg.solve(square, np.einsum("nkx,nkc->nxc", offsets, change)), 1, 2)


_LEAST_PAIRS = 6
_UNLIKE = 1.5
"""How fast likeness falls with the squared distance of tokens, per channel of variance 1."""
_DAMPING = 1e-6
"""Keeps a step small along what no surface fixes, e.g. along a corridor."""


def _step(
    points: np.ndarray, along: np.ndarray, wanted: np.ndarray, axes: np.ndarray
) -> np.ndarray:
    """The small rigid transform about `axes` that moves points so far `along` as is `wanted`."""
    centre = points.mean(0)
    arms = points - centre
    size = np.sqrt(np.mean(np.sum(arms**2, axis=1))) + 1e-12
    rows = np.concatenate([np.cross(arms / size, along) @ axes.T, along], axis=1)
    square = rows.T @ rows
    square += _DAMPING * np.trace(square) / len(square) * np.eye(len(square))
    solution = np.linalg.solve(square, rows.T @ wanted)
    turn = Rotation.from_rotvec(solution[: len(axes)] @ axes / size).as_matrix()
    return pose_of(turn, centre - turn @ centre + solution[len(axes) :])
