"""Depths and intrinsics that are allowed and yet most likely a mistake, in words.

Each function says what it saw, or nothing; whoever asks refuses it unless the user insists. Nothing
here imports jax.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

INSIST = "set `insist` if it is right all the same"

_FAR_MEDIAN = 500.0  # metres; a lens of 50 degrees then sees 470 m of ground across
_WHOLE_MEDIAN = 100.0
_OFF_CENTRE = 0.2
"""Share of the picture by which the principal point may lie off its centre both ways alike; one way
it may lie anywhere in the picture."""


def odd_depth(depth: Float[np.ndarray, "*b h w"]) -> str:
    """What of a depth map looks like millimetres, "" if nothing does; 0 = unknown, inf = sky."""
    known = depth[np.isfinite(depth) & (depth > 0)]
    if not known.size:
        return ""
    median = float(np.median(known))
    whole = bool((known == np.round(known)).all())
    if median <= (_WHOLE_MEDIAN if whole else _FAR_MEDIAN):
        return ""
    kind = "whole numbers" if whole else "numbers"
    return (
        f"found {kind} of median {median:,.0f}, which look like millimetres; expected metres: "
        f"divide by 1000, or {INSIST}"
    )


def odd_intrinsics(
    intrinsics: Float[np.ndarray, "*b 4"], size: tuple[int, int], insist: str = INSIST
) -> str:
    """What of fx, fy, cx, cy looks like those of another picture than of `size` (H, W), or "".

    Args:
      intrinsics: in pixels.
      size: of the picture.
      insist: what to do where they are right all the same, in words.
    """
    flat = np.asarray(intrinsics, np.float64).reshape(-1, 4)
    height, width = size
    x, y = flat[:, 2] / width, flat[:, 3] / height
    low, high = 0.5 - _OFF_CENTRE, 0.5 + _OFF_CENTRE
    other = ((x > high) & (y > high)) | ((x < low) & (y < low)) | (x > 1) | (y > 1)
    swapped = (
        (np.abs(flat[:, 2] - height / 2) < 0.02 * height)
        & (np.abs(flat[:, 3] - width / 2) < 0.02 * width)
        & (max(size) > 1.2 * min(size))
    )
    for wrong, what in ((other, "which look like those of"), (swapped, "swapped as for")):
        if wrong.any():
            cx, cy = flat[int(np.argmax(wrong)), 2:]
            return (
                f"found cx, cy = {cx:.6g}, {cy:.6g}, {what} a picture of {2 * cy:.0f} x "
                f"{2 * cx:.0f}; expected those of {height} x {width} (H x W): scale them with the "
                f"picture (geometry.resize_camera), or {insist}"
            )
    return ""


def refuse(name: str, found: str, insist: bool) -> None:
    """Raises ValueError, naming `name`, if something was found and nobody insists."""
    if found and not insist:
        raise ValueError(f"{name}: {found}")
