"""Pictures and their cameras as a world starts from them, checked."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8

from mirage_jax.geometry import Camera, check_cam2world, check_intrinsics, field_of_view


def posed_pictures(
    pictures: UInt8[np.ndarray, "height width 3"] | UInt8[np.ndarray, "k height width 3"],
    camera: Camera | None,
    size: tuple[int, int],
) -> tuple[UInt8[np.ndarray, "k height width 3"], Camera]:
    """Pictures with a leading dimension, and a camera for each.

    Args:
      pictures: of `size`.
      camera: with the leading dimension of the pictures; None, for one picture, is at the origin
        and sees 90 degrees across the shorter side.
      size: (H, W) of a model's pictures.

    Raises:
      ValueError: on pictures of another size, or a camera that does not fit them.
    """
    if pictures.ndim == 3:
        pictures = pictures[None]
        camera = None if camera is None else camera[None]
    if tuple(pictures.shape[1:3]) != size:
        raise ValueError(
            f"pictures: found {pictures.shape[1]} x {pictures.shape[2]} pixels, expected "
            f"{size[0]} x {size[1]}: geometry.resize_picture fits picture and camera"
        )
    if camera is None:
        if len(pictures) > 1:
            raise ValueError(f"camera: found none, expected one for each of {len(pictures)}")
        pose = np.eye(4, dtype=np.float32)
        camera = Camera(field_of_view(90.0, size), pose, size)[None]
    if camera.shape != (len(pictures),) or camera.size != size:
        raise ValueError(
            f"camera: found {camera.shape} cameras of {camera.size} pixels, expected "
            f"{(len(pictures),)} of {size}"
        )
    check_cam2world(camera.cam2world, "camera: cam2world")
    check_intrinsics(camera.intrinsics, size, "camera: intrinsics")
    return pictures, camera
