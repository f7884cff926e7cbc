"""What can be said of arguments before JAX has them: of sizes, and of NumPy's arrays.

Values that are traced or lie on a device are let pass, for looking at them would wait for them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mirage_jax.geometry import Camera
from mirage_jax.origin import check_positions
from mirage_jax.pose_checks import check_cam2world, check_intrinsics


def check_camera(camera: Camera, name: str) -> None:
    """Checks the size of a complete camera, and poses and intrinsics that are NumPy's.

    Raises:
      ValueError: naming `name` and the field, on values that are not finite, poses that are not
        rigid or so far from zero that float32 loses centimetres, focal lengths that are not
        positive, intrinsics that are not in pixels, or a size that is not of two numbers from 1.
    """
    check_counts(f"{name}: camera size", camera.size, 2)
    if isinstance(camera.cam2world, np.ndarray):
        check_cam2world(camera.cam2world, f"{name}: camera")
        check_positions(camera.cam2world[..., :3, 3], f"{name}: camera")
    if isinstance(camera.intrinsics, np.ndarray):
        check_intrinsics(camera.intrinsics, camera.size, f"{name}: intrinsics")


def check_counts(name: str, found: Any, count: int) -> None:
    """Checks that there are so many whole numbers from 1; ValueError, naming `name`, otherwise."""
    numbers = found if isinstance(found, list | tuple | np.ndarray) else ()
    whole = all(isinstance(n, int | np.integer) and not isinstance(n, bool) for n in numbers)
    if len(numbers) != count or not whole or min(numbers) < 1:
        raise ValueError(f"{name}: found {found!r}, expected {count} whole numbers from 1")


def check_finite(values: Any, name: str) -> None:
    """Checks NumPy's arrays of numbers; ValueError, naming `name`, if one is not finite."""
    if isinstance(values, np.ndarray) and values.dtype.kind == "f":
        wrong = int((~np.isfinite(values)).sum())
        if wrong:
            raise ValueError(
                f"{name}: found NaN or infinity, expected finite numbers ({wrong} of "
                f"{values.size} are wrong)"
            )
