"""The memory from above as a picture of bins, for the page to draw cameras and tracks over."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from mirage_jax.evaluation.world_page.maps import bins, coloured, mean_picture, views
from mirage_jax.origin import UPS
from mirage_jax.world.plan import Plan

HEADROOM = 0.5
"""Elements this far above the camera, metres, are left out, or ceilings would hide the rooms."""


@dataclasses.dataclass(frozen=True)
class Axes:
    """The directions of a plan in the world.

    Attributes:
      up: name of the direction away from the floor, see `UPS`.
      across: unit vector to the right of the plan.
      ahead: unit vector to its upper edge.
    """

    up: str
    across: np.ndarray
    ahead: np.ndarray

    @classmethod
    def of(cls, up: Float[np.ndarray, "3"]) -> Axes:
        """Of the axis that is nearest to a direction."""
        name = max(UPS, key=lambda axis: float(UPS[axis] @ up))
        across = np.eye(3)[1 if name[-1] == "x" else 0]
        return cls(name, across, np.cross(UPS[name], across))

    def flat(self, points: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 2"]:
        """Points or directions on the plan."""
        return np.asarray(points, np.float64) @ np.stack([self.across, self.ahead], axis=1)

    def height(self, points: Float[np.ndarray, "*n 3"]) -> Any:
        """How far up points are."""
        return np.asarray(points, np.float64) @ UPS[self.up]

    def point(self, place: Sequence[float | int], height: float | int) -> Float[np.ndarray, "3"]:
        """The point at a place of the plan."""
        return place[0] * self.across + place[1] * self.ahead + height * UPS[self.up]


def plan_picture(
    plan: Plan, path: Float[np.ndarray, "f 4 4"], layer: str
) -> tuple[UInt8[np.ndarray, "h w 4"], dict[str, Any]]:
    """The plan; what holds nothing is transparent.

    Args:
      plan: what the memory holds.
      path: cam2world of the walk so far.
      layer: "colour", "age" or "confidence".

    Returns:
      The picture, and where it lies: `left` and `top`, the place of its upper left corner,
      `pixel`, metres of one, and `high`, the number at the end of a colour scale from 0.
    """
    axes = Axes.of(plan.up)
    centres = np.asarray(path, np.float64)[:, :3, 3]
    shown = np.isfinite(plan.xyz).all(1)
    shown &= axes.height(plan.xyz) < axes.height(plan.pose[:3, 3]) + HEADROOM
    if not shown.any():
        left, top = axes.flat(plan.pose[:3, 3])
        return np.zeros((1, 1, 4), np.uint8), {"left": left, "top": top, "pixel": 1.0, "high": 0.0}
    xyz = plan.xyz[shown]
    view = views(xyz, centres, axes.up)[0]
    place = {"left": float(view.low[0]), "top": float(view.high[1]), "pixel": view.pixel}
    values = np.asarray(getattr(plan, layer), np.float64).reshape(len(plan.xyz), -1)[shown]
    mean = mean_picture(view, bins(view, xyz), values)
    if layer != "colour":
        high = float(np.nanmax(mean, initial=0.0))
        return coloured(mean[..., 0], 0.0, high), {**place, "high": high}
    known = np.isfinite(mean[..., :1])
    rgba = np.concatenate([np.where(known, mean, 0.0), np.where(known, 255.0, 0.0)], axis=-1)
    return rgba.round().astype(np.uint8), {**place, "high": 0.0}
