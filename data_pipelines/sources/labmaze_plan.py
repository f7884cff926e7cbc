"""Floor plans of mazes, by DeepMind Lab's generator (`labmaze`)."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

from data_pipelines.sources.ground import Ground

CELL = 2.0  # metres
CELLS = 11  # along either side of a maze, an odd number
CLEARANCE = 0.4  # metres that the camera keeps from walls and props
PROPS = 9


@dataclasses.dataclass(frozen=True)
class Plan:
    """Floor plan of a maze. Cell (row, column) spans CELL metres; rows run from north to south."""

    wall: Bool[np.ndarray, "rows columns"]
    floor_kind: np.ndarray  # number of the floor picture per cell
    props: Float[np.ndarray, "n 3"]  # x, y, radius in metres

    def centre(self, row: int, column: int) -> tuple[float, float]:
        """Position (x, y) of a cell's centre, metres."""
        return (column + 0.5) * CELL, (len(self.wall) - row - 0.5) * CELL

    def is_free(self, points: Float[np.ndarray, "n 2"]) -> Bool[np.ndarray, " n"]:
        """Whether a camera may be at each (x, y)."""
        corners = CLEARANCE * np.array([(0, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)])
        cells = np.floor((np.asarray(points)[:, None] + corners) / CELL).astype(int)
        column, row = cells[..., 0], len(self.wall) - 1 - cells[..., 1]
        inside = (row >= 0) & (row < len(self.wall)) & (column >= 0)
        inside &= column < self.wall.shape[1]
        blocked = self.wall[np.where(inside, row, 0), np.where(inside, column, 0)] | ~inside
        gap = np.linalg.norm(np.asarray(points)[:, None] - self.props[None, :, :2], axis=-1)
        return ~blocked.any(1) & (gap > self.props[:, 2] + CLEARANCE).all(1)

    def ground(self) -> Ground:
        """What bodies walk into: cells of wall, which hide them, and props, which do not."""
        cells = [self.centre(*cell) for cell in np.argwhere(self.wall).tolist()]
        centres = np.concatenate([np.array(cells), self.props[:, :2]])
        half = np.concatenate([np.full(len(cells), CELL / 2), self.props[:, 2]])[:, None]
        hides = np.arange(len(centres)) < len(cells)
        return Ground(np.stack([centres - half, centres + half], 1), hides)


def make_plan(seed: int) -> Plan:
    """The maze of a seed: corridors and rooms one cell wide and more, props beside the walls."""
    import labmaze

    maze = labmaze.RandomMaze(
        height=CELLS,
        width=CELLS,
        max_rooms=4,
        room_min_size=3,
        room_max_size=5,
        random_seed=seed + 1,  # the generator refuses 0
        spawns_per_room=1,
        objects_per_room=1,
        max_variations=26,
        has_doors=False,
        simplify=True,
    )
    wall = np.array([list(row) for row in str(maze.entity_layer).strip("\n").split("\n")]) == "*"
    rooms = np.array([list(row) for row in str(maze.variations_layer).strip("\n").split("\n")])
    kind = np.array([[ord(room) - ord("A") if room.isalpha() else 31 for room in r] for r in rooms])
    plan = Plan(wall, kind, np.zeros((0, 3)))
    rng = np.random.default_rng(seed)
    cells = np.argwhere(~wall)
    picked = cells[rng.choice(len(cells), min(PROPS, len(cells) // 4), replace=False)]
    centres = np.array([plan.centre(*cell) for cell in picked.tolist()])
    shift = rng.choice([-0.55, 0.55], centres.shape)
    radius = rng.uniform(0.15, 0.4, (len(centres), 1))
    return dataclasses.replace(plan, props=np.concatenate([centres + shift, radius], 1))
