"""Pictures of one clip: its frames, its place from above, and whether its geometry fits them."""

from __future__ import annotations

import base64
import io

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from data_pipelines import matches
from data_pipelines.clip import Clip
from data_pipelines.clip_measures import frame_pairs, smaller, spread, warps_of
from mirage_jax.io.pictures import memory_from_above

_HEIGHT = 96
_STRIP = 8
_POINTS = 20_000
_UNKNOWN = (52, 56, 66)
_MOVER = (214, 69, 38)
Picture = UInt8[np.ndarray, "_ _ 3"]


def data_uri(picture: Picture) -> str:
    """A picture as the text of a link, WebP."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "WEBP", quality=82)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def resized(picture: Picture, height: int = _HEIGHT) -> Picture:
    """A picture of that many rows."""
    width = round(picture.shape[1] * height / picture.shape[0])
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))


def frames(clip: Clip) -> Picture:
    """Frames in a row and, below them, their depth where it is known, movers in red."""
    numbers = spread(clip.frames, _STRIP)
    rows = [np.concatenate([resized(clip.video[t]) for t in numbers], axis=1)]
    if clip.depth is not None:
        scale = _depth_scale(clip.depth)
        rows.append(np.concatenate([resized(_nearness(clip, t, scale)) for t in numbers], axis=1))
    return np.concatenate(rows)


def _depth_scale(depth: Float[np.ndarray, "t h w"]) -> tuple[float, float]:
    """Logarithms of nearly the least and the largest depth of a clip."""
    known = (depth > 0) & np.isfinite(depth)
    low, high = np.percentile(np.log(depth[known]), [2, 98]) if known.any() else (0.0, 1.0)
    return float(low), float(high)


def _nearness(clip: Clip, t: int, scale: tuple[float, float]) -> Picture:
    """Depth of a frame, near = light; on the scale of the whole clip."""
    depth, (low, high) = clip.require("depth")[t], scale
    known = (depth > 0) & np.isfinite(depth)
    share = (high - np.log(np.where(known, depth, 1.0))) / max(high - low, 1e-6)
    shade = 235 * np.clip(share, 0, 1) + 12
    picture = np.repeat(shade[..., None], 3, -1).astype(np.uint8)
    if clip.mover_ids is not None:
        picture[clip.mover_ids[t] > 0] = _MOVER
    picture[~(depth > 0)] = _UNKNOWN
    picture[np.isposinf(depth)] = 12, 12, 12
    return picture


def from_above(clip: Clip, size: int = 300) -> Picture:
    """The camera path from above and, where there is depth, the place in its colours."""
    points, colours = np.zeros((0, 3)), np.zeros((0, 3), np.uint8)
    if clip.depth is not None:
        points, colours = _coloured_points(clip)
    return memory_from_above(points, clip.cam2world, colours=colours, size=size, noun="points")


def _coloured_points(clip: Clip) -> tuple[Float[np.ndarray, "n 3"], UInt8[np.ndarray, "n 3"]]:
    """Some of the static points of some frames."""
    numbers = spread(clip.frames, 12)
    step = max(round(np.sqrt(len(numbers) * clip.size[0] * clip.size[1] / _POINTS)), 1)
    points, colours = [], []
    for t in numbers:
        depth = clip.require("depth")[t][::step, ::step]
        rows, columns = np.nonzero((depth > 0) & np.isfinite(depth))
        if clip.mover_ids is not None:
            still = clip.mover_ids[t][::step, ::step][rows, columns] == 0
            rows, columns = rows[still], columns[still]
        z = depth[rows, columns].astype(np.float64)
        fx, fy, cx, cy = clip.intrinsics[t]
        x, y = (columns * step + 0.5 - cx) / fx * z, (rows * step + 0.5 - cy) / fy * z
        pose = clip.cam2world[t]
        points.append(np.stack([x, y, z], -1) @ pose[:3, :3].T + pose[:3, 3])
        colours.append(clip.video[t][::step, ::step][rows, columns])
    return np.concatenate(points), np.concatenate(colours)


def warp_check(clip: Clip) -> tuple[Picture, str] | None:
    """A frame, the same moved to another view, that view, and three times the difference.

    Returns:
      The picture and what it shows; None without depth, or where no two frames share anything.
    """
    small = smaller(clip)
    found = [one for one in warps_of(small) if one[2].coverage > 0.02]
    if not found:
        return None
    # Far apart, but with much in common.
    source, target, warp = max(found, key=lambda one: (one[1] - one[0]) * one[2].coverage)
    moved = np.where(warp.covered[..., None], warp.picture, _UNKNOWN)
    error = 3 * np.abs(warp.picture - small.video[target])
    error = np.where(warp.covered[..., None], np.clip(error, 0, 255), _UNKNOWN)
    panels = [small.video[source], moved, small.video[target], error]
    said = (
        f"Frame {source}; the same moved by depth and poses to frame {target}, where both see it; "
        f"frame {target}; three times the difference. {warp.psnr:.1f} dB moved, "
        f"{warp.psnr_unwarped:.1f} dB as it is, {100 * warp.coverage:.0f} % of the picture."
    )
    return _side_by_side(panels), said


def point_check(clip: Clip) -> tuple[Picture, str] | None:
    """Matching points of two frames, and how far they are from where the cameras allow them.

    Returns:
      The picture and what it shows; None where frames share too few points.
    """
    small = smaller(clip)
    # The farthest apart that share a dozen points, else those that share most.
    pairs = {*frame_pairs(clip.frames), (0, clip.frames // 8), (0, 1)}
    found = [
        (pair, matches.match(small.video[pair[0]], small.video[pair[1]]))
        for pair in sorted(pairs, key=lambda pair: pair[0] - pair[1])
        if pair[0] < pair[1] < clip.frames
    ]
    if not found:
        return None
    (a, b), points = max(found, key=lambda one: min(len(one[1][0]), 12))
    if len(points[0]) < 4:
        return None
    pair = [a, b]
    distance = matches.epipolar_distance(points, small.intrinsics[pair], small.cam2world[pair])
    percent = 100 * distance / small.size[1]
    height = 2 * _HEIGHT
    scale = height / small.size[0]
    pictures = [Image.fromarray(resized(small.video[t], height)) for t in pair]
    for picture, places in zip(pictures, points, strict=True):
        draw = ImageDraw.Draw(picture)
        for (x, y), off in zip(places * scale, percent, strict=True):
            box = (x - 3, y - 3, x + 3, y + 3)
            draw.ellipse(box, outline=_shade(off), width=2)
    said = (
        f"{len(percent)} points that frames {a} and {b} share; green where the cameras allow them, "
        f"red where they are 2 % of the width beside that; half are within "
        f"{np.median(percent):.2g}\u00a0%."
    )
    return np.concatenate([np.asarray(p) for p in pictures], axis=1), said


def _shade(percent: float) -> tuple[int, int, int]:
    share = float(np.clip(percent / 2, 0, 1))
    return round(60 + 180 * share), round(210 - 160 * share), 80


def _side_by_side(panels: list[np.ndarray]) -> Picture:
    return np.concatenate([resized(np.asarray(p, np.uint8), 2 * _HEIGHT) for p in panels], axis=1)
