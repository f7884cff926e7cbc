"""Camera paths put together: steps one after another, and keys as a player holds them.

Steps are separated by commas, each a name, a colon and an amount:

    forward:2m,turn_left:90,back

Amounts are metres (2 or 2m), multiples of the scene's depth (0.5x) or degrees (90 or 90deg). Keys
are separated by spaces, each with the number of frames that it is held:

    w*10 a*5 wj*8

Keys of HY-WorldPlay are separated by commas, each with the number of latents (4 frames):

    w-31, right-1, d-4
"""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from mirage_jax.trajectories.named import ALIASES, PATHS, ZOOMS, check_zoom

STEPS = {
    "forward": "push_in",
    "backward": "pull_out",
    "left": "move_left",
    "right": "move_right",
    "up": "move_up",
    "down": "move_down",
    "turn_left": "pan_left",
    "turn_right": "pan_right",
    "look_up": "tilt_up",
    "look_down": "tilt_down",
}
"""Names of steps beside those of `NAMES`, and the path that each is."""

BACK = "back"
_BY_ANGLE = (
    *("pan_", "tilt_", "roll_", "look_away", "look_around"),
    *("orbit_left", "orbit_right", "orbit_up", "orbit_down"),
)
_STEP = re.compile(r"([a-z_]+)(?::([-+.\de]+)(m|x|deg)?)?")
_DEGREES_PER_METRE = 45.0  # what takes as long as a metre

Local = Callable[[float], Any]
"""From progress in [0, 1] to a pose, or to a focal length, relative to the start."""

# Right, down and forward in a frame; degrees to the right, up and of leaning right.
KEYS: dict[str, tuple[float, ...]] = {
    "w": (0, 0, 1, 0, 0, 0),
    "s": (0, 0, -1, 0, 0, 0),
    "a": (-1, 0, 0, 0, 0, 0),
    "d": (1, 0, 0, 0, 0, 0),
    "j": (0, 0, 0, -1, 0, 0),
    "l": (0, 0, 0, 1, 0, 0),
    "i": (0, 0, 0, 0, 1, 0),
    "k": (0, 0, 0, 0, -1, 0),
    "q": (0, 0, 0, 0, 0, -1),
    "e": (0, 0, 0, 0, 0, 1),
    "u": (0, 0, 0, 0, 0, 0),
}
"""W A S D walk, I J K L look, Q E lean, U waits."""

_WORDS = {"left": "j", "right": "l", "up": "i", "down": "k"}
METRES_PER_FRAME, DEGREES_PER_FRAME = 0.02, 0.75
"""Speed of keys: HY-WorldPlay's 0.08 and 3 degrees for each latent of 4 frames."""

_HELD = re.compile(r"(?:([a-z])|([a-z]{2,}))\*(\d+)")
_HELD_LATENTS = re.compile(r"(left|right|up|down|[a-z])-(\d+)")


def is_composed(text: str) -> bool:
    """Whether a trajectory is steps or keys, and neither a plain name nor a file."""
    return is_keys(text) or (
        all(_STEP.fullmatch(part.strip()) for part in text.split(","))
        and ("," in text or ":" in text or text in STEPS)
    )


def is_keys(text: str) -> bool:
    """Whether it is keys, of either kind."""
    return bool(_parts(text, _HELD, r"\s+") or _parts(text, _HELD_LATENTS, r"\s*,\s*"))


def _parts(text: str, pattern: re.Pattern[str], separator: str) -> list[re.Match[str]]:
    found = [pattern.fullmatch(part) for part in re.split(separator, text.strip().lower())]
    return [m for m in found if m] if all(found) else []


def uses_scene_depth(text: str) -> bool:
    """Whether an amount is a multiple of the scene's depth, or a lens zooms by it."""
    words = [part.strip() for part in text.split(",")]
    return zooms(text) or any(re.fullmatch(r"[a-z_]+:[-+.\de]+x", word) for word in words)


def zooms(text: str) -> bool:
    """Whether the lens changes on a named path or on one of several steps."""
    names = (part.partition(":")[0].strip() for part in text.split(","))
    return any(ALIASES.get(name, name) in ZOOMS for name in names)


