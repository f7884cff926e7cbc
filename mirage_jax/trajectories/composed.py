"""Camera paths put together of steps, one after another.

Steps are separated by commas, each a name, a colon and an amount:

    forward:2m,turn_left:90,back

Amounts are metres (2 or 2m), multiples of the scene's depth (0.5x) or degrees (90 or 90deg).
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

from mirage_jax.trajectories.held_keys import is_keys
from mirage_jax.trajectories.named import (
    ALIASES,
    CLOSED_NAMES,
    DEEP,
    NAMES,
    ZOOMS,
    check_depth,
    check_zoom,
    local_path,
)

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


def is_composed(text: str) -> bool:
    """Whether a trajectory is steps or keys, and neither a plain name nor a file."""
    return is_keys(text) or (
        all(_STEP.fullmatch(part.strip()) for part in text.split(","))
        and ("," in text or ":" in text or text in STEPS)
    )


def uses_scene_depth(text: str) -> bool:
    """Whether an amount is a multiple of the scene's depth, or a path looks or zooms by it."""
    words = [part.strip() for part in text.split(",")]
    multiple = any(re.fullmatch(r"[a-z_]+:[-+.\de]+x", word) for word in words)
    return multiple or zooms(text) or any(name in DEEP for name in _names(text))


def zooms(text: str) -> bool:
    """Whether the lens changes on a named path or on one of several steps."""
    return any(name in ZOOMS for name in _names(text))


def _names(text: str) -> list[str]:
    words = (part.partition(":")[0].strip() for part in text.split(","))
    return [ALIASES.get(word, word) for word in words]


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
    the way back and ends exactly at the start; so do steps each of which is a closed path.

    Args:
      text: the steps, e.g. "forward:2m,turn_left:90,back".
      frames: number of poses.
      angle: degrees of steps that turn and say no amount.
      distance: metres of steps that move and say no amount; for orbits, to what is circled.
      scene_depth: metres that `x` stands for, and at which `face_*` and `lead_*` look.

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
            check_depth(name, scene_depth)
            path = local_path(name, turn, travel, scene_depth)
            whole, cost = _joined(whole, cost, path, own)
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
    closed = True
    for part in text.split(","):
        name, amount = _step(part.strip(), text, scene_depth)
        if name == BACK:
            if amount is not None or not legs:
                raise ValueError(f"trajectory {text!r}: back goes to the start, after other steps")
            legs.append((BACK, 0.0, 0.0, 0.0))
            closed = True
            continue
        by_angle = name.startswith(_BY_ANGLE)
        turn = math.radians(angle if amount is None or not by_angle else amount)
        travel = float(distance if amount is None or by_angle else amount)
        own = abs(math.degrees(turn)) / _DEGREES_PER_METRE if by_angle else abs(travel)
        legs.append((name, turn, travel, max(own, 0.1)))
        closed = closed and name in CLOSED_NAMES
    return legs, closed


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
    if found is None or (name not in NAMES and name != BACK):
        known = (*STEPS, BACK, *NAMES, *ALIASES)
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
