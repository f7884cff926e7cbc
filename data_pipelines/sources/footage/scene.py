"""A scene: one take of footage or more, whose cameras are known before any picture is read."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from mirage_jax.pose_checks import check_cam2world, check_intrinsics

_LONGEST_STEP = 1e6  # seconds: frames per second are kept to six places

# Yields one array for each of the frames asked for, whose numbers increase.
Read = Callable[[Sequence[int]], Iterator[np.ndarray]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """N frames in the order in which they were taken; what the files do not have is None.

    Attributes:
      name: unique within the footage, e.g. the path of a video below the root.
      file: that the cameras come from, for messages.
      times: [N], seconds, strictly increasing.
      cam2world: [N, 4, 4], OpenCV axes, in metres as far as the source says.
      intrinsics: [N, 4], `fx, fy, cx, cy` in pixels of `size`, centres at +0.5.
      size: (H, W) of all pictures and maps.
      pictures: reads uint8 [H, W, 3].
      depth: reads float32 [H, W], z-depth in metres, 0 unknown, inf sky.
      movers: reads int32 [H, W], 0 static.
      usable: [N], False for frames without a pose; no clip has one or goes past one.
      takes: [N], the number of the take that each frame is of; no clip has frames of two. None: all
        are of one.
      left_out: how many frames of the files are not among the N, by reason.
      caption: what is to be seen.
      licence: of the footage.
      provenance: plain JSON that goes into every clip.
    """

    name: str
    file: str
    times: Float[np.ndarray, " N"]
    cam2world: Float[np.ndarray, "N 4 4"]
    intrinsics: Float[np.ndarray, "N 4"]
    size: tuple[int, int]
    pictures: Read
    depth: Read | None = None
    movers: Read | None = None
    usable: Bool[np.ndarray, " N"] | None = None
    takes: Int[np.ndarray, " N"] | None = None
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)
    caption: str | None = None
    licence: str | None = None
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks what is known of the cameras.

        Raises:
          ValueError: naming the file and the frame, for lengths that differ, times that do not
            increase, poses that are no rigid motion or intrinsics that do not fit the pictures.
        """
        lengths = {len(self.times), len(self.cam2world), len(self.intrinsics), len(self.good)}
        lengths |= set() if self.takes is None else {len(self.takes)}
        if len(lengths) != 1:
            raise ValueError(
                f"{self.file}: found {len(self.times)} times, {len(self.cam2world)} poses and "
                f"{len(self.intrinsics)} intrinsics, expected one of each per frame"
            )
        steps = np.diff(self.times)
        falling = np.flatnonzero(~((steps > 0) & (steps < _LONGEST_STEP)))
        if falling.size:
            frame = int(falling[0]) + 1
            raise ValueError(
                f"{self.file}: frame {frame}: found {self.times[frame]:g} s after "
                f"{self.times[frame - 1]:g} s, expected increasing times, less than "
                f"{_LONGEST_STEP:g} s apart"
            )
        good = self.good
        poses = np.where(good[:, None, None], self.cam2world, np.eye(4))
        check_cam2world(poses, f"{self.file}: cam2world of frame")
        if good.any():
            lenses = np.where(good[:, None], self.intrinsics, self.intrinsics[good][0])
            check_intrinsics(lenses, self.size, f"{self.file}: intrinsics of frame")

    @property
    def good(self) -> Bool[np.ndarray, " N"]:
        """`usable`, True where it is not said."""
        return np.ones(len(self.times), bool) if self.usable is None else self.usable


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """What readers of all formats go by; each uses what it has a use for.

    Attributes:
      missing: "refuse" footage that lacks pictures its cameras name, or "skip" those frames.
      ground: grey of 0 to 255 that transparent pictures are laid over.
      fps: of pictures without times.
      orientation: "exif" to turn pictures as their files say, "stored" not to, "auto" as the
        cameras speak of them.
      register: whether depth of a sensor with a lens of its own is brought into the colour picture.
      lens: `fx, fy, cx, cy` in pixels of the pictures, in place of what the files say.
      direction, axes, units: of camera files that do not say them, see `camera_files.read`.
      depth_metres: of one step of 16-bit depth pictures whose format does not say it.
    """

    missing: str = "refuse"
    ground: int = 255
    fps: float = 30.0
    orientation: str = "auto"
    register: bool = True
    lens: tuple[float | int, ...] = ()
    direction: str = ""
    axes: str = ""
    units: str = ""
    depth_metres: float = 0.001
