"""Where a world's zero lies in the coordinates and on the clock that it comes from.

Devices count in float32, which keeps 0.5 m of a northing in UTM and 128 s of the seconds since
1970. So positions and times are kept relative to an origin, which stays on the host in float64.
Nothing here imports jax.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

UPS = {
    f"{sign}{axis}": scale * np.eye(3)[number]
    for number, axis in ((1, "y"), (2, "z"), (0, "x"))
    for sign, scale in (("-", -1.0), ("", 1.0))
}
"""Directions away from the floor, by name: -y is up where the first camera stood upright."""
NEAR = 1024.0
"""Metres from zero up to which positions are kept as they are: float32 has steps of 0.1 mm."""
FARTHEST = 2.0**16
"""Metres from which positions are refused: float32 has steps of 8 mm."""
LONGEST = 2.0**17
"""Seconds from which times that are not whole are refused: float32 has steps of 16 ms."""


@dataclasses.dataclass(frozen=True)
class Origin:
    """What positions and times of a world are relative to.

    Attributes:
      space: added to a position, it gives metres in the coordinates the world comes from.
      time: seconds at frame 0, on the clock the world comes from.
      frame_seconds: seconds from one frame to the next; None if not known.
    """

    space: tuple[float, float, float] = (0.0, 0.0, 0.0)
    time: float = 0.0
    frame_seconds: float | None = None

    def relative(self, cam2world: Float[Any, "*b 4 4"]) -> Float[np.ndarray, "*b 4 4"]:
        """Poses as the world keeps them, of poses where it comes from; float64."""
        return _moved(cam2world, -np.asarray(self.space))

    def absolute(self, cam2world: Float[Any, "*b 4 4"]) -> Float[np.ndarray, "*b 4 4"]:
        """The inverse of `relative`."""
        return _moved(cam2world, np.asarray(self.space))

    def points(self, xyz: Float[Any, "*b 3"]) -> Float[np.ndarray, "*b 3"]:
        """Positions where the world comes from, of those that it keeps; float64."""
        return np.asarray(xyz, np.float64) + self.space

    def relative_times(self, seconds: Float[Any, "*b"]) -> Float[np.ndarray, "*b"]:
        """Seconds since frame 0, of seconds on the clock that the world comes from; float64."""
        return np.asarray(seconds, np.float64) - self.time


def origin_near(cam2world: Float[Any, "*b 4 4"], seconds: Float[Any, " t"] | None = None) -> Origin:
    """Zero or, where cameras are farther from it than `NEAR`, a whole metre beside the first.

    Args:
      cam2world: poses where the world comes from.
      seconds: times on its clock, the first being that of frame 0; None leaves it at 0.
    """
    centres = np.asarray(cam2world, np.float64)[..., :3, 3].reshape(-1, 3)
    far = np.abs(centres).max(initial=0.0) > NEAR
    x, y, z = np.round(centres[0]).tolist() if far else (0.0, 0.0, 0.0)
    return Origin((x, y, z), 0.0 if seconds is None else float(np.asarray(seconds)[0]))


def check_positions(positions: Float[np.ndarray, "*b 3"], name: str) -> None:
    """Checks that float32 keeps positions to a centimetre.

    Raises:
      ValueError: naming `name`, the farthest number and what float32 makes of it.
    """
    farthest = float(np.abs(positions).max(initial=0.0))
    if farthest >= FARTHEST:
        raise ValueError(
            f"{name}: found a position {farthest:,.0f} m from zero, which float32 keeps in steps "
            f"of {np.spacing(np.float32(farthest)):.3g} m; expected float64, or less than "
            f"{FARTHEST:,.0f} m: subtract an origin in float64 first (mirage_jax.origin)"
        )


def check_times(times: Any, name: str) -> None:
    """Checks that float32 keeps times apart; what is no NumPy array or number is let pass.

    Raises:
      ValueError: naming `name`, the largest number and what float32 makes of it.
    """
    if not isinstance(times, np.ndarray | np.generic | int | float):
        return
    values = np.abs(np.asarray(times, np.float64))
    largest = float(values.max(initial=0.0))
    whole = bool((values == np.round(values)).all())
    if largest >= (2.0**24 if whole else LONGEST):
        raise ValueError(
            f"{name}: found {largest:,.0f}, which float32 keeps in steps of "
            f"{np.spacing(np.float32(largest)):.3g}; expected frame numbers, or seconds since the "
            "first frame: subtract its time in float64 first"
        )


def _moved(cam2world: Any, by: np.ndarray) -> np.ndarray:
    poses = np.array(cam2world, np.float64)
    poses[..., :3, 3] += by
    return poses
