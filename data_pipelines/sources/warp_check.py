"""Does the geometry of a clip fit its pictures? Warp one frame into another and compare.

If depth, poses and intrinsics are right, frame A resampled at the places where frame B's points
lie in it looks like frame B, wherever A sees them. Half a pixel of error costs decibels.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy import ndimage

from data_pipelines.clip import Clip
from data_pipelines.sources.paths import REVISIT_FRAMES


@dataclass(frozen=True)
class Warp:
    """`picture` is frame A moved to B's view, meaningful where `covered`.

    psnr: dB against frame B on the covered pixels, NaN where there are none.
    psnr_unwarped: the same for frame A as it is, on the same pixels. coverage: share of pixels.
    """

    picture: Float[np.ndarray, "h w 3"]
    covered: Bool[np.ndarray, "h w"]
    psnr: float
    psnr_unwarped: float
    coverage: float


def warp_frame(clip: Clip, source: int, target: int, tolerance: float = 0.03) -> Warp:
    """Warp frame `source` into the view of frame `target`, static pixels only.

    A pixel is covered where both frames see the same surface: their depths agree within
    `tolerance`, relative. Every pixel counts as static where it is not known what moves.
    ValueError for a clip without depth.
    """
    depth = clip.require("depth")
    points = _world_points(clip, target)
    uv, z = _project(clip, source, points)
    static = _static(clip, source) & (depth[source] > 0)
    covered = _sees(depth[source], static, uv, z, tolerance)
    covered &= _known(depth[target]) & _static(clip, target)
    picture = _bilinear(clip.video[source], uv)
    expected = clip.video[target]
    return Warp(
        picture=picture,
        covered=covered,
        psnr=_psnr(picture, expected, covered),
        psnr_unwarped=_psnr(clip.video[source], expected, covered),
        coverage=float(covered.mean()),
    )


def seen_through(clip: Clip, source: int, target: int, tolerance: float = 0.05) -> float:
    """Share of the known static points of frame `target` that frame `source` looks through.

    Its own depth there is larger by more than `tolerance`, relative: one of the depths, the poses
    or the intrinsics is wrong. What something nearer hides says nothing. NaN where the frames share
    too little. ValueError for a clip without depth.
    """
    depth = clip.require("depth")
    uv, z = _project(clip, source, _world_points(clip, target))
    usable = _static(clip, source) & (depth[source] > 0)
    # At the rim of something, a pixel beside the right one is behind it.
    nearest = ndimage.minimum_filter(np.where(usable, depth[source], np.inf), 3)
    there, inside = _looked_up(nearest, usable, uv, z)
    inside &= _known(depth[target]) & _static(clip, target)
    visible = inside & (there > (1 - tolerance) * z)
    if visible.mean() < 0.05:
        return float("nan")
    return float((there > (1 + tolerance) * z)[visible].mean())


_MOTION_GAPS = (1, 2, 4, 8, 16)
"""Frames apart, both ways, that are asked whether something has moved."""


def residual_motion(
    clip: Clip, tolerance: float = 0.05, votes: int = 2
) -> Bool[np.ndarray, "t h w"]:
    """Pixels whose surface is gone from where depth and poses put it in other frames: what moves.

    Frames up to 16 before or after look through the point, their own depth there larger by more
    than `tolerance`, relative. Where something nearer hides it nothing is known, and what stands
    still through all of these frames is not found. Depth has to be right to within the tolerance;
    ValueError for a clip without.

    Args:
      clip: whatever it says of movers itself is not looked at.
      tolerance: of the depth.
      votes: frames that have to look through a point, so that one bad depth map is no motion.
    """
    depth = clip.require("depth")
    anywhere = np.ones(clip.size, bool)
    # Sky is behind everything. At the rim of something, a pixel beside the right one is behind it.
    behind = np.where(np.isinf(depth), np.finfo(np.float32).max, depth)
    nearest = [ndimage.minimum_filter(one, 3) for one in behind]
    found = np.zeros(depth.shape, np.int64)
    for t in range(clip.frames):
        points = _world_points(clip, t)
        for other in (t + sign * gap for gap in _MOTION_GAPS for sign in (-1, 1)):
            if 0 <= other < clip.frames:
                uv, z = _project(clip, other, points)
                there, inside = _looked_up(nearest[other], anywhere, uv, z)
                found[t] += inside & _known(depth[t]) & (there > (1 + tolerance) * z)
    return found >= votes


def revisit_coverage(clip: Clip, stride: int = 4, tolerance: float = 0.1) -> float:
    """Share of the known pixels of the last frames that some frame of the first half sees.

    Every `stride`-th pixel in both directions is looked up; sky does not count, and every pixel is
    static where it is not known what moves. ValueError for a clip without depth.
    """
    depth = clip.require("depth")
    late = range(len(clip.video) - REVISIT_FRAMES, len(clip.video))
    points = [_world_points(clip, t)[::stride, ::stride].reshape(-1, 3) for t in late]
    known = [_known(depth[t])[::stride, ::stride].ravel() for t in late]
    wanted = np.concatenate(points)[np.concatenate(known)]
    if not len(wanted):
        return 0.0
    seen = np.zeros(len(wanted), bool)
    for t in range(len(clip.video) // 2 + 1):
        uv, z = _project(clip, t, wanted)
        seen |= _sees(depth[t], _static(clip, t), uv, z, tolerance)
    return float(seen.mean())


def _known(depth: np.ndarray) -> np.ndarray:
    return (depth > 0) & np.isfinite(depth)


def _static(clip: Clip, t: int) -> np.ndarray:
    return np.ones(clip.size, bool) if clip.mover_ids is None else clip.mover_ids[t] == 0


def _world_points(clip: Clip, t: int) -> np.ndarray:
    height, width = clip.size
    fx, fy, cx, cy = clip.intrinsics[t].astype(np.float64)
    depth = clip.require("depth")[t]
    depth = np.where(_known(depth), depth, 1.0).astype(np.float64)
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    camera = np.stack([(u - cx) / fx * depth, (v - cy) / fy * depth, depth], -1)
    pose = clip.cam2world[t]
    return camera @ pose[:3, :3].T + pose[:3, 3]


def _project(clip: Clip, t: int, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    fx, fy, cx, cy = clip.intrinsics[t].astype(np.float64)
    pose = clip.cam2world[t]
    camera = (points - pose[:3, 3]) @ pose[:3, :3]
    z = camera[..., 2]
    ahead = np.where(z > 1e-6, z, np.inf)
    uv = np.stack([camera[..., 0] / ahead * fx + cx, camera[..., 1] / ahead * fy + cy], -1)
    return uv, z


def _sees(
    depth: np.ndarray, usable: np.ndarray, uv: np.ndarray, z: np.ndarray, tolerance: float
) -> np.ndarray:
    there, inside = _looked_up(np.where(np.isfinite(depth), depth, 0.0), usable, uv, z)
    return inside & (np.abs(there - z) < tolerance * z)


def _looked_up(
    depth: np.ndarray, usable: np.ndarray, uv: np.ndarray, z: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Depth of the pixel that each point falls on, and whether it falls on a usable one."""
    height, width = depth.shape
    u, v = uv[..., 0], uv[..., 1]
    inside = (z > 1e-6) & (u >= 0.5) & (u <= width - 0.5) & (v >= 0.5) & (v <= height - 0.5)
    column = np.where(inside, u, 0.0).astype(int)
    row = np.where(inside, v, 0.0).astype(int)
    return depth[row, column], inside & usable[row, column]


def _bilinear(picture: Shaped[np.ndarray, "h w 3"], uv: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    x = np.clip(uv[..., 0] - 0.5, 0.0, width - 1.001)
    y = np.clip(uv[..., 1] - 0.5, 0.0, height - 1.001)
    left, top = x.astype(int), y.astype(int)
    a, b = (x - left)[..., None], (y - top)[..., None]
    values = picture.astype(np.float64)
    upper = values[top, left] * (1 - a) + values[top, left + 1] * a
    lower = values[top + 1, left] * (1 - a) + values[top + 1, left + 1] * a
    return upper * (1 - b) + lower * b


def _psnr(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float:
    if not where.any():
        return float("nan")
    error = a[where].astype(np.float64) - b[where].astype(np.float64)
    return float(10.0 * np.log10(255.0**2 / max(np.mean(error**2), 1e-9)))