def steps(
    text: str,
    frames: int,
    *,
    angle: float | int = 90.0,
    distance: float | int = 1.0,
    scene_depth: float | None = None,
) -> Float[np.ndarray, "t 4 4"]:
    """Poses of steps one after another, at rest between them, beginning at the identity.

    Frames are shared out by how far steps go: a metre takes as long as 45 degrees. `back` goes all
    the way back and ends exactly at the start.

    Args:
      text: the steps, e.g. "forward:2m,turn_left:90,back".
      frames: number of poses.
      angle: degrees of steps that turn and say no amount.
      distance: metres of steps that move and say no amount; for orbits, to what is circled.
      scene_depth: metres that `x` stands for.

    Raises:
      ValueError: naming the step: what was found and what was expected.
    """
    legs, closed = _legs(text, frames, angle, distance, scene_depth)
    whole: Local = lambda u: np.eye(4)  # noqa: E731
    cost = 0.0
    for name, turn, travel, own in legs:
        if name == BACK:
            whole, cost = _joined(whole, cost, _reversed(whole), cost)
        else:
            whole, cost = _joined(whole, cost, _local(name, turn, travel), own)
    poses = _sampled(whole, frames)
    if closed:
        poses[-1] = poses[0]
    return poses


def zoom_of_steps(
    text: str,
    frames: int,
    *,
    angle: float | int = 90.0,
    distance: float | int = 1.0,
    scene_depth: float,
) -> Float[np.ndarray, " t"]:
    """Focal length of every frame of `steps`, as a multiple of the first; arguments are theirs.

    Steps that zoom keep the size of what is `scene_depth` ahead as they begin.
    """
    legs, closed = _legs(text, frames, angle, distance, scene_depth)
    whole: Local = lambda u: 1.0  # noqa: E731
    cost = 0.0
    for name, _, travel, own in legs:
        if name == BACK:
            back = _reversed_zoom(whole)
            whole, cost = _joined(whole, cost, back, cost, operator.mul)
            continue
        if name in ZOOMS:
            check_zoom(name, travel, scene_depth)
        whole, cost = _joined(whole, cost, _zoom(name, travel, scene_depth), own, operator.mul)
    factors = _sampled(whole, frames)
    if closed:
        factors[-1] = factors[0]
    return factors


def _sampled(path: Local, frames: int) -> np.ndarray:
    progress = np.linspace(0.0, 1.0, frames) if frames > 1 else np.zeros(1)
    return np.stack([path(float(u)) for u in progress])


def _legs(
    text: str,
    frames: int,
    angle: float | int,
    distance: float | int,
    scene_depth: float | None,
) -> tuple[list[tuple[str, float, float, float]], bool]:
    """Name, radians, metres and duration of every step, and whether the path comes back."""
    if frames < 1:
        raise ValueError(f"trajectory {text!r}: found frames={frames}, expected at least 1")
    legs: list[tuple[str, float, float, float]] = []
    for part in text.split(","):
        name, amount = _step(part.strip(), text, scene_depth)
        if name == BACK:
            if amount is not None or not legs:
                raise ValueError(f"trajectory {text!r}: back goes to the start, after other steps")
            legs.append((BACK, 0.0, 0.0, 0.0))
            continue
        by_angle = name.startswith(_BY_ANGLE)
        turn = math.radians(angle if amount is None or not by_angle else amount)
        travel = float(distance if amount is None or by_angle else amount)
        own = abs(math.degrees(turn)) / _DEGREES_PER_METRE if by_angle else abs(travel)
        legs.append((name, turn, travel, max(own, 0.1)))
    return legs, legs[-1][0] == BACK


def _local(name: str, turn: float, travel: float) -> Local:
    return lambda u: PATHS[name](u, turn, travel)


def _reversed(path: Local) -> Local:
    """Back along a path, in the frame of its end."""
    home = np.linalg.inv(path(1.0))
    return lambda u: home @ path(1.0 - u)


def _zoom(name: str, travel: float, depth: float) -> Local:
    return lambda u: ZOOMS[name](u, travel, depth) if name in ZOOMS else 1.0


