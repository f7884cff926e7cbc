"""Where one can stand and walk in a map, around a place: from its brushes, cut into small boxes."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from data_pipelines.sources.openarena import bsp as maps
from data_pipelines.sources.openarena.bsp import METRES, Bsp

CELL = np.array([8.0, 8.0, 4.0])  # map units
REACH = np.array([224.0, 224.0, 128.0])  # from the place in the middle, map units
STEP, HEAD = 18.0, 64.0  # what a player climbs, and what a camera needs above the floor
EYE = 50.0  # map units above the floor
CLEARANCE = 2  # cells that the camera keeps from where one cannot walk
FALL = 128.0  # from a place to the floor below it, at most


@dataclass(frozen=True)
class Floor:
    """The floor that is reached on foot from a place.

    Attributes:
      corner: (x, y) of the grid's lowest corner, metres.
      free: cells [x, y] in which a camera may be.
      height: of the camera over each cell, metres; smooth, and means nothing far from free cells.
      solid: whether each box [x, y, z] is filled.
      bottom: height of the lowest boxes' lower side, metres.
    """

    corner: Float[np.ndarray, "2"]
    free: Bool[np.ndarray, "n m"]
    height: Float[np.ndarray, "n m"]
    solid: Bool[np.ndarray, "n m k"]
    bottom: float

    def is_free(self, points: Float[np.ndarray, "n 2"]) -> Bool[np.ndarray, " n"]:
        """Whether a camera may be over each (x, y), metres."""
        cells = np.floor((points - self.corner) / (CELL[:2] * METRES)).astype(int)
        inside = ((cells >= 0) & (cells < self.free.shape)).all(-1)
        x, y = np.where(inside[:, None], cells, 0).T
        return self.free[x, y] & inside

    def draw_start(self, rng: np.random.Generator) -> Float[np.ndarray, "2"]:
        """A point (x, y) within a free cell, metres."""
        cells = np.argwhere(self.free)
        cell = cells[rng.integers(len(cells))]
        return self.corner + (cell + rng.random(2)) * CELL[:2] * METRES

    def eyes(self, points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 3"]:
        """Places of the camera over (x, y), metres."""
        from scipy import ndimage

        at = (points - self.corner) / (CELL[:2] * METRES) - 0.5
        heights = ndimage.map_coordinates(self.height, at.T, order=1, mode="nearest")
        return np.column_stack([points, heights])

    def open_way(self, eye: Float[np.ndarray, "3"], yaw: float) -> float:
        """Metres to the first filled box, level ahead; at most to the end of the grid."""
        ways = np.arange(0.0, REACH[0] * METRES, 0.1)
        places = eye + ways[:, None] * [np.cos(yaw), np.sin(yaw), 0.0]
        low = np.array([*self.corner, self.bottom])
        cells = np.floor((places - low) / (CELL * METRES)).astype(int)
        inside = ((cells >= 0) & (cells < self.solid.shape)).all(-1)
        hit = self.solid[tuple(np.where(inside[:, None], cells, 0).T)] | ~inside
        return float(ways[hit.argmax()]) if hit.any() else float(ways[-1])


def floor_around(
    level: Bsp, place: Float[np.ndarray, "3"], curved: Float[np.ndarray, "n 3"]
) -> Floor | None:
    """The floor below a place (map units), or None where there is none to stand on.

    curved: points on surfaces that are solid beside the brushes.
    """
    low = np.floor((place - REACH) / CELL) * CELL
    shape = np.rint(2 * REACH / CELL).astype(int)
    firm = filled(level, low, shape, maps.SOLID | maps.PLAYER_CLIP)
    cells = np.floor((curved - low) / CELL).astype(int)
    near = ((cells >= 0) & (cells < shape)).all(-1)
    firm[tuple(cells[near].T)] = True
    blocked = firm | filled(level, low, shape, maps.LIQUID)
    levels = _walk(firm, blocked, np.floor((place - low) / CELL).astype(int))
    if levels is None:
        return None
    from scipy import ndimage

    reached = levels >= 0
    around = np.ones((2 * CLEARANCE + 1,) * 2, bool)
    free = ndimage.binary_erosion(reached, around)
    if not free.any():
        return None
    share = ndimage.gaussian_filter(reached.astype(float), 2.0)
    height = ndimage.gaussian_filter(np.where(reached, levels, 0.0), 2.0)
    smooth = low[2] + CELL[2] * height / np.maximum(share, 1e-9) + EYE
    return Floor(low[:2] * METRES, free, smooth * METRES, firm, float(low[2] * METRES))


def filled(
    level: Bsp, low: Float[np.ndarray, "3"], shape: np.ndarray, contents: int
) -> Bool[np.ndarray, "n m k"]:
    """Which boxes of CELL from a corner on have their middle in a brush with these contents."""
    boxes = np.zeros(tuple(shape), bool)
    world, high = level.models[0], low + CELL * shape
    for brush in level.brushes[world["brush"] : world["brush"] + world["brushes"]]:
        if not level.textures["contents"][brush["texture"]] & contents:
            continue
        sides = level.sides[brush["side"] : brush["side"] + brush["sides"]]
        planes = level.planes[sides["plane"]]
        normals, distances = planes["normal"].astype(float), planes["distance"].astype(float)
        begin, end = low.copy(), high.copy()
        for axis in range(3):  # the sides along the axes bound the brush
            ahead, behind = normals[:, axis] > 0.9999, normals[:, axis] < -0.9999
            end[axis] = min([high[axis], *distances[ahead]])
            begin[axis] = max([low[axis], *-distances[behind]])
        first = np.maximum(np.floor((begin - low) / CELL), 0).astype(int)
        last = np.minimum(np.ceil((end - low) / CELL), shape).astype(int)
        if (first >= last).any():
            continue
        axes = [low[i] + CELL[i] * (np.arange(first[i], last[i]) + 0.5) for i in range(3)]
        middles = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
        inside = (middles @ normals.T <= distances).all(-1)
        boxes[tuple(slice(a, b) for a, b in zip(first, last, strict=True))] |= inside
    return boxes


def _walk(firm: np.ndarray, blocked: np.ndarray, start: np.ndarray) -> np.ndarray | None:
    """Lowest free box over the floor in every column [x, y] that is reached, -1 elsewhere."""
    climb, head = int(STEP / CELL[2]), int(HEAD / CELL[2])
    columns, top = firm.shape[:2], firm.shape[2]
    # Whether a player fits in whose feet are in a box: it and those above it are free.
    clear = np.ones((*columns, top), bool)
    for up in range(head):
        clear[..., : top - up] &= ~blocked[..., up:]
    clear[..., top - head + 1 :] = False
    stands = clear.copy()
    stands[..., 1:] &= firm[..., :-1]
    stands[..., 0] = False
    x, y, z = start
    below = np.flatnonzero(stands[x, y, max(z - int(FALL / CELL[2]), 0) : z + climb + 1])
    if not len(below):
        return None
    levels = np.full(columns, -1)
    levels[x, y] = max(z - int(FALL / CELL[2]), 0) + below[-1]
    edge = [(int(x), int(y))]
    while edge:
        i, j = edge.pop()
        for a, b in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
            if not (0 <= a < columns[0] and 0 <= b < columns[1]) or levels[a, b] >= 0:
                continue
            bottom = max(levels[i, j] - climb, 0)
            found = np.flatnonzero(stands[a, b, bottom : levels[i, j] + climb + 1])
            if len(found):
                levels[a, b] = bottom + found[-1]
                edge.append((a, b))
    return levels
