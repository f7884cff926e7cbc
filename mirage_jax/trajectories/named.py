"""Named camera paths, open and closed.

Closed paths end exactly where they began: they are what a memory is tested with. Every path starts
and ends at rest, since a generated video looks wrong when the camera jerks. All poses are
cam2world, OpenCV axes, metres, float64.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from mirage_jax import geometry

Pose = np.ndarray
# progress in [0, 1], angle in radians, distance in metres -> pose relative to the start
LocalPath = Callable[[float, float, float], Pose]
LocalPose = Callable[[float], Pose]
# progress in [0, 1], distance and depth of what is in the middle in metres -> the same
DeepPath = Callable[[float, float, float], Pose]


def _pose(
    *, x: float = 0, y: float = 0, z: float = 0, yaw: float = 0, pitch: float = 0, roll: float = 0
) -> Pose:
    """A pose relative to the start; yaw > 0 looks right, pitch > 0 up, roll > 0 leans right."""
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("YXZ", [yaw, pitch, roll]).as_matrix()
    pose[:3, 3] = x, y, z
    return pose


def _ease(u: float) -> float:
    """From 0 to 1 with zero velocity and acceleration at both ends."""
    return u**3 * (10 - 15 * u + 6 * u * u)


def _there_and_back(u: float) -> float:
    """From 0 to 1 and back to 0, at rest at the start, the turning point and the end."""
    return _ease(1 - abs(2 * u - 1))


def _orbit(theta: float, distance: float) -> Pose:
    """A move to the right (theta > 0) around the point `distance` ahead, kept in the centre."""
    return _pose(x=distance * math.sin(theta), z=distance * (1 - math.cos(theta)), yaw=-theta)


def _orbit_up(theta: float, distance: float) -> Pose:
    """The same upwards (theta > 0)."""
    return _pose(y=-distance * math.sin(theta), z=distance * (1 - math.cos(theta)), pitch=-theta)


Place = Callable[[float, float], tuple[float, float]]
# progress and distance -> metres to the right and down


def _circle(u: float, distance: float) -> tuple[float, float]:
    """Once around in the plane of the picture, clockwise as the camera sees it, first down."""
    t = 2 * math.pi * _ease(u)
    return distance * (math.cos(t) - 1), distance * math.sin(t)


def _lemniscate(u: float, distance: float) -> tuple[float, float]:
    """Bernoulli's lemniscate in the plane of the picture, to the left first."""
    t = 2 * math.pi * _ease(u)
    x = -distance * math.sin(t) / (1 + math.cos(t) ** 2)
    return x, x * math.cos(t)


_PLACES: dict[str, Place] = {
    "left": lambda u, d: (-d * _ease(u), 0.0),
    "right": lambda u, d: (d * _ease(u), 0.0),
    "up": lambda u, d: (0.0, -d * _ease(u)),
    "down": lambda u, d: (0.0, d * _ease(u)),
    "clockwise": _circle,
    "counterclockwise": lambda u, d: (-_circle(u, d)[0], _circle(u, d)[1]),
    "lemniscate": _lemniscate,
}
"""Ways in the plane of the picture, on which the camera may look at what is in the middle."""


def _looking(x: float, y: float, to: tuple[float, float, float]) -> Pose:
    """A pose at (x, y, 0), level, that looks along `to`."""
    right, down, ahead = to
    return _pose(
        x=x, y=y, yaw=math.atan2(right, ahead), pitch=-math.atan2(down, math.hypot(right, ahead))
    )


def _facing(place: Place) -> DeepPath:
    """That way, with what was in the middle at the depth kept there."""

    def path(u: float, distance: float, depth: float) -> Pose:
        x, y = place(u, distance)
        return _looking(x, y, (-x, -y, depth))

    return path


def _leading(place: Place) -> DeepPath:
    """That way, turning as far towards it as `_facing` turns away."""

    def path(u: float, distance: float, depth: float) -> Pose:
        x, y = place(u, distance)
        return _looking(x, y, (x, y, depth))

    return path


def _spiral(u: float, turn: float, distance: float) -> Pose:
    """One turn around the line of sight, widening up to a quarter of the way, while moving in."""
    t = 2 * math.pi * _ease(u)
    radius = 0.25 * distance * _ease(u)
    return _pose(x=radius * math.sin(t), y=-radius * (1 - math.cos(t)), z=distance * _ease(u))


def _walk_loop(u: float, turn: float, distance: float) -> Pose:
    """A circle of that diameter to the right, walked looking ahead."""
    t = 2 * math.pi * _ease(u)
    radius = distance / 2
    return _pose(x=radius * (1 - math.cos(t)), z=radius * math.sin(t), yaw=t)


def _figure_eight(u: float, turn: float, distance: float) -> Pose:
    """Gerono's lemniscate, to the right first, looking ahead all the time."""
    t = 2 * math.pi * _ease(u)
    return _pose(x=distance * math.sin(t), z=0.5 * distance * math.sin(2 * t))


