"""Freedoom's monsters as bodies of a clip: where the engine has them, seen or not.

They sleep until the camera's player comes into their sight or makes a noise, then come for it, open
doors, shoot, and fight each other; the player cannot be hurt. A sleeping monster is a body that
stands. Which are awake depends on the clips recorded before on the same map.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from data_pipelines.clip import Bodies
from data_pipelines.sources import bodies

SIZES = {
    "Arachnotron": (64, 64),
    "BaronOfHell": (24, 64),
    "Cacodemon": (31, 56),
    "Cyberdemon": (40, 110),
    "Demon": (30, 56),
    "Fatso": (48, 64),
    "HellKnight": (24, 64),
    "LostSoul": (16, 56),
    "PainElemental": (31, 56),
    "Spectre": (30, 56),
    "SpiderMastermind": (128, 100),
}
"""Radius and height of what collides, map units, by the engine's names."""
OTHER_SIZE = (20, 56)  # soldiers, imps, revenants, arch-viles


class State(NamedTuple):
    """One monster at one time: the engine's name, map units, and radians from east to north."""

    name: str
    x: float
    y: float
    feet: float
    angle: float


def states(objects: Iterable[Any]) -> dict[int, State]:
    """The monsters among the engine's objects, by the id that `Clip.mover_ids` shows."""
    return {
        thing.id + 1: State(
            thing.name,
            thing.position_x,
            thing.position_y,
            thing.position_z,
            float(np.deg2rad(thing.angle)),
        )
        for thing in objects
        if thing.category == "Monster"
    }


def to_bodies(
    frames: Sequence[Mapping[int, State]],
    mover_ids: Int32[np.ndarray, "t height width"],
    times: np.ndarray,
    metres: tuple[float, float],
) -> Bodies:
    """Those that show in a clip, in the order of their ids.

    Velocities are differences of places between the frames around: these monsters go in steps, of
    which the engine has no velocity.

    Args:
      frames: monsters at each frame, of `states`.
      mover_ids: of the clip.
      times: of the frames, seconds.
      metres: of a map unit, along the floor and up.
    """
    known = {number for frame in frames for number in frame}
    ids = np.array(sorted(known & set(np.unique(mover_ids).tolist())), np.int32)
    present = np.array([[number in frame for number in ids] for frame in frames], bool)
    present = present.reshape(len(frames), len(ids))
    names: list[str] = []
    numbers = np.zeros((len(frames), len(ids), 4))
    for column, number in enumerate(ids.tolist()):
        there = np.flatnonzero(present[:, column])
        for t in range(len(frames)):
            # One that is not there is where it was last, or will be first.
            nearest = int(there[np.abs(there - t).argmin()])
            numbers[t, column] = frames[nearest][number][1:]
        names.append(frames[int(there[0])][number].name)
    sizes = np.array([SIZES.get(name, OTHER_SIZE) for name in names], float).reshape(-1, 2)
    extent = np.stack([2 * sizes[:, 0] * metres[0]] * 2 + [sizes[:, 1] * metres[1]], -1)
    centres = numbers[..., :3] * [metres[0], metres[0], metres[1]]
    centres[..., 2] += extent[:, 2] / 2
    headings = np.unwrap(numbers[..., 3], axis=0)
    turning = np.zeros_like(centres)
    turning[..., 2] = np.gradient(headings, times, axis=0)
    return Bodies(
        ids=ids,
        kinds=tuple(names),
        looks=tuple(names),
        extent=extent.astype(np.float32),
        body2world=bodies.upright(centres, headings),
        velocity=np.gradient(centres, times, axis=0),
        angular_velocity=turning,
        present=present,
        visible=np.stack([(mover_ids == number).any((1, 2)) for number in ids], 1)
        if len(ids)
        else np.zeros((len(frames), 0), bool),
    )
