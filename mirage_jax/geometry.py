"""Cameras, rigid poses, and the two maps between a picture and the world: lift and project.

Conventions of the whole project: OpenCV axes (x right, y down, z forward), `cam2world` 4x4,
intrinsics `(fx, fy, cx, cy)` in pixels of the stated size, depth is z-depth in metres, and pixel
(row i, column j) has its centre at image coordinates `(j + 0.5, i + 0.5)`. With that choice
resizing a picture multiplies the intrinsics and nothing else, and a latent grid is simply a picture
whose pixels are cells.

Products are written out element by element: a `dot` would run in TF32 or bfloat16 passes on
accelerators, and half a cell of error in lift or read costs more than a decibel.
"""

from __future__ import annotations

import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num, Shaped, UInt8
from PIL import Image

from mirage_jax.pose_checks import check_cam2world as check_cam2world
from mirage_jax.pose_checks import check_intrinsics as check_intrinsics

Floats = Array | np.ndarray


@flax.struct.dataclass
class Camera:
    """A batch of pinhole cameras; a pytree whose leading dimensions are those of its arrays.

    Attributes:
      intrinsics: `[..., 4]`, fx, fy, cx, cy in pixels of a picture of `size`.
      cam2world: `[..., 4, 4]`, camera to world, OpenCV axes, metres.
      size: `(H, W)` of the picture the intrinsics belong to; static.
    """

    intrinsics: Any
    cam2world: Any
    size: tuple[int, int] = flax.struct.field(pytree_node=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Leading (batch) dimensions."""
        return tuple(self.cam2world.shape[:-2])

    @property
    def centre(self) -> Any:
        """World position of the optical centre, `[..., 3]` metres."""
        return self.cam2world[..., :3, 3]

    def __getitem__(self, index: Any) -> Camera:
        """Slices the leading dimensions; the matrix dimensions are kept whole."""
        index = index if isinstance(index, tuple) else (index,)
        # Without an Ellipsis of its own, an index that is too long would cut into the matrices.
        tail = () if any(i is Ellipsis for i in index) else (Ellipsis,)
        return self.replace(  # type: ignore[attr-defined]
            intrinsics=self.intrinsics[(*index, *tail, slice(None))],
            cam2world=self.cam2world[(*index, *tail, slice(None), slice(None))],
        )

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a single camera has no length")
        return self.shape[0]


def complete_camera(camera: Camera, name: str) -> Camera:
    """The camera with intrinsics `[..., 4]` and poses `[..., 4, 4]` of equal leading dimensions.

    Lists become arrays, matrices of intrinsics `[..., 3, 3]` their four numbers (skew is not
    modelled), poses `[..., 3, 4]` get their last row, and intrinsics given once are those of all.

    Raises:
      ValueError: naming `name` and the field whose shape is another.
    """
    k, pose = (
        x if hasattr(x, "shape") else np.asarray(x, np.float32)
        for x in (camera.intrinsics, camera.cam2world)
    )
    xp = _namespace(k, pose)
    if k.ndim > 1 and k.shape[-2:] == (3, 3):
        k = xp.stack([k[..., 0, 0], k[..., 1, 1], k[..., 0, 2], k[..., 1, 2]], axis=-1)
    if pose.ndim > 1 and pose.shape[-2:] == (3, 4):
        row = np.broadcast_to(np.array([0, 0, 0, 1], pose.dtype), (*pose.shape[:-2], 1, 4))
        pose = xp.concatenate([pose, row], axis=-2)
    if pose.ndim < 2 or pose.shape[-2:] != (4, 4):
        raise ValueError(f"{name}: cam2world: found shape {pose.shape}, expected [..., 4, 4]")
    lead = pose.shape[:-2]
    if not k.ndim or k.shape[-1] != 4 or k.shape[:-1] not in ((), (1,) * len(lead), lead):
        raise ValueError(
            f"{name}: intrinsics: found shape {k.shape}, expected {(*lead, 4)} with fx, fy, cx, cy "
            "(one for each pose, or one for all)"
        )
    if k.shape[:-1] != lead:
        k = xp.broadcast_to(k, (*lead, 4))
    return Camera(k, pose, camera.size)


# -- poses ---------------------------------------------------------------------------------------


def _namespace(*arrays: Any) -> Any:
    """numpy for host arrays (keeps float64), jax.numpy for everything else."""
    return np if all(isinstance(a, np.ndarray) for a in arrays) else jnp


def invert_pose(pose: Float[Floats, "*b 4 4"]) -> Float[Floats, "*b 4 4"]:
    """Inverse of rigid transforms by transposing the rotation; numpy in, numpy out (dtype kept)."""
    xp = _namespace(pose)
    rotation = xp.swapaxes(pose[..., :3, :3], -1, -2)
    translation = -xp.sum(rotation * pose[..., None, :3, 3], axis=-1)
    top = xp.concatenate([rotation, translation[..., None]], axis=-1)
    return xp.concatenate([top, pose[..., 3:, :]], axis=-2)


def relative_pose(
    a_cam2world: Float[Floats, "*#b 4 4"], b_cam2world: Float[Floats, "*#b 4 4"]
) -> Float[Floats, "*b2 4 4"]:
    """Pose of camera b in the frame of camera a: `inv(a) @ b`, leading dimensions broadcast."""
    xp = _namespace(a_cam2world, b_cam2world)
    inverse = invert_pose(a_cam2world)
    return xp.sum(inverse[..., :, :, None] * b_cam2world[..., None, :, :], axis=-2)


def pose_angle_deg(
    a_cam2world: Float[Floats, "*#b 4 4"], b_cam2world: Float[Floats, "*#b 4 4"]
) -> Shaped[Any, "*b2"]:
    """Angle of the rotation from a to b, degrees in [0, 180]; exact near 0, where arccos is not."""
    xp = _namespace(a_cam2world, b_cam2world)
    r = relative_pose(a_cam2world, b_cam2world)[..., :3, :3]
    axis = xp.stack(
        [r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1]], -1
    )
    sine2 = xp.sqrt(xp.sum(axis * axis, axis=-1))
    cosine2 = r[..., 0, 0] + r[..., 1, 1] + r[..., 2, 2] - 1.0
    return xp.rad2deg(xp.arctan2(sine2, cosine2))


def pose_distance(
    a_cam2world: Float[Floats, "*#b 4 4"], b_cam2world: Float[Floats, "*#b 4 4"]
) -> Shaped[Any, "*b2"]:
    """Distance between the two optical centres, metres."""
    xp = _namespace(a_cam2world, b_cam2world)
    step = a_cam2world[..., :3, 3] - b_cam2world[..., :3, 3]
    return xp.sqrt(xp.sum(step * step, axis=-1))


# -- lift and project ----------------------------------------------------------------------------


def lift(depth: Num[Floats, "*b h w"], camera: Camera) -> Float[Array, "*b h w 3"]:
    """World points of the pixel (or cell) centres at the given z-depth (paper section 3.1).

    The resolution of `depth` may differ from `camera.size`; the intrinsics are scaled to it. The
    camera's leading dimensions broadcast to those of `depth`. A depth of 0 gives the optical centre
    and one that is not finite gives points that are not: mask unknown depth before use.

    Args:
      depth: z-depth in metres.
      camera: cameras that saw it.
    Returns:
      World coordinates in metres, float32.
    Raises:
      ValueError: if `camera.size` is that of pictures lying on their side.
    """
    grid = (int(depth.shape[-2]), int(depth.shape[-1]))
    check_shape(camera, grid)
    depth = jnp.asarray(depth, jnp.float32)
    rays = _camera_rays(resize_camera(camera, grid), grid)
    return _to_world(rays * depth[..., None], camera, spatial_dims=2)


def project(
    points: Float[Floats, "*n 3"], camera: Camera
) -> tuple[Float[Array, "*m 2"], Float[Array, "*m"]]:
    """Image coordinates and z-depth of world points; the inverse of `lift`.

    The leading dimensions of the camera are matched to the *first* dimensions of `points`: points
    `[T, h, w, 3]` go with a camera `[T]`, points `[1, N, 3]` with a camera `[T]` give `[T, N]`.

    Returns:
      `(uv, z)`: coordinates in pixels of `camera.size` with pixel centres at +0.5 (so that `floor`
      gives the pixel) and z-depth in metres. Points with `z <= 0` are behind the camera: their uv
      is meaningless, possibly not finite.
    """
    points = jnp.asarray(points, jnp.float32)
    pose = jnp.asarray(camera.cam2world, jnp.float32)
    k = jnp.asarray(camera.intrinsics, jnp.float32)
    extra = (1,) * (points.ndim - 1 - len(camera.shape))
    pose = pose.reshape(*camera.shape, *extra, 4, 4)
    k = k.reshape(*camera.shape, *extra, 4)
    # Subtracting the centre first keeps precision far from the world's origin.
    dx, dy, dz = (points[..., i] - pose[..., i, 3] for i in range(3))
    x, y, z = (dx * pose[..., 0, i] + dy * pose[..., 1, i] + dz * pose[..., 2, i] for i in range(3))
    # In the lens' own plane there is no projection; 0 / 0 would stop a run under `jax_debug_nans`.
    divisor = jnp.where(z == 0, 1.0, z)
    u = k[..., 0] * x / divisor + k[..., 2]
    v = k[..., 1] * y / divisor + k[..., 3]
    return jnp.stack([u, v], axis=-1), z


def pluecker_rays(camera: Camera, grid: tuple[int, int]) -> Float[Array, "*b h w 6"]:
    """Pluecker coordinates of the ray through every cell centre: unit direction, then moment.

    The moment is `centre x direction` (metres), which makes the six numbers independent of the
    point chosen on the ray. Express the poses relative to a reference camera first if the network
    must not see absolute world coordinates.
    """
    check_shape(camera, grid)
    rays = _camera_rays(resize_camera(camera, grid), grid)
    rays = rays / jnp.sqrt(jnp.sum(rays * rays, axis=-1, keepdims=True))
    centre = jnp.asarray(camera.centre, jnp.float32)[..., None, None, :]
    direction = _to_world(rays, camera, spatial_dims=2) - centre
    moment = jnp.cross(jnp.broadcast_to(centre, direction.shape), direction)
    return jnp.concatenate([direction, moment], axis=-1)


def check_shape(camera: Camera, grid: tuple[int, int]) -> None:
    """Raises ValueError if rows and columns of `grid` are those of a picture lying on its side."""
    (h, w), (height, width) = grid, camera.size
    if h * height == w * width and h != w:
        raise ValueError(
            f"camera: size: found {tuple(camera.size)} with {h} x {w} pixels or cells, expected "
            "height, then width"
        )


def _camera_rays(camera: Camera, grid: tuple[int, int]) -> Array:
    """Camera-frame points at z = 1 of the pixel centres, `[..., h, w, 3]`."""
    h, w = grid
    k = jnp.asarray(camera.intrinsics, jnp.float32)[..., None, None, :]
    columns, rows = (jnp.arange(n, dtype=jnp.float32) + 0.5 for n in (w, h))
    ndim = k.ndim - 1
    x = (jax.lax.broadcast_to_rank(columns, ndim) - k[..., 2]) / k[..., 0]
    y = (jax.lax.broadcast_to_rank(rows[:, None], ndim) - k[..., 3]) / k[..., 1]
    shape = jnp.broadcast_shapes(x.shape, y.shape)
    return jnp.stack(
        [jnp.broadcast_to(x, shape), jnp.broadcast_to(y, shape), jnp.ones(shape, jnp.float32)], -1
    )


def _to_world(points: Array, camera: Camera, spatial_dims: int) -> Array:
    """Camera-frame points to world, the camera's dimensions ahead of `spatial_dims` more."""
    pose = jnp.asarray(camera.cam2world, jnp.float32)
    pose = pose.reshape(*camera.shape, *(1,) * spatial_dims, 4, 4)
    return jnp.stack(
        [
            points[..., 0] * pose[..., i, 0]
            + points[..., 1] * pose[..., i, 1]
            + points[..., 2] * pose[..., i, 2]
            + pose[..., i, 3]
            for i in range(3)
        ],
        axis=-1,
    )


def field_of_view(degrees: float | int, size: tuple[int, int]) -> Float[np.ndarray, "4"]:
    """Intrinsics of a centred lens that sees so many degrees across the shorter side.

    Raises:
      ValueError: unless the angle is between 0 and 180 degrees.
    """
    if not 0 < degrees < 180:
        raise ValueError(f"field of view: found {degrees}, expected degrees between 0 and 180")
    focal = min(size) / 2 / math.tan(math.radians(degrees) / 2)
    return np.array([focal, focal, size[1] / 2, size[0] / 2], np.float32)


# -- pictures and their intrinsics ---------------------------------------------------------------


def resize_camera(camera: Camera, size: tuple[int, int]) -> Camera:
    """The same camera for a picture (or a grid of cells) of another size `(H, W)`."""
    xp = _namespace(camera.intrinsics)
    sy, sx = size[0] / camera.size[0], size[1] / camera.size[1]
    intrinsics = xp.asarray(camera.intrinsics)
    scale = np.array([sx, sy, sx, sy]).reshape(*(1,) * (intrinsics.ndim - 1), 4)
    return camera.replace(  # type: ignore[attr-defined]
        intrinsics=intrinsics * scale.astype(intrinsics.dtype), size=(int(size[0]), int(size[1]))
    )


def crop_camera(camera: Camera, top: int, left: int, size: tuple[int, int]) -> Camera:
    """The camera of the window of `size` whose first pixel is `(top, left)`.

    Raises:
      ValueError: if the window does not lie inside the picture.
    """
    height, width = camera.size
    if top < 0 or left < 0 or top + size[0] > height or left + size[1] > width or min(size) < 1:
        raise ValueError(
            f"crop: window rows {top}:{top + size[0]}, columns {left}:{left + size[1]} does not "
            f"lie inside the picture of size {camera.size}"
        )
    xp = _namespace(camera.intrinsics)
    intrinsics = xp.asarray(camera.intrinsics)
    shift = np.array([0, 0, left, top]).reshape(*(1,) * (intrinsics.ndim - 1), 4)
    return camera.replace(  # type: ignore[attr-defined]
        intrinsics=intrinsics - shift.astype(intrinsics.dtype),
        size=(int(size[0]), int(size[1])),
    )


def resize_picture(
    picture: UInt8[np.ndarray, "*t H W 3"],
    camera: Camera,
    size: tuple[int, int],
    resampling: Image.Resampling = Image.Resampling.LANCZOS,
) -> tuple[UInt8[np.ndarray, "*t h w 3"], Camera]:
    """Resizes uint8 pictures together with their intrinsics.

    Args:
      picture: of `camera.size`.
      camera: that took it.
      size: (H, W) to come to.
      resampling: Pillow's filter; those it has for photos are antialiased.

    Raises:
      ValueError: if the picture is not of `camera.size`.
    """
    _check_picture(picture, camera)
    flat = picture.reshape(-1, *picture.shape[-3:])
    resized = [np.asarray(Image.fromarray(p).resize((size[1], size[0]), resampling)) for p in flat]
    shape = (*picture.shape[:-3], *size, 3)
    return np.asarray(resized, np.uint8).reshape(shape), resize_camera(camera, size)


def crop_picture(
    picture: UInt8[np.ndarray, "*t H W 3"],
    camera: Camera,
    top: int,
    left: int,
    size: tuple[int, int],
) -> tuple[UInt8[np.ndarray, "*t h w 3"], Camera]:
    """Cuts a window out of uint8 pictures together with their intrinsics.

    Raises:
      ValueError: if the picture is not of `camera.size`, or the window does not lie inside it.
    """
    _check_picture(picture, camera)
    cropped = crop_camera(camera, top, left, size)
    return picture[..., top : top + size[0], left : left + size[1], :], cropped


def _check_picture(picture: np.ndarray, camera: Camera) -> None:
    if tuple(picture.shape[-3:-1]) != tuple(camera.size):
        raise ValueError(
            f"picture of size {tuple(picture.shape[-3:-1])} with a camera of size {camera.size}: "
            "the intrinsics belong to another resolution"
        )