def _look_around(u: float, turn: float, distance: float) -> Pose:
    """To the right, to the left and back, at rest at each turning point."""
    legs = ((0.28, 0.0, 1.0), (0.72, 1.0, -1.0), (1.0, -1.0, 0.0))
    begin = 0.0
    for end, first, last in legs:
        if u <= end:
            share = _ease((u - begin) / (end - begin))
            return _pose(yaw=turn * (first + (last - first) * share))
        begin = end
    return _pose()


def _straight(place: Place) -> LocalPath:
    """That way, looking ahead all the time."""

    def path(u: float, turn: float, distance: float) -> Pose:
        x, y = place(u, distance)
        return _pose(x=x, y=y)

    return path


_CLOSED: dict[str, LocalPath] = {
    "look_away": lambda u, a, d: _pose(yaw=a * _there_and_back(u)),
    "out_and_back": lambda u, a, d: _pose(z=d * _there_and_back(u)),
    "look_and_walk": lambda u, a, d: _pose(
        yaw=a * _there_and_back(u),
        x=d * _there_and_back(u) * math.sin(a / 2),
        z=d * _there_and_back(u) * math.cos(a / 2),
    ),
    "full_circle": lambda u, a, d: _pose(yaw=2 * math.pi * _ease(u)),
    "orbit_circle": lambda u, a, d: _orbit(2 * math.pi * _ease(u), d),
    "walk_loop": _walk_loop,
    "figure_eight": _figure_eight,
    "look_around": _look_around,
    **{way: _straight(_PLACES[way]) for way in ("clockwise", "counterclockwise")},
}

_OPEN: dict[str, LocalPath] = {
    "hold": lambda u, a, d: _pose(),
    "push_in": lambda u, a, d: _pose(z=d * _ease(u)),
    "pull_out": lambda u, a, d: _pose(z=-d * _ease(u)),
    **{f"move_{side}": _straight(_PLACES[side]) for side in ("left", "right", "up", "down")},
    "pan_left": lambda u, a, d: _pose(yaw=-a * _ease(u)),
    "pan_right": lambda u, a, d: _pose(yaw=a * _ease(u)),
    "tilt_up": lambda u, a, d: _pose(pitch=a * _ease(u)),
    "tilt_down": lambda u, a, d: _pose(pitch=-a * _ease(u)),
    "roll_left": lambda u, a, d: _pose(roll=-a * _ease(u)),
    "roll_right": lambda u, a, d: _pose(roll=a * _ease(u)),
    "orbit_left": lambda u, a, d: _orbit(-a * _ease(u), d),
    "orbit_right": lambda u, a, d: _orbit(a * _ease(u), d),
    "orbit_up": lambda u, a, d: _orbit_up(a * _ease(u), d),
    "orbit_down": lambda u, a, d: _orbit_up(-a * _ease(u), d),
    "spiral": _spiral,
    "dolly_zoom": lambda u, a, d: _pose(z=-d * _ease(u)),
}

DEEP: dict[str, DeepPath] = {
    **{f"face_{name}": _facing(place) for name, place in _PLACES.items()},
    **{f"lead_{name}": _leading(place) for name, place in _PLACES.items() if name != "lemniscate"},
}
"""Paths that look at what is in the middle, at some depth, or as far to the other side."""

CLOSED_NAMES = (*_CLOSED, *(name for name in DEEP if name.endswith(("clockwise", "lemniscate"))))
NAMES = (*_CLOSED, *_OPEN, *DEEP)
_PLAIN: dict[str, LocalPath] = {**_CLOSED, **_OPEN}

DEPTH = 1 / 0.3
"""Times the distance: the depth of what is looked at where nothing says it. The camera then moves
by 0.3 of the depth, GEN3C's default."""


def local_path(name: str, angle: float, distance: float, depth: float | None) -> LocalPose:
    """A path of `NAMES` as a function of progress; angle in radians, the rest in metres."""
    if name in DEEP:
        deep, middle = DEEP[name], abs(distance) * DEPTH if depth is None else depth
        return lambda u: deep(u, distance, middle)
    plain = _PLAIN[name]
    return lambda u: plain(u, angle, distance)


# progress in [0, 1], distance and depth in metres -> focal length relative to the start
Zoom = Callable[[float, float, float], float]

ZOOMS: dict[str, Zoom] = {"dolly_zoom": lambda u, d, depth: 1.0 + d * _ease(u) / depth}
"""Of those paths on which the lens changes."""

ALIASES = {
    "static": "hold",
    "none": "hold",
    "fixed": "hold",
    "zoom_in": "push_in",
    "dolly_in": "push_in",
    "move_forward": "push_in",
    "zoom_out": "pull_out",
    "dolly_out": "pull_out",
    "move_backward": "pull_out",
    "truck_left": "move_left",
    "truck_right": "move_right",
    "pedestal_up": "move_up",
    "pedestal_down": "move_down",
    "arc_left": "orbit_left",
    "arc_right": "orbit_right",
    "lemniscate": "figure_eight",
    "rotate_spot": "full_circle",
    "vertigo": "dolly_zoom",
}
"""Names that other tools and film crews have for some of them."""


