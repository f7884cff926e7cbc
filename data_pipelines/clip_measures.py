"""What can be measured in a clip that tells whether it is worth training on.

All but the blur are measured in pictures of at most `_ROWS` rows: a clip of any size takes about
as long as a small one. What a clip does not allow to be measured is None.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage

from data_pipelines import matches
from data_pipelines.clip import Clip
from data_pipelines.sources.warp_check import Warp, seen_through, warp_frame
from mirage_jax.io.framing import Framing

_ROWS = 160
_BLACK = 16.0  # of 255, below which 19 of 20 pixels of a black frame are
_SHOWN = 0.1  # share of a picture that a warp must cover to tell something
_MOVED = 0.01  # of the width, what must have moved between two pictures to tell something
_FEWEST = 12  # matching points that tell something
_STILL = 4.0  # of 255: most that a pixel of a caption changes over time
_EDGE = 30.0  # of 255 a pixel: least gradient of a caption


@dataclasses.dataclass(frozen=True)
class Measures:
    """Numbers of one clip.

    Attributes:
      black: share of the frames that are black.
      blur: 0 sharp to 1 blurred, the median of three frames (Crete et al. 2007).
      cut: how far the largest change between two frames stands out of the clip's own, 0 to 1.
      motion: how far things move in the picture between the frames that are compared, which are up
        to half a clip apart, % of the width.
      parallax: the part of that which no turn of the camera explains.
      overlay: % of the pixels that are edges and stand still while the picture moves: captions,
        logos, bars.
      warp_gain: dB that depth and poses bring when one frame is warped to another.
      warp_psnr: dB of these warped frames.
      seen_through: % of the points of one frame that the depth of another says are not there.
      epipolar: median distance of matching points from where the poses allow them, % of the width.
    """

    black: float
    blur: float
    cut: float
    motion: float | None = None
    parallax: float | None = None
    overlay: float | None = None
    warp_gain: float | None = None
    warp_psnr: float | None = None
    seen_through: float | None = None
    epipolar: float | None = None


def measure(clip: Clip) -> Measures:
    """The numbers of a valid clip."""
    small = smaller(clip)
    greys = np.stack([matches.grey(picture) for picture in small.video])
    pairs = _matched_pairs(small)
    motion, parallax = _median([p.motion for p in pairs]), _median([p.parallax for p in pairs])
    if motion is None and small.depth is not None:
        motion = _median([geometric_motion(small, *pair) for pair in frame_pairs(clip.frames)])
    warps = [w for w in warps_of(small) if _tells(w, small)]
    return Measures(
        black=float(np.mean([np.percentile(g, 95) < _BLACK for g in greys])),
        blur=float(np.median([_blur(clip.video[t]) for t in spread(clip.frames, 3)])),
        cut=_cut(small.video, greys),
        motion=motion,
        parallax=parallax,
        overlay=_overlay(greys, motion),
        warp_gain=_median([w.psnr - w.psnr_unwarped for _, _, w in warps]),
        warp_psnr=_median([w.psnr for _, _, w in warps]),
        seen_through=_median([100 * seen_through(small, a, b) for a, b, _ in warps]),
        epipolar=_median([p.epipolar for p in pairs]),
    )


def smaller(clip: Clip, rows: int = _ROWS) -> Clip:
    """The clip with at most so many rows, its intrinsics with it."""
    height, width = clip.size
    if height <= rows:
        return clip
    framing = Framing(clip.size, (rows, round(width * rows / height)))

    def maps(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else np.stack([framing.nearest(one) for one in values])

    return dataclasses.replace(
        clip,
        video=np.stack([framing.picture(one) for one in clip.video]),
        depth=maps(clip.depth),
        mover_ids=maps(clip.mover_ids),
        intrinsics=framing.intrinsics(clip.intrinsics).astype(np.float32),
    )


def spread(frames: int, count: int) -> list[int]:
    """Numbers of at most `count` frames, evenly spaced, the first and the last among them."""
    return np.unique(np.linspace(0, frames - 1, count).round().astype(int)).tolist()


def frame_pairs(frames: int) -> list[tuple[int, int]]:
    """Pairs of frames that are compared: a quarter of the clip apart, and half of it."""
    gaps = {max(frames // 4, 1), max(frames // 2, 1)}
    return [pair for gap in sorted(gaps) for pair in _pairs(frames, gap)]


def _pairs(frames: int, gap: int) -> list[tuple[int, int]]:
    return [(a, a + gap) for a in spread(frames - gap, 3)] if gap < frames else []


def warps_of(clip: Clip) -> Iterator[tuple[int, int, Warp]]:
    """(source, target, warp) of the pairs of frames; none without depth."""
    if clip.depth is not None:
        yield from ((a, b, warp_frame(clip, a, b)) for a, b in frame_pairs(clip.frames))


def _tells(found: tuple[int, int, Warp], clip: Clip) -> bool:
    """Whether a warp shows enough, and moves it far enough, to judge by."""
    a, b, warp = found
    if warp.coverage < _SHOWN or clip.depth is None:
        return False
    return geometric_motion(clip, a, b) >= 100 * _MOVED


def geometric_motion(clip: Clip, first: int, second: int) -> float:
    """Median way of the pixels between two frames by depth and poses, % of the width."""
    depth = clip.require("depth")[first]
    known = (depth > 0) & np.isfinite(depth)
    rows, columns = (n[:: max(len(n) // 500, 1)] for n in np.nonzero(known))
    if not len(rows):
        return 0.0
    points = np.stack([columns + 0.5, rows + 0.5], axis=-1)
    pair = [first, second]
    poses, lenses = clip.cam2world[pair], clip.intrinsics[pair]
    move = (poses[0, :3, 3] - poses[1, :3, 3]) @ poses[1, :3, :3]
    seen = matches.turned(points, lenses, poses) * depth[rows, columns, None] + move
    ahead = seen[:, 2] > 1e-6
    fx, fy, cx, cy = lenses[1]
    there = seen[ahead, :2] / seen[ahead, 2:] * [fx, fy] + [cx, cy]
    way = np.linalg.norm(there - points[ahead], axis=1)
    return 100 * float(np.median(way)) / clip.size[1] if ahead.any() else 100.0


@dataclasses.dataclass(frozen=True)
class _Matched:
    """Of two frames by the points that they share, as in `Measures`."""

    motion: float
    parallax: float
    epipolar: float | None


def _matched_pairs(clip: Clip) -> list[_Matched]:
    """Frames as far apart as most of them still share points; none where none do."""
    for share in (2, 4, 8, 16, clip.frames):
        pairs = _pairs(clip.frames, max(clip.frames // share, 1))
        found = [one for pair in pairs if (one := _matched(clip, *pair)) is not None]
        if found and 2 * len(found) >= len(pairs):
            return found
    return []


def _matched(clip: Clip, a: int, b: int) -> _Matched | None:
    points = matches.match(clip.video[a], clip.video[b])
    if clip.mover_ids is not None and len(points[0]):
        column, row = points[0].astype(int).T
        still = clip.mover_ids[a][row, column] == 0
        points = points[0][still], points[1][still]
    if len(points[0]) < _FEWEST:
        return None
    percent = 100 / clip.size[1]
    lenses, poses = clip.intrinsics[[a, b]], clip.cam2world[[a, b]]
    far = matches.turned(points[0], lenses, poses)
    ahead = far[:, 2] > 1e-6
    fx, fy, cx, cy = lenses[1]
    at = far[:, :2] / np.where(ahead, far[:, 2], 1)[:, None] * [fx, fy] + [cx, cy]
    left = np.where(ahead, np.linalg.norm(points[1] - at, axis=1), np.inf)
    motion = percent * float(np.median(np.linalg.norm(points[1] - points[0], axis=1)))
    distances = matches.epipolar_distance(points, lenses, poses)
    # What hardly moves is near any line.
    tells = motion >= 100 * _MOVED
    return _Matched(
        motion=motion,
        parallax=min(percent * float(np.median(left)), 100.0),
        epipolar=min(percent * float(np.median(distances)), 100.0) if tells else None,
    )


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None and np.isfinite(value)]
    return float(np.median(known)) if known else None


def _cut(video: UInt8[np.ndarray, "t h w 3"], greys: Float[np.ndarray, "t h w"]) -> float:
    if len(video) < 3:
        return 0.0
    colours = [_colours(picture) for picture in video]
    change = np.array(
        [
            1 - _alike(greys[t], greys[t + 1]) * np.minimum(colours[t], colours[t + 1]).sum()
            for t in range(len(video) - 1)
        ]
    )
    beside = np.pad(change, 1, mode="constant", constant_values=0)
    around = np.maximum(beside[:-2], beside[2:])
    return float(max((change - around).max(), 0))


def _colours(picture: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, " n"]:
    """Histogram of the colours, 6 steps each, blurred a little so that borders do not matter."""
    bins = np.histogramdd(picture.reshape(-1, 3), bins=6, range=[(0, 256)] * 3)[0]
    return (ndimage.gaussian_filter(bins, 0.7, mode="nearest") / bins.sum()).ravel()


def _alike(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of two pictures where they fit best, shifted by at most half of their size."""
    step = max(len(a) // 40, 1)
    a, b = (ndimage.uniform_filter(p, step)[::step, ::step] for p in (a, b))
    shape = tuple(2 * n for n in a.shape)

    def spectrum(values: np.ndarray) -> np.ndarray:
        return np.fft.rfft2(values, shape)

    ones = spectrum(np.ones_like(a))
    a, b = a - a.mean(), b - b.mean()

    def summed(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.fft.irfft2(x * y.conj(), shape)

    overlap = summed(ones, ones)
    enough = overlap >= 0.25 * a.size
    count = np.maximum(overlap, 1)
    sum_a, sum_b = summed(spectrum(a), ones), summed(ones, spectrum(b))
    both = summed(spectrum(a), spectrum(b)) - sum_a * sum_b / count
    of_a = summed(spectrum(a * a), ones) - sum_a**2 / count
    of_b = summed(ones, spectrum(b * b)) - sum_b**2 / count
    flat = 1.0 * count  # a grey level: what has less contrast is alike
    found = (both + flat) / np.sqrt(np.maximum(of_a + flat, 1e-9) * np.maximum(of_b + flat, 1e-9))
    return float(np.clip(found[enough].max(), 0, 1))


def _overlay(greys: Float[np.ndarray, "t h w"], motion: float | None) -> float | None:
    """None where the picture moves too little for what stands still to stand out."""
    if motion is None or motion < 100 * 2 * _MOVED or len(greys) < 4:
        return None
    middle = np.median(greys, axis=0)
    still = np.percentile(np.abs(greys - middle), 90, axis=0) <= _STILL
    dy, dx = np.gradient(middle)
    edges = np.hypot(dx, dy) >= _EDGE
    return 100 * float((edges & still).mean())


def _blur(picture: UInt8[np.ndarray, "h w 3"]) -> float:
    """How little another blur changes (Crete, Dolmiere, Ladret and Nicolas 2007)."""
    values = matches.grey(picture)
    found = []
    for axis in (0, 1):
        if values.shape[axis] < 3:
            continue
        again = ndimage.uniform_filter1d(values, 9, axis=axis)
        before = np.abs(np.diff(values, axis=axis))
        lost = np.maximum(before - np.abs(np.diff(again, axis=axis)), 0)
        total = before.sum()
        found.append(1 - lost.sum() / total if total > 0 else 1.0)
    return float(max(found, default=1.0))
