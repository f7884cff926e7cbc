"""Pictures and their cameras as a world starts from them, checked."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from mirage_jax.geometry import Camera, check_cam2world, check_intrinsics, field_of_view
from mirage_jax.origin import Origin, check_positions, origin_near
from mirage_jax.plausible import odd_depth, odd_intrinsics, refuse


def posed_pictures(
    pictures: Any,
    camera: Any,
    size: tuple[int, int],
    insist: bool = False,
) -> tuple[UInt8[np.ndarray, "k height width 3"], Camera]:
    """Pictures with a leading dimension, and a camera for each.

    Args:
      pictures: uint8 colours of `size`, [H, W, 3] or [K, H, W, 3]; anything that NumPy makes such
        an array of, as an RGB image of Pillow.
      camera: with the leading dimension of the pictures; None, for one picture, is at the origin
        and sees 90 degrees across the shorter side.
      size: (H, W) of a model's pictures.
      insist: take intrinsics that look like those of other pictures.

    Raises:
      ValueError: on what is no such array, pictures of another size, or a camera that does not fit
        them.
    """
    if not isinstance(camera, Camera | None):
        raise ValueError(f"camera: found {type(camera).__name__}, expected a geometry.Camera")
    pictures = np.asarray(pictures)
    if pictures.dtype != np.uint8 or pictures.ndim not in (3, 4) or pictures.shape[-1] != 3:
        raise ValueError(
            f"pictures: found {pictures.dtype} of shape {pictures.shape}, expected uint8 "
            "[H, W, 3] or [K, H, W, 3]"
        )
    if len(pictures) == 0:
        raise ValueError("pictures: found none, expected at least one")
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
    if camera.size == size[::-1] != size:
        raise ValueError(f"camera: size: found {camera.size}, expected {size}: height, then width")
    if camera.shape != (len(pictures),) or camera.size != size:
        raise ValueError(
            f"camera: found {camera.shape} cameras of {camera.size} pixels, expected "
            f"{(len(pictures),)} of {size}"
        )
    check_cam2world(camera.cam2world, "camera: cam2world")
    lens = check_intrinsics(camera.intrinsics, size, "camera: intrinsics")
    refuse("camera: intrinsics", odd_intrinsics(lens, size), insist)
    return pictures, camera


def numbers_of_pictures(times: Any, count: int) -> Float[np.ndarray, " k"] | None:
    """Numbers of frames, checked; None where there are none.

    Raises:
      ValueError: unless there are as many as pictures, not negative, each larger than the last.
    """
    if times is None:
        return None
    numbers = np.asarray(times, np.float32)
    if numbers.shape != (count,) or not np.all(np.diff(numbers, prepend=-1.0) > 0):
        raise ValueError(
            f"times: found {numbers.tolist()}, expected {count} numbers of frames, not negative "
            "and each larger than the one before"
        )
    return numbers


def placed(camera: Camera, origin: Origin | None) -> tuple[Camera, Origin]:
    """Cameras as a world keeps them, relative to an origin in float32, and the origin.

    Args:
      camera: where they were taken from.
      origin: None for zero or, of cameras far from it, a place beside the first.

    Raises:
      ValueError: if one is too far from the origin.
    """
    if origin is None:
        origin = origin_near(camera.cam2world)
    poses = origin.relative(camera.cam2world)
    check_positions(poses[..., :3, 3], "camera: cam2world")
    return camera.replace(cam2world=poses.astype(np.float32)), origin  # type: ignore[attr-defined]


def depth_of_pictures(depth: Any, pictures: Any, insist: bool = False) -> np.ndarray | None:
    """`maps_of_pictures` for depth: in floating point, and not in what looks like millimetres."""
    if depth is None:
        return None
    found = np.asarray(depth)
    if found.dtype.kind != "f":
        raise ValueError(
            f"depth: found {found.dtype}, expected floating point metres (of millimetres, a "
            "thousandth)"
        )
    refuse("depth", odd_depth(found), insist)
    return maps_of_pictures(found, pictures, "depth")


def maps_of_pictures(maps: Any, pictures: Any, name: str) -> np.ndarray | None:
    """Maps, as of depth, with the leading dimension that `posed_pictures` gives the pictures.

    Args:
      maps: one for each picture, [h, w] for one picture and [K, h, w] for K; None stays None.
      pictures: as given to `posed_pictures`.
      name: of the maps.

    Raises:
      ValueError: naming the maps, if there is not one for each picture.
    """
    if maps is None:
        return None
    maps, lead = np.asarray(maps), np.shape(pictures)[:-3]
    if maps.ndim != len(lead) + 2 or maps.shape[:-2] != lead:
        expected = ", ".join([*map(str, lead), "h", "w"])
        raise ValueError(
            f"{name}: found shape {maps.shape}, expected [{expected}], a map for each picture"
        )
    return maps if lead else maps[None]