def known_name(name: str) -> str:
    """The name in `NAMES` of a path; ValueError for an unknown one, with the nearest known."""
    name = ALIASES.get(name, name)
    if name not in NAMES:
        near = difflib.get_close_matches(name, (*NAMES, *ALIASES), n=1, cutoff=0.4)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(
            f"trajectory: found name {name!r}{hint}, expected one of {', '.join(NAMES)}"
        )
    return name


def make(
    name: str,
    frames: int,
    *,
    angle: float | int = 90.0,
    distance: float | int = 1.0,
    start: Float[geometry.Floats, "4 4"] | None = None,
    depth: float | int | None = None,
) -> Float[np.ndarray, "t 4 4"]:
    """Poses of a named path.

    Closed: `look_away` turns right by `angle` and back; `out_and_back` walks forward and back;
    `look_and_walk` does both at once, walking towards half the angle; `full_circle` turns right by
    360 degrees; `orbit_circle` goes all around the point `distance` ahead; `walk_loop` walks a
    circle of that diameter; `figure_eight` moves along one, `distance` to each side, looking ahead;
    `look_around` turns right by `angle`, left by it, and back; `clockwise` and `counterclockwise`
    go once around a circle of radius `distance` in the plane of the picture, without turning.

    Open: `hold`; `push_in`, `pull_out`, `move_*` travel by `distance`; `pan_*`, `tilt_*`, `roll_*`
    rotate by `angle`; `orbit_*` circle by `angle` around the point `distance` ahead; `spiral` moves
    in by `distance`, turning around the line of sight once; `dolly_zoom` moves back by `distance`
    while the lens zooms in (`zoom`).

    `face_*` move to a side by `distance`, around that circle or along a figure eight in the plane
    of the picture, and keep in the middle what was there at the `depth`; `lead_*` turn as far to
    the other side, towards where they go.

    Args:
      name: one of `NAMES` or `ALIASES`.
      frames: number of poses, the first at `start`.
      angle: degrees.
      distance: metres.
      start: cam2world of the first frame, by default the identity.
      depth: metres to what `face_*` and `lead_*` look at; None: `DEPTH` times the distance.
    Returns:
      cam2world, float64; closed paths end exactly at the start.
    Raises:
      ValueError: for an unknown name (with the nearest known one), fewer than one frame, an angle
        or a distance that is not finite, a depth that is not above 0, or a start that is not a
        rigid right-handed pose.
    """
    name = known_name(name)
    if frames < 1:
        raise ValueError(f"trajectory {name}: found frames={frames}, expected at least 1")
    if not (math.isfinite(angle) and math.isfinite(distance)):
        raise ValueError(
            f"trajectory {name}: found angle={angle}, distance={distance}, expected finite numbers"
        )
    check_depth(name, depth)
    start = np.eye(4) if start is None else geometry.check_cam2world(start, "start")
    path = local_path(name, math.radians(angle), float(distance), depth)
    progress = np.linspace(0.0, 1.0, frames) if frames > 1 else np.zeros(1)
    poses = np.stack([start @ path(float(u)) for u in progress])
    poses[0] = start
    if name in CLOSED_NAMES:
        poses[-1] = start  # sin(2 pi) is not 0 in floating point; the same place must be the same
    return poses


def check_depth(name: str, depth: float | int | None) -> None:
    """Raises ValueError unless a path that looks at some depth has one above 0."""
    if name in DEEP and depth is not None and not (math.isfinite(depth) and depth > 0):
        raise ValueError(
            f"trajectory {name}: found something {depth:g} m ahead to look at, expected it ahead"
        )


def zoom(
    name: str, frames: int, *, distance: float | int = 1.0, depth: float | int
) -> Float[np.ndarray, " t"]:
    """Focal length of every frame of a named path, as a multiple of the first.

    That of `dolly_zoom` keeps the size of what is `depth` ahead: it grows as the distance does.
    What is farther grows with it, what is nearer shrinks. Other paths do not zoom.

    Args:
      name, frames, distance: of `make`.
      depth: metres ahead of the first frame.
    Raises:
      ValueError: as of `make`, or if the camera would reach what is at that depth.
    """
    name = known_name(name)
    progress = np.linspace(0.0, 1.0, frames) if frames > 1 else np.zeros(1)
    if name not in ZOOMS:
        return np.ones(frames)
    check_zoom(name, distance, depth)
    return np.array([ZOOMS[name](float(u), float(distance), float(depth)) for u in progress])


def check_zoom(name: str, distance: float | int, depth: float | int) -> None:
    """Raises ValueError unless what is at the depth stays ahead of a camera that moves back."""
    if not (math.isfinite(depth) and depth > 0 and depth + distance > 0):
        raise ValueError(
            f"trajectory {name}: found a distance of {distance:g} m to something {depth:g} m "
            "ahead, expected it to stay ahead"
        )