def _reversed_zoom(path: Local) -> Local:
    return lambda u: path(1.0 - u) / path(1.0)


def _joined(
    first: Local,
    cost: float,
    second: Local,
    more: float,
    after: Callable[[Any, Any], Any] = operator.matmul,
) -> tuple[Local, float]:
    if not cost:
        return second, more
    share, end = cost / (cost + more), first(1.0)

    def path(u: float) -> Any:
        return first(u / share) if u <= share else after(end, second((u - share) / (1.0 - share)))

    return path, cost + more


def _step(part: str, text: str, scene_depth: float | None) -> tuple[str, float | None]:
    """(name of a path or `BACK`, amount in metres or degrees)."""
    found = _STEP.fullmatch(part)
    name = STEPS.get(found[1], ALIASES.get(found[1], found[1])) if found else ""
    if found is None or (name not in PATHS and name != BACK):
        known = (*STEPS, BACK, *PATHS, *ALIASES)
        near = difflib.get_close_matches(part.split(":")[0], known, n=1, cutoff=0.4)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(
            f"trajectory {text!r}: found step {part!r}{hint}, expected NAME or NAME:AMOUNT, "
            f"such as forward:2m, turn_left:90 or back; names are {', '.join(STEPS)}, {BACK} and "
            "those of paths"
        )
    if found[2] is None:
        return name, None
    try:
        amount = float(found[2])
    except ValueError as error:
        raise ValueError(
            f"trajectory {text!r}: {part}: found {found[2]!r}, expected a number"
        ) from error
    by_angle, unit = name.startswith(_BY_ANGLE), found[3]
    if unit and (unit == "deg") != by_angle:
        expected = "degrees" if by_angle else "metres (m) or multiples of the scene's depth (x)"
        raise ValueError(f"trajectory {text!r}: {part}: found unit {unit!r}, expected {expected}")
    if unit == "x":
        if scene_depth is None:
            raise ValueError(
                f"trajectory {text!r}: {part}: the scene's depth is not known, expected metres"
            )
        amount *= scene_depth
    return name, amount


def keys(text: str, frames: int = 0) -> Float[np.ndarray, "t 4 4"]:
    """Poses of keys held one after another, beginning at the identity.

    Args:
      text: the keys, e.g. "w*10 a*5" (frames) or "w-31, right-1" (latents of 4 frames).
      frames: number of poses; 0 for one more than keys are held. Longer ones wait at the end.

    Raises:
      ValueError: for an unknown key, or fewer frames than keys are held.
    """
    held: list[tuple[str, int]] = []
    for match in _parts(text, _HELD, r"\s+"):
        held.append((match[1] or match[2], int(match[3])))
    for match in _parts(text, _HELD_LATENTS, r"\s*,\s*"):
        held.append((_WORDS.get(match[1], match[1]), 4 * int(match[2])))
    moves = []
    for pressed, count in held:
        unknown = sorted(set(pressed) - set(KEYS))
        if unknown:
            raise ValueError(
                f"trajectory {text!r}: found key {unknown[0]!r}, expected {', '.join(KEYS)}"
            )
        moves += [np.sum([KEYS[key] for key in pressed], axis=0)] * count
    if frames and frames < len(moves) + 1:
        raise ValueError(
            f"trajectory {text!r}: found {frames} frames, expected at least {len(moves) + 1}, as "
            "long as keys are held"
        )
    poses = [np.eye(4)]
    yaw = pitch = roll = 0.0
    for move in moves:
        yaw, pitch, roll = np.array([yaw, pitch, roll]) + np.radians(move[3:] * DEGREES_PER_FRAME)
        turned = np.eye(4)
        turned[:3, :3] = _rotation(yaw, pitch, roll)
        # Walking follows where one looks, not whether one looks up or leans.
        step = _rotation(yaw, 0.0, 0.0) @ move[:3] * METRES_PER_FRAME
        turned[:3, 3] = poses[-1][:3, 3] + step
        poses.append(turned)
    poses += [poses[-1]] * (frames - len(poses))
    return np.stack(poses)


def _rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    return Rotation.from_euler("YXZ", [yaw, pitch, roll]).as_matrix()
