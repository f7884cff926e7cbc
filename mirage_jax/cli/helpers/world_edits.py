"""What `mirage world` makes of the words of its flags: regions, poses and edits of a memory."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from mirage_jax import trajectories
from mirage_jax.cli.helpers.common import UserError
from mirage_jax.memory import LatentMemory, edit, regions
from mirage_jax.origin import UPS

EDITS = ("delete", "move", "swap", "duplicate", "pin", "unpin", "compact")
LEAVING = ("delete", "move", "swap")
"""Edits after which what was in the region is not there any more."""
REGIONS = {
    "box": "x,y,z,x,y,z (least, greatest corner)",
    "sphere": "x,y,z,radius",
    "turned_box": "x,y,z,width,height,depth,degrees (centre, sizes, turn about --up)",
}
"""Kinds of regions, and the numbers that each wants."""


def region_of(flag: str, text: str, up: str) -> regions.Box | regions.Sphere | regions.OrientedBox:
    """A region from words like "box:0,0,0,1,2,3".

    Raises:
      UserError: naming the flag, what was found and what was expected.
    """
    kind, _, words = text.partition(":")
    wanted = REGIONS.get(kind)
    if wanted is None:
        known = " or ".join(f"{name}:{numbers}" for name, numbers in REGIONS.items())
        raise UserError(f"--{flag}: found {text!r}, expected {known}")
    counts = {"box": 6, "sphere": 4, "turned_box": 7}
    values = np.array(numbers_of(flag, words.split(","), counts[kind], f"{kind}:{wanted}"))
    if kind == "box":
        if (values[:3] > values[3:]).any():
            raise UserError(f"--{flag}: found {text!r}, expected the least corner first")
        return regions.Box(values[:3], values[3:])
    if (values[3:6] <= 0).any():
        raise UserError(f"--{flag}: found {text!r}, expected sizes above 0")
    if kind == "sphere":
        return regions.Sphere(values[:3], float(values[3]))
    pose = turn_about(values[:3], float(values[6]), up)
    pose[:3, 3] = values[:3]
    return regions.OrientedBox(pose.astype(np.float32), values[3:6])


def numbers_of(flag: str, words: Sequence[str], count: int, expected: str) -> list[float]:
    """So many finite numbers; UserError naming the flag otherwise."""
    try:
        values = [float(word) for word in words]
    except ValueError:
        values = []
    if len(values) != count or not np.isfinite(values).all():
        raise UserError(f"--{flag}: found {','.join(words)!r}, expected {expected}")
    return values


def turn_about(centre: np.ndarray, degrees: float, up: str) -> np.ndarray:
    """The rigid transform that turns about a vertical line through `centre`."""
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_rotvec(np.radians(degrees) * UPS[up]).as_matrix()
    pose[:3, 3] = centre - pose[:3, :3] @ centre
    return pose


def change_of(
    what: str,
    region: Any,
    other: Any,
    by: np.ndarray,
    *,
    edges: bool = False,
) -> Callable[[LatentMemory], tuple[LatentMemory, Any]]:
    """The edit of that name, as a function of the memory.

    Args:
      what: one of `EDITS` but "compact".
      region: what it is about.
      other: the second region of a swap.
      by: rigid transform of a move or a duplicate.
      edges: whether elements outside that show some of a region go, see `regions.showing`.
    """
    changes: dict[str, Callable[[LatentMemory], tuple[LatentMemory, Any]]] = {
        "delete": lambda mem: edit.delete(mem, region),
        "move": lambda mem: edit.move(mem, region, by.astype(np.float32)),
        "swap": lambda mem: edit.swap(mem, region, other),
        "duplicate": lambda mem: edit.duplicate(mem, region, by.astype(np.float32)),
        "pin": lambda mem: edit.pin(mem, region),
        "unpin": lambda mem: edit.pin(mem, region, False),
    }
    change = changes[what]
    if not edges:
        return change
    spaces = [space for space in (region, other) if space is not None]

    def change_with_edges(mem: LatentMemory) -> tuple[LatentMemory, Any]:
        shown, within = (
            functools.reduce(operator.or_, (which(mem, space) for space in spaces))
            for which in (regions.showing, regions.select)
        )
        return change(edit.delete(mem, shown & ~within)[0])

    return change_with_edges


def pose_from(path: Path) -> np.ndarray:
    """The first pose of a file of poses."""
    return trajectories.load(path)[0]
