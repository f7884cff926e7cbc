"""The one record that every camera file is read into, and written from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from mirage_jax.pose_checks import check_cam2world

PINHOLE = "pinhole"
"""`CameraRecord.lens` without distortion."""


@dataclasses.dataclass(frozen=True)
class CameraRecord:
    """Cameras of the frames of one sequence, in this project's conventions.

    Attributes:
      cam2world: camera to world, OpenCV axes (x right, y down, z forward), float64.
      intrinsics: fx, fy, cx, cy, pixel centres at +0.5; None if the file does not say.
      size: (H, W) of the picture that the intrinsics are in pixels of; None if not known.
      normalised: whether the intrinsics are fractions of width and height instead of pixels.
      timestamps: seconds; None if the file does not say.
      names: of the frames' pictures; None if the file does not say.
      lens: "pinhole", or the name of the distortion model that the file uses.
      distortion: coefficients of each frame by name (k1, k2, p1, p2, ...); None for a pinhole.
      metric: whether translations are metres; False for an arbitrary scale, None if not known.
      format: name of the format that it was read from.
      notes: what was seen in the file, and what was therefore done.
    """

    cam2world: Float[np.ndarray, "f 4 4"]
    intrinsics: Float[np.ndarray, "f 4"] | None = None
    size: tuple[int, int] | None = None
    normalised: bool = False
    timestamps: Float[np.ndarray, " f"] | None = None
    names: tuple[str, ...] | None = None
    lens: str = PINHOLE
    distortion: tuple[Mapping[str, float], ...] | None = None
    metric: bool | None = None
    format: str = ""
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.cam2world)

    def pixel_intrinsics(self, size: tuple[int, int]) -> Float[np.ndarray, "f 4"]:
        """Intrinsics in pixels of a picture of `size` (H, W) that shows the same view.

        Raises:
          ValueError: if there are none, or they are pixels of a size that is not known.
        """
        if self.intrinsics is None:
            raise ValueError("intrinsics: the camera file has none")
        width_height = np.array([size[1], size[0]] * 2, np.float64)
        if self.normalised:
            return self.intrinsics * width_height
        if self.size is None:
            raise ValueError("intrinsics: in pixels of a picture whose size is not known")
        return self.intrinsics * width_height / np.array([self.size[1], self.size[0]] * 2)

    def replace(self, **changes: object) -> CameraRecord:
        """The record with some fields changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]


def checked(record: CameraRecord, where: str = "record") -> CameraRecord:
    """The record with float64 arrays, after checking that its fields fit each other.

    Raises:
      ValueError: naming `where`, the field and the frame: what was found and what was expected.
    """
    poses = check_cam2world(record.cam2world, f"{where}: frame")
    if poses.ndim != 3 or not len(poses):
        raise ValueError(f"{where}: found poses of shape {poses.shape}, expected [F, 4, 4]")
    count = len(poses)
    arrays: dict[str, np.ndarray | None] = {"intrinsics": None, "timestamps": None}
    for name, shape in (("intrinsics", (count, 4)), ("timestamps", (count,))):
        value = getattr(record, name)
        if value is None:
            continue
        array = np.asarray(value, np.float64)
        if array.shape != shape:
            raise ValueError(f"{where}: {name}: found shape {array.shape}, expected {shape}")
        good = np.isfinite(array).reshape(count, -1).all(1)
        if name == "intrinsics":
            good &= (array[:, :2] > 0).all(1)
        if not good.all():
            first = int(np.argmin(good))
            expected = "finite numbers" + (", fx and fy above 0" if name == "intrinsics" else "")
            raise ValueError(
                f"{where}: {name}[{first}]: found {array[first].tolist()}, expected {expected}"
            )
        arrays[name] = array
    for name in ("names", "distortion"):
        value = getattr(record, name)
        if value is not None and len(value) != count:
            raise ValueError(f"{where}: {name}: found {len(value)}, expected {count}, one a frame")
    return record.replace(cam2world=poses, **arrays)
