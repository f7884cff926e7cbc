"""Checks of camera poses and intrinsics at the boundary, in numpy alone.

Recording and loading workers import this, so nothing here may import jax.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from mirage_jax.origin import check_positions

# Largest entry of |R R^T - I|: poses printed with four decimals pass; a scaled or a sheared
# rotation does not.
ORTHONORMAL_TOLERANCE = 1e-3


def check_cam2world(poses: Any, name: str = "cam2world") -> Float[np.ndarray, "*b 4 4"]:
    """Returns poses as float64 after checking that each is a right-handed rigid transform.

    Raises:
      ValueError: naming `name`, the first offending index, what was found and what was expected,
        for a wrong shape or dtype, a value that is not finite, a last row other than 0 0 0 1, a
        rotation that is not orthonormal, one of determinant -1 (left-handed axes), or positions so
        far from zero that their float32 has lost the centimetres.
    """
    given, poses = np.asarray(poses), _as_float64(poses, name)
    if poses.ndim < 2 or poses.shape[-2:] != (4, 4):
        raise ValueError(f"{name}: found shape {poses.shape}, expected [..., 4, 4]")
    flat, lead = poses.reshape(-1, 4, 4), poses.shape[:-2]
    _check_each(np.isfinite(flat).all((1, 2)), flat, lead, name, "only finite numbers")
    if given.dtype.kind == "f" and given.dtype.itemsize < 8:
        check_positions(flat[:, :3, 3], name)
    last_row = np.abs(flat[:, 3] - [0, 0, 0, 1]).max(1) < 1e-6
    _check_each(last_row, flat[:, 3], lead, name, "a last row of 0 0 0 1")
    rotation = flat[:, :3, :3]
    gram = rotation @ rotation.transpose(0, 2, 1)
    deviation = np.abs(gram - np.eye(3)).max((1, 2))
    _check_each(
        deviation < ORTHONORMAL_TOLERANCE,
        deviation,
        lead,
        name,
        f"an orthonormal rotation (largest entry of |R R^T - I| below {ORTHONORMAL_TOLERANCE})",
    )
    determinant = np.linalg.det(rotation)
    _check_each(
        determinant > 0,
        determinant,
        lead,
        name,
        "a right-handed rotation (determinant +1; -1 means one axis is mirrored)",
    )
    return poses


def check_intrinsics(
    intrinsics: Any, size: tuple[int, int], name: str = "intrinsics"
) -> Float[np.ndarray, "*b 4"]:
    """Returns `(fx, fy, cx, cy)` as float64 after checking them against the picture size `(H, W)`.

    The principal point may lie outside the picture: a crop or a shifted lens puts it there.

    Raises:
      ValueError: naming `name`, the first offending index, what was found and what was expected,
        for a wrong shape or dtype, a value that is not finite, a focal length that is not positive,
        or values that look normalised by the picture size instead of being in pixels.
    """
    intrinsics = _as_float64(intrinsics, name)
    if intrinsics.ndim < 1 or intrinsics.shape[-1] != 4:
        raise ValueError(
            f"{name}: found shape {intrinsics.shape}, expected [..., 4] with fx, fy, cx, cy"
        )
    flat, lead = intrinsics.reshape(-1, 4), intrinsics.shape[:-1]
    _check_each(np.isfinite(flat).all(1), flat, lead, name, "only finite numbers")
    _check_each((flat[:, :2] > 0).all(1), flat, lead, name, "focal lengths fx, fy above 0")
    in_pixels = (flat >= 4.0).any(1) | (min(size) < 8)
    _check_each(
        in_pixels, flat, lead, name, f"pixels of a picture of size {size} (these look normalised)"
    )
    return intrinsics


def _as_float64(value: Any, name: str) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name}: found dtype {array.dtype}, expected numbers")
    return array.astype(np.float64)


def _check_each(
    good: np.ndarray, found: np.ndarray, lead: tuple[int, ...], name: str, expected: str
) -> None:
    """Raises for the first index whose `good` is False, showing what was found there."""
    if good.all():
        return
    first = int(np.argmin(good))
    index = ", ".join(str(int(i)) for i in np.unravel_index(first, lead)) if lead else ""
    where = f"{name}[{index}]" if lead else name
    shown = np.array2string(found[first], precision=6, separator=", ").replace("\n", "")
    raise ValueError(
        f"{where}: found {shown}, expected {expected} "
        f"({int((~good).sum())} of {good.size} are wrong)"
    )
