"""Where the world of one memory lies in that of another, from what both have seen.

Host side, in float64: local surroundings are described by their tokens and matched, poses on which
matches agree are drawn at random (RANSAC; Fischler and Bolles 1981), and the best are refined on
the surfaces (point to plane; Chen and Medioni 1991). A pose is only given if it is clearly better
than every other.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

from mirage_jax.memory.bank import LatentMemory
from mirage_jax.memory.registration import (
    Cloud,
    elements_of,
    overlap_at,
    placed_by,
    pose_of,
    refine,
    refine_on_surfaces,
)
from mirage_jax.settings import Settings, setting


@dataclasses.dataclass(frozen=True)
class AlignmentOptions(Settings):
    """How a pose is estimated, and when it is refused."""

    rotation: str = setting(
        "yaw", "Turns that are looked for: about `up`, or any.", choices=("yaw", "rigid")
    )
    up: tuple[float, float, float] = setting((0.0, -1.0, 0.0), "Away from the floor, in both.")
    points: int = setting(3000, "Voxels of each memory that are compared.", least=100)
    draws: int = setting(20000, "Poses that are drawn.", least=100)
    least_overlap: float = setting(
        0.15, "Share of the smaller memory that must lie on the other.", least=0, most=1
    )
    least_margin: float = setting(
        1.3, "Times by which the best pose must be better than every other one.", least=1
    )
    seed: int = setting(0, "Of the draws.", least=0)


@dataclasses.dataclass(frozen=True)
class Alignment:
    """A pose, and how sure it is.

    Attributes:
      pose: float64 [4, 4], rigid, from the second memory's world to the first's.
      residual: standard deviation of the distance between their surfaces where they overlap, but
        for outliers, metres.
      overlap: share of the smaller memory that lies on the other and looks alike.
      margin: `overlap` over that of the best pose that is another one; inf if there is none.
      voxel: side of the voxels that were compared, metres.
    """

    pose: Float[np.ndarray, "4 4"]
    residual: float
    overlap: float
    margin: float
    voxel: float


def estimate_pose(
    one: LatentMemory, other: LatentMemory, options: AlignmentOptions = AlignmentOptions()
) -> Alignment:
    """Where the world of a second memory lies in that of the first.

    Args:
      one: the first memory.
      other: the second, with tokens of the same kind.
      options: turns that are looked for, and how sure it must be.

    Returns:
      The pose for `edit.merge`, and how sure it is.

    Raises:
      ValueError: if the memories are too small, or do not overlap clearly in one way; with the
        numbers of the best pose.
    """
    if not np.any(options.up):
        raise ValueError(f"up: found {options.up}, expected a direction")
    if one.channels != other.channels:
        raise ValueError(
            f"estimate_pose: found tokens of {other.channels} channels, expected {one.channels}"
        )
    up = np.asarray(options.up, np.float64)
    up = up / np.linalg.norm(up)
    clouds, voxel = _clouds(one, other, options)
    draw = _draw_yaw if options.rotation == "yaw" else _draw_rigid
    rng = np.random.default_rng(options.seed)
    axes = up[None] if options.rotation == "yaw" else np.eye(3)
    poses = draw(*clouds, options.draws, voxel, up, rng)
    refined = [refine(*clouds, pose, voxel, axes) for pose in poses]
    found = [(pose, overlap_at(*clouds, pose, voxel)) for pose in refined]
    found.sort(key=lambda entry: -entry[1])
    if not found:
        raise ValueError("estimate_pose: found no pose on which matches agree; give one")
    pose, overlap = found[0]
    rivals = [score for rival, score in found[1:] if _apart(pose, rival, clouds[1].xyz, voxel)]
    margin = overlap / rivals[0] if rivals and rivals[0] > 0 else np.inf
    pose, residual = refine_on_surfaces(one, other, clouds, pose, voxel, axes)
    if overlap < options.least_overlap or margin < options.least_margin:
        raise ValueError(
            f"estimate_pose: not sure: the best pose has {overlap:.0%} overlap and is "
            f"{margin:.2f} times better than the next, expected at least "
            f"{options.least_overlap:.0%} and {options.least_margin:g}; give the pose"
        )
    return Alignment(pose, residual, overlap, float(margin), voxel)


# -- clouds --------------------------------------------------------------------------------------

_LEAST_ELEMENTS = 50
_LEAST_VOXEL = 0.02
"""Metres; they grow until there are few enough."""
_NEIGHBOURHOODS = (3.0, 8.0)
"""Radii of the surroundings that describe a voxel, in voxels."""
_COMPONENTS = 16
"""Principal components of the tokens that are compared."""


def _clouds(
    one: LatentMemory, other: LatentMemory, options: AlignmentOptions
) -> tuple[tuple[Cloud, Cloud], float]:
    elements = [elements_of(mem) for mem in (one, other)]
    fewest = min(len(xyz) for xyz, _ in elements)
    if fewest < _LEAST_ELEMENTS:
        raise ValueError(
            f"estimate_pose: found {fewest} elements, expected at least {_LEAST_ELEMENTS}"
        )
    voxel = _LEAST_VOXEL
    while (
        max(len(np.unique(np.floor(xyz / voxel), axis=0)) for xyz, _ in elements) > options.points
    ):
        voxel *= 1.2
    pooled = [_pooled(xyz, tokens, voxel) for xyz, tokens in elements]
    every = np.concatenate([tokens for _, tokens in pooled])
    mean = every.mean(0)
    _, scales, directions = np.linalg.svd(every - mean, full_matrices=False)
    kept = min(_COMPONENTS, int((scales > 1e-6 * scales[0]).sum()) or 1)
    whiten = directions[:kept].T / (scales[:kept] / np.sqrt(len(every)) + 1e-12)
    first, second = (_cloud(xyz, (tokens - mean) @ whiten, voxel) for xyz, tokens in pooled)
    return (first, second), voxel


def _pooled(xyz: np.ndarray, tokens: np.ndarray, voxel: float) -> tuple[np.ndarray, np.ndarray]:
    """Means of places and tokens over voxels."""
    _, number = np.unique(np.floor(xyz / voxel), axis=0, return_inverse=True)
    number = number.reshape(-1)
    count = np.bincount(number)[:, None]

    def means(values: np.ndarray) -> np.ndarray:
        sums = [np.bincount(number, column) for column in values.T]
        return np.stack(sums, axis=1) / count

    return means(xyz), means(tokens)


def _cloud(xyz: np.ndarray, tokens: np.ndarray, voxel: float) -> Cloud:
    """Describes each voxel by its token, and by mean token and spread of its surroundings."""
    tree = cKDTree(xyz)
    parts = [tokens]
    for radius in _NEIGHBOURHOODS:
        pairs = tree.sparse_distance_matrix(tree, radius * voxel, output_type="coo_matrix").tocsr()
        pairs.data[:] = 1.0
        pairs.setdiag(1.0)
        count = np.asarray(pairs.sum(1)).reshape(-1, 1)
        mean = pairs @ tokens / count
        parts += [mean, np.sqrt(np.maximum(pairs @ tokens**2 / count - mean**2, 0))]
    return Cloud(xyz, tokens, np.concatenate(parts, axis=1))


# -- drawing poses -------------------------------------------------------------------------------

_CANDIDATES = 12
"""Poses that are refined."""
_MATCHES = 3
"""Voxels of the first memory that each of the second may be."""
_TRIANGLES = 10
"""Triangles for each pair that would be drawn: fewer of them agree by chance."""
_MOST_COUNTED = 2000
"""Poses for which the matches that agree are counted."""


def _matches(one: Cloud, other: Cloud) -> tuple[np.ndarray, np.ndarray]:
    """Places in the two clouds whose surroundings look alike."""
    scale = np.concatenate([one.features, other.features]).std(0) + 1e-12
    distance = cdist(other.features / scale, one.features / scale)
    count = min(_MATCHES, len(one.xyz))
    nearest = np.argpartition(distance, count - 1, axis=1)[:, :count]
    return one.xyz[nearest.reshape(-1)], np.repeat(other.xyz, count, axis=0)


def _draw_yaw(
    one: Cloud, other: Cloud, draws: int, voxel: float, up: np.ndarray, rng: np.random.Generator
) -> list[np.ndarray]:
    """Poses from two matches each that are as far apart in one memory as in the other."""
    there, here = _matches(one, other)
    first, second = rng.integers(0, len(here), (2, draws))
    a, b = here[second] - here[first], there[second] - there[first]
    rise = np.abs((a - b) @ up)
    a, b = a - np.outer(a @ up, up), b - np.outer(b @ up, up)
    lengths = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    agree = (np.abs(lengths[0] - lengths[1]) < 2 * voxel) & (rise < 2 * voxel)
    agree &= lengths[0] > 5 * voxel
    a, b, first = a[agree], b[agree], first[agree]
    angles = np.arctan2(np.cross(a, b) @ up, np.sum(a * b, axis=1))
    turns = Rotation.from_rotvec(angles[:, None] * up).as_matrix()
    return _best(there, here, turns, first, voxel)


def _draw_rigid(
    one: Cloud, other: Cloud, draws: int, voxel: float, _: np.ndarray, rng: np.random.Generator
) -> list[np.ndarray]:
    """Poses from three matches each whose triangles are the same in both memories."""
    there, here = _matches(one, other)
    corners = rng.integers(0, len(here), (3, _TRIANGLES * draws))
    agree = np.ones(corners.shape[1], bool)
    for p, q in ((0, 1), (1, 2), (2, 0)):
        lengths = [
            np.linalg.norm(places[corners[p]] - places[corners[q]], axis=1)
            for places in (here, there)
        ]
        agree &= (np.abs(lengths[0] - lengths[1]) < 2 * voxel) & (lengths[0] > 5 * voxel)
    corners = corners[:, agree]
    frames = [_frames(places[corners]) for places in (here, there)]
    turns = frames[1] @ np.swapaxes(frames[0], 1, 2)
    return _best(there, here, turns, corners[0], voxel)


def _frames(triangles: np.ndarray) -> np.ndarray:
    """Axes [n, 3, 3] of triangles [3, n, 3]: along a side, at right angles in and off the plane."""
    side, other = triangles[1] - triangles[0], triangles[2] - triangles[0]
    x = side / (np.linalg.norm(side, axis=1, keepdims=True) + 1e-12)
    z = np.cross(x, other)
    z = z / (np.linalg.norm(z, axis=1, keepdims=True) + 1e-12)
    return np.stack([x, np.cross(z, x), z], axis=2)


def _best(
    there: np.ndarray, here: np.ndarray, turns: np.ndarray, anchor: np.ndarray, voxel: float
) -> list[np.ndarray]:
    """The poses that take most matches to their places, each unlike those before."""
    turns, anchor = turns[:_MOST_COUNTED], anchor[:_MOST_COUNTED]
    shifts = there[anchor] - np.einsum("nij,nj->ni", turns, here[anchor])
    counts = np.array(
        [
            np.sum(np.linalg.norm(here @ turn.T + shift - there, axis=1) < 3 * voxel)
            for turn, shift in zip(turns, shifts, strict=True)
        ]
    )
    chosen: list[np.ndarray] = []
    for number in np.argsort(-counts, kind="stable"):
        pose = pose_of(turns[number], shifts[number])
        if all(_apart(pose, other, here, voxel) for other in chosen):
            chosen.append(pose)
        if len(chosen) == _CANDIDATES:
            break
    return chosen


def _apart(pose: np.ndarray, other: np.ndarray, xyz: np.ndarray, voxel: float) -> bool:
    """Whether two poses take the points to different places."""
    step = placed_by(pose, xyz) - placed_by(other, xyz)
    return float(np.sqrt(np.mean(np.sum(step * step, axis=1)))) > 6 * voxel
