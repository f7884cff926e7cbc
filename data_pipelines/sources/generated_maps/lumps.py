"""A plan as the lumps of a map in Doom's format: vertices, lines, sides, sectors and things.

The lattice of the plan is turned and bent first, differently for every map, so that walls have all
directions; what is left and right of a line is what it was. Nodes are left to the engine to build.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from data_pipelines.sources.doom_map import (
    BLOCKS_PLAYER,
    LINEDEF,
    MAP_LUMPS,
    NO_SIDE,
    SECTOR,
    SIDEDEF,
    THING,
)
from data_pipelines.sources.generated_maps.layout import SOLID, Layout

CELL_UNITS = 64.0
MOST_BEND = 40.0  # map units that a point of the lattice is moved from its place
ACCENTS = 0.12  # share of the pieces of walls that are panels
TWO_SIDED = 4  # LINEDEFS flag
LOWER_UNPEGGED = 16  # risers hang from the floor, LINEDEFS flag
MOST_OFFSET = 512  # textures are that wide at most, or a part of it
EVERY_SKILL = 7  # THINGS flags
PLAYER_START = 1


def map_lumps(layout: Layout, rng: np.random.Generator) -> dict[str, bytes]:
    """Lumps by name, in the order of the format; those that the engine makes itself are empty."""
    bend = _Bend.drawn(rng)
    drawn = _lines(layout)
    places, numbers = np.unique(drawn.ends.reshape(-1, 2), axis=0, return_inverse=True)
    vertices = bend(places[:, ::-1]).round().astype("<i2")
    ends = numbers.reshape(-1, 2)
    lines = np.zeros(len(ends), LINEDEF)
    sides: list[tuple] = []
    textures = _Textures(layout, rng)
    along = np.linalg.norm(np.diff(vertices[ends].astype(float), axis=1)[:, 0], axis=1)
    headed = np.array([bool(sector.header) for sector in layout.sectors] + [False])
    begins = _begins(drawn, along, headed[np.maximum(drawn.sectors, -1)].any(1))
    for number, (front, back) in enumerate(drawn.sectors.tolist()):
        lines[number]["start"], lines[number]["end"] = ends[number]
        lines[number]["flags"] = LOWER_UNPEGGED | (TWO_SIDED if back >= 0 else BLOCKS_PLAYER)
        lines[number]["right"], lines[number]["left"] = len(sides), NO_SIDE
        sides.append(textures.side(front, back, begins[number]))
        if back >= 0:
            lines[number]["left"] = len(sides)
            sides.append(textures.side(back, front, -begins[number] - along[number]))
    content = {
        "THINGS": _things(layout, bend, rng),
        "LINEDEFS": lines,
        "SIDEDEFS": np.array(sides, SIDEDEF),
        "VERTEXES": vertices,
        "SECTORS": _sectors(layout),
    }
    made = (name for name in MAP_LUMPS if name != "BEHAVIOR")
    return {name: content[name].tobytes() if name in content else b"" for name in made}


@dataclasses.dataclass(frozen=True)
class _Bend:
    """A turn of the lattice and a wave across it; injective, as no slope of the wave reaches 1."""

    turn: float
    height: np.ndarray
    length: np.ndarray
    phase: np.ndarray

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> _Bend:
        straight = rng.random() < 0.4
        return cls(
            turn=float(rng.choice(4) * np.pi / 2 if straight else rng.uniform(0, 2 * np.pi)),
            height=np.zeros(2) if straight else rng.uniform(0, MOST_BEND, 2),
            length=rng.uniform(9, 18, 2),
            phase=rng.uniform(0, 2 * np.pi, 2),
        )

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """Map units (x, y) of places (column, row) in cells."""
        wave = self.height * np.sin(2 * np.pi * places[:, ::-1] / self.length + self.phase)
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        return (CELL_UNITS * places + wave) @ np.array([[cos, sin], [-sin, cos]])


@dataclasses.dataclass(frozen=True)
class _Lines:
    """Edges between cells of different sectors.

    Attributes:
      ends: int [n, 2, 2], start and end as (row, column) of the lattice's points.
      sectors: int [n, 2], to the right of that direction and to its left; the first is a sector,
        the second below 0 where it is solid.
    """

    ends: np.ndarray
    sectors: np.ndarray


def _lines(layout: Layout) -> _Lines:
    cells = np.pad(layout.cells, 1, constant_values=SOLID)
    found: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    # Going north the east is to the right, going east the south.
    for axis, right, left in ((1, cells[:, 1:], cells[:, :-1]), (0, cells[:-1], cells[1:])):
        row, column = np.nonzero((right != left) & ((right >= 0) | (left >= 0)))
        start = np.stack([row - (axis == 1), column - (axis == 0)], 1)
        end = start + ([1, 0] if axis == 1 else [0, 1])
        sides = np.stack([right[row, column], left[row, column]], 1)
        turned = sides[:, 0] < 0
        ends = np.stack([start, end], 1)
        ends[turned], sides[turned] = ends[turned][:, ::-1], sides[turned][:, ::-1]
        found[0].append(ends)
        found[1].append(sides)
    return _Lines(np.concatenate(found[0]), np.concatenate(found[1]))


def _begins(lines: _Lines, along: np.ndarray, headed: np.ndarray) -> np.ndarray:
    """Where in its texture each line begins, so that the next in its row goes on.

    Args:
      along: lengths of the lines, map units.
      headed: which have a door to either side; its picture begins with the first of them.
    """
    step = lines.ends[:, 1] - lines.ends[:, 0]
    begins, total = np.zeros(len(along)), 0.0
    order = np.lexsort(
        (
            np.where(step[:, 0] != 0, lines.ends[:, 0, 0], lines.ends[:, 0, 1]) * step.sum(1),
            np.where(step[:, 0] != 0, lines.ends[:, 0, 1], lines.ends[:, 0, 0]),
            step.sum(1),
            step[:, 0] != 0,
        )
    )
    for before, this in itertools.pairwise(order):
        goes_on = (lines.ends[before, 1] == lines.ends[this, 0]).all()
        goes_on = goes_on and headed[before] == headed[this]
        total = total + along[before] if goes_on else 0.0
        begins[this] = total
    return begins


class _Textures:
    """Which textures the sides of lines have."""

    def __init__(self, layout: Layout, rng: np.random.Generator) -> None:
        self._layout, self._rng = layout, rng

    def side(self, own: int, other: int, begin: float) -> tuple:
        """A record of SIDEDEFS, seen from sector `own`; textures begin there, map units."""
        sector = self._layout.sectors[own]
        none, offset = b"-", round(begin) % MOST_OFFSET
        if other < 0:
            wall = sector.wall if other == SOLID else self._layout.solids[SOLID - 1 - other]
            panel = other == SOLID and sector.accents and self._rng.random() < ACCENTS
            if panel:
                wall, offset = sector.accents[self._rng.integers(len(sector.accents))], 0
            return ((offset, 0), none, none, wall.encode(), own)
        beyond = self._layout.sectors[other]
        upper = beyond.header or sector.wall
        return ((offset, 0), upper.encode(), beyond.riser.encode(), none, own)


def _sectors(layout: Layout) -> np.ndarray:
    sectors = np.zeros(len(layout.sectors), SECTOR)
    for record, sector in zip(sectors, layout.sectors, strict=True):
        record["floor"], record["ceiling"] = sector.floor, sector.ceiling
        record["floor_texture"] = sector.floor_flat.encode()
        record["ceiling_texture"] = sector.ceiling_flat.encode()
        record["light"] = sector.light
    return sectors


def _things(layout: Layout, bend: _Bend, rng: np.random.Generator) -> np.ndarray:
    placed = [(*layout.start, PLAYER_START), *layout.things]
    things = np.zeros(len(placed), THING)
    things["position"] = bend(np.array([place[:2] for place in placed])).round()
    things["type"] = [place[2] for place in placed]
    things["angle"] = 45 * rng.integers(8, size=len(placed))
    things["flags"] = EVERY_SKILL
    return things
