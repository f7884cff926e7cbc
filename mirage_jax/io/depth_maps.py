"""Depth maps for the first picture of a world: read from files, and from disparity to metres.

As everywhere, depth is z-depth in metres, 0 where it is unknown and infinite where there is nothing
(sky).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float, Num

from mirage_jax.io.image_files import opened
from mirage_jax.io.numpy_files import ArrayFile, read_array
from mirage_jax.plausible import odd_depth, refuse

SUFFIXES = (".png", ".npy", ".npz")
"""Kinds of depth files."""

_KEY = "depth"
_METRES_PER_UNIT = 0.001
_GREY_16 = "I;16"


def read_depth(path: Path, *, insist: bool = False) -> Float[np.ndarray, "height width"]:
    """Reads a depth map, float32 metres.

    Args:
      path: a 16-bit grey PNG in millimetres (0 = unknown, at most 65.535 m), a .npy array, or a
        .npz file with an array named "depth"; arrays are floating point metres of shape [H, W], 0
        where unknown, inf for sky.
      insist: take numbers that look like millimetres.

    Raises:
      ValueError: naming the file, for another kind of file, unreadable contents, another type or
        shape, NaN or negative values, or a map without any known depth.
      FileNotFoundError: if there is no such file.
    """
    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        raise ValueError(f"{path}: found suffix {path.suffix!r}, expected {', '.join(SUFFIXES)}")
    depth = _read_png(path) if kind == ".png" else _read_array(path, kind)
    if depth.ndim != 2 or not depth.size:
        raise ValueError(f"{path}: found shape {depth.shape}, expected [H, W]")
    wrong = int((~(depth >= 0)).sum())
    if wrong:
        raise ValueError(
            f"{path}: {wrong} of {depth.size} pixels are NaN or negative, expected metres "
            "(0 = unknown, inf = sky)"
        )
    if not (depth > 0).any():
        raise ValueError(f"{path}: every pixel is 0 (unknown)")
    if kind != ".png":
        refuse(str(path), odd_depth(depth), insist)
    return depth.astype(np.float32)


def _read_png(path: Path) -> np.ndarray:
    try:
        with opened(path) as image:
            if image.mode != _GREY_16:
                raise ValueError(
                    f"{path}: found a picture of mode {image.mode}, expected 16-bit grey "
                    "(millimetres)"
                )
            return np.asarray(image).astype(np.float64) * _METRES_PER_UNIT
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{path}: not a readable .png file ({error})") from error


def _read_array(path: Path, kind: str) -> np.ndarray:
    if kind == ".npy":
        found = read_array(path)
    else:
        with ArrayFile(path) as arrays:
            if _KEY not in arrays.names:
                raise ValueError(f"{path}: found arrays {sorted(arrays.names)}, expected {_KEY!r}")
            found = arrays.read(_KEY)
    if found.dtype.kind != "f":
        raise ValueError(
            f"{path}: found {found.dtype}, expected floating point metres "
            "(millimetres as a 16-bit PNG)"
        )
    return found


def resample(
    values: Num[np.ndarray, "height width"], size: tuple[int, int]
) -> Num[np.ndarray, "h w"]:
    """A map at another size, by taking the pixel under each new centre.

    Depths are never blended: a mean across an edge is a surface in mid-air.
    """
    rows, columns = (
        ((np.arange(n) + 0.5) * pixels / n).astype(int)
        for n, pixels in zip(size, values.shape, strict=True)
    )
    return values[np.ix_(rows, columns)]


def depth_from_disparity(
    disparity: Float[np.ndarray, "*shape"], near: float, far: float
) -> Float[np.ndarray, "*shape"]:
    """Metric-like depth from a disparity that is known up to scale and shift.

    Monocular networks such as the relative Depth Anything predict a / depth + b with a, b unknown
    (arXiv 1907.01341, section 4). Two depths settle them: the greatest disparity is put at `near`,
    the least at `far`, and 1 / depth is linear between. The scene has the right shape only as far
    as these two are right; a metric network, or one measured distance, is better where there is
    one.

    Args:
      disparity: larger is nearer; any unit.
      near: metres from the camera plane to the nearest pixel.
      far: metres to the farthest.

    Returns:
      z-depth in metres, float32, within [near, far].

    Raises:
      ValueError: unless 0 < near < far, both finite, and disparity is finite and not constant.
    """
    if not 0 < near < far < np.inf:
        raise ValueError(f"near, far: found {near}, {far} metres, expected 0 < near < far")
    wrong = int((~np.isfinite(disparity)).sum())
    if wrong:
        raise ValueError(f"disparity: {wrong} of {disparity.size} values are not finite")
    least, greatest = float(disparity.min()), float(disparity.max())
    if least == greatest:
        raise ValueError(f"disparity: every value is {least}, expected some nearer than others")
    nearness = (disparity.astype(np.float64) - least) / (greatest - least)
    depth = 1.0 / (1.0 / far + nearness * (1.0 / near - 1.0 / far))
    return depth.astype(np.float32)
