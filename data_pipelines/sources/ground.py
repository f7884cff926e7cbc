"""The floor plan that bodies walk on: what is in their way, and what hides them."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

_MARGIN = 1e-6
"""Metres that a body keeps from what it walks into, so that it is never inside."""


@dataclasses.dataclass(frozen=True)
class Ground:
    """Rectangles along the axes on a level floor, metres.

    Attributes:
      blocks: lowest and highest corner (x, y) of everything that nobody walks through.
      hides: whether a block is as high as the bodies, so that none is seen behind it.
    """

    blocks: Float[np.ndarray, "n 2 2"]
    hides: Bool[np.ndarray, " n"]

    def is_free(
        self, points: Float[np.ndarray, "*b 2"], radius: float | Float[np.ndarray, "*b"]
    ) -> Bool[np.ndarray, "*b"]:
        """Whether a square of this half-width around each point is clear of all blocks."""
        reach = np.asarray(radius)[..., None, None]
        low, high = self.blocks[:, 0] - reach, self.blocks[:, 1] + reach
        at = points[..., None, :]
        return np.asarray(~((at > low) & (at < high)).all(-1).any(-1))

    def first_hit(
        self,
        points: Float[np.ndarray, "b 2"],
        directions: Float[np.ndarray, "b 2"],
        radius: Float[np.ndarray, " b"],
    ) -> tuple[Float[np.ndarray, " b"], Int[np.ndarray, " b"]]:
        """How far a square walks until it touches a block, and along which axis that one faces it.

        Args:
          points: centres, clear of all blocks.
          directions: of length 1.
          radius: half-widths.

        Returns:
          Metres, inf where nothing is ever touched, and 0 (x) or 1 (y).
        """
        if not len(self.blocks):
            return np.full(len(points), np.inf), np.zeros(len(points), int)
        reach = radius[:, None, None]
        enter, leave = _slabs(
            points, directions, self.blocks[:, 0] - reach, self.blocks[:, 1] + reach
        )
        near, far = enter.max(-1), leave.min(-1)
        distance = np.where((near < far) & (near >= 0), near, np.inf)
        block = distance.argmin(-1)
        rows = np.arange(len(points))
        return distance[rows, block], enter[rows, block].argmax(-1)

    def sees(
        self, eyes: Float[np.ndarray, "*b 2"], points: Float[np.ndarray, "*b 2"]
    ) -> Bool[np.ndarray, "*b"]:
        """Whether no block that hides lies between an eye and a point."""
        shape, ways = points.shape[:-1], (points - eyes).reshape(-1, 2)
        blocks = self.blocks[self.hides]
        enter, leave = _slabs(eyes.reshape(-1, 2), ways, blocks[None, :, 0], blocks[None, :, 1])
        near, far = enter.max(-1), leave.min(-1)
        hidden = (near < far) & (far > 0) & (near < 1)
        return np.asarray(~hidden.any(-1)).reshape(shape)


OPEN_GROUND = Ground(np.zeros((0, 2, 2)), np.zeros(0, bool))
"""Without a block."""


def _slabs(
    points: np.ndarray, directions: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Ray parameters [b, n, 2] at which each axis enters and leaves each block."""
    along = np.where(np.abs(directions) < 1e-12, 1e-12, directions)[:, None]
    begin, end = (low - points[:, None]) / along, (high - points[:, None]) / along
    return np.minimum(begin, end), np.maximum(begin, end)


def keep_off(distance: Float[np.ndarray, " b"]) -> Float[np.ndarray, " b"]:
    """A distance to a block, less the margin that is kept from it."""
    return np.maximum(distance - _MARGIN, 0.0)
