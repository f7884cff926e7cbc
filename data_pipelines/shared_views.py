"""Which frames of a clip see the same place, from poses and depth, or from poses alone.

A frame's visible volume is sampled along its rays, from the lens to the first surface. Another
frame sees a sample that falls into its picture and that no nearer surface of its own hides, as
`mirage_jax.memory.retrieval` has it for memories. Without depth nothing is hidden, and rays reach
as far as the camera moves: overlap of frusta. In numpy, for loader processes.
"""

import numpy as np
from jaxtyping import Bool, Float

GRID = 8
"""Rows and columns of rays of a picture."""

FRACTIONS = (0.5, 0.75, 1.0)
"""Where along a ray samples lie, of the way to its surface."""

TOLERANCE = 0.1
"""Share of the depth that a sample may lie behind a surface and still be seen; rays are few."""


def seen_samples(
    cam2world: Float[np.ndarray, "k 4 4"],
    intrinsics: Float[np.ndarray, "k 4"],
    size: tuple[int, int],
    depth: Float[np.ndarray, "k height width"] | None = None,
) -> Bool[np.ndarray, "k k samples"]:
    """[i, j, s]: whether frame j sees sample s of the visible volume of frame i.

    Args:
      cam2world: OpenCV camera-to-world of the frames.
      intrinsics: fx, fy, cx, cy in pixels of the pictures.
      size: of the pictures (H, W).
      depth: z-depth in the unit of the poses, 0 unknown, inf sky; None where it is not known.
    """
    height, width = size
    # Through the middle of pixels, so that rounding does not decide which depth is looked up.
    rows, columns = (
        np.floor((np.arange(GRID) + 0.5) * side / GRID) + 0.5 for side in (height, width)
    )
    v, u = (axis.ravel() for axis in np.meshgrid(rows, columns, indexing="ij"))
    fx, fy, cx, cy = (intrinsics[:, None, n].astype(np.float64) for n in range(4))
    rays = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones((len(cam2world), len(u)))], axis=-1)
    reach = _reach(cam2world, depth)
    if depth is None:
        surface = np.full(rays.shape[:2], reach)
    else:
        surface = depth[:, v.astype(int), u.astype(int)].astype(np.float64)
        surface = np.where((surface > 0) & np.isfinite(surface), surface, reach)
    along = surface[:, None] * np.array(FRACTIONS)[:, None]
    points = (rays[:, None] * along[..., None]).reshape(len(cam2world), -1, 3)
    world = points @ cam2world[:, :3, :3].swapaxes(1, 2) + cam2world[:, None, :3, 3]
    seen = np.empty((len(cam2world), len(cam2world), world.shape[1]), bool)
    for frame, pose in enumerate(cam2world):
        seen[:, frame] = _sees(
            world, pose, intrinsics[frame], size, None if depth is None else depth[frame]
        )
    return seen


def _reach(cam2world: np.ndarray, depth: np.ndarray | None) -> float:
    """How far rays go where no surface is known."""
    if depth is not None:
        known = depth[(depth > 0) & np.isfinite(depth)]
        if len(known):
            return float(known.max())
    centres = cam2world[:, :3, 3]
    moved = float(np.linalg.norm(centres - centres[:1], axis=1).max())
    return 2.0 * moved or 1.0


def _sees(
    points: np.ndarray,
    cam2world: np.ndarray,
    intrinsics: np.ndarray,
    size: tuple[int, int],
    depth: np.ndarray | None,
) -> np.ndarray:
    height, width = size
    local = (points - cam2world[:3, 3]) @ cam2world[:3, :3]
    z = local[..., 2]
    ahead = z > 1e-6 * max(float(np.abs(z).max()), 1e-12)
    fx, fy, cx, cy = (float(value) for value in intrinsics)
    safe = np.where(ahead, z, 1.0)
    u, v = fx * local[..., 0] / safe + cx, fy * local[..., 1] / safe + cy
    # The rounding of a sample at the border of its own picture must not decide.
    inside = ahead & (u > -1e-6) & (u < width + 1e-6) & (v > -1e-6) & (v < height + 1e-6)
    if depth is None:
        return inside
    row = np.clip(np.where(inside, v, 0).astype(int), 0, height - 1)
    column = np.clip(np.where(inside, u, 0).astype(int), 0, width - 1)
    front = depth[row, column]
    return inside & ((front <= 0) | (z <= front * (1.0 + TOLERANCE)))


def returning_pairs(
    shared: Float[np.ndarray, "k k"], *, gap: int, least: float, away: float
) -> Bool[np.ndarray, "k k"]:
    """[i, j]: whether frame i shows what frame j showed, and the camera looked away between them.

    Args:
      shared: [i, j], the share of what frame i sees that frame j sees.
      gap: frames between the two, at least.
      least: share that they have in common, at least.
      away: a frame between them sees at most this part of that share.
    """
    count = len(shared)
    found = np.zeros((count, count), bool)
    for i in range(count):
        for order in (np.arange(i - 1, -1, -1), np.arange(i + 1, count)):
            # The least that any frame strictly between them sees.
            between = np.minimum.accumulate(np.concatenate([[np.inf], shared[i, order]]))[:-1]
            common = shared[i, order]
            found[i, order] = (common >= least) & (between <= away * common)
    near = np.abs(np.subtract.outer(np.arange(count), np.arange(count))) < gap
    return found & ~near


def cover(
    seen: Bool[np.ndarray, "j samples"],
    count: int,
    *,
    first: Bool[np.ndarray, " j"] | None = None,
    least: float = 0.01,
) -> list[int]:
    """At most `count` rows that together see most, greedily, the best first.

    Stops where the next one would add less than `least` of the samples.

    Args:
      seen: which samples each row sees.
      count: of rows.
      first: which rows the first one is to be of; None or no row: of all.
      least: share of the samples that a row has to add.
    """
    missing, chosen = np.ones(seen.shape[1], bool), list[int]()
    open_to = np.ones(len(seen), bool) if first is None or not first.any() else first
    while len(chosen) < count:
        gains = np.where(open_to, (seen & missing).mean(1), -1.0)
        best = int(gains.argmax())
        if gains[best] < least:
            break
        chosen.append(best)
        missing &= ~seen[best]
        open_to = np.ones(len(seen), bool)
    return chosen
