"""Plans of maps: rooms, corridors with steps, and what stands in them, on a lattice of cells.

A cell belongs to a sector or is solid. Rooms are rectangles with corners cut off; corridors are two
cells wide, and their floor climbs from one room to the next in steps that can be walked. What may
bar the way stands at least two cells from the walls, so that one can walk around it.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from data_pipelines.sources.generated_maps.themes import CRATES, MONSTERS, SKY, THEMES, Theme

SIDE = 40  # cells of the lattice along either side
MOST_ROOMS = 16
SOLID = -1
BRUSH = tuple((row, column) for row in (0, 1) for column in (0, 1))  # cells of a corridor


@dataclasses.dataclass(frozen=True)
class Sector:
    """Heights in map units, light 0 to 255, names of flats and textures.

    Attributes:
      wall: around the sector.
      riser: of its edge, where it is higher than what is beside it.
      header: of what hangs down to its ceiling from higher ones; "" for the wall of those.
      accents: panels in the walls.
    """

    floor: int
    ceiling: int
    floor_flat: str
    ceiling_flat: str
    light: int
    wall: str
    riser: str
    header: str = ""
    accents: tuple[str, ...] = ()


@dataclasses.dataclass
class Layout:
    """A plan.

    Attributes:
      cells: int [SIDE, SIDE], row by column, sector numbers, or SOLID; SOLID - n has a texture.
      sectors: by number.
      solids: textures of cells below SOLID: number SOLID - 1 - n of entry n.
      things: (column, row, number of its kind), positions in cells.
      start: (column, row) where a player starts.
    """

    cells: np.ndarray
    sectors: list[Sector]
    solids: list[str]
    things: list[tuple[float, float, int]]
    start: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class _Room:
    row: int
    column: int
    height: int
    width: int
    sector: int
    theme: Theme

    @property
    def centre(self) -> tuple[int, int]:
        return self.row + (self.height - 1) // 2, self.column + (self.width - 1) // 2

    @property
    def box(self) -> tuple[slice, slice]:
        rows = slice(self.row, self.row + self.height)
        return rows, slice(self.column, self.column + self.width)


def make_layout(rng: np.random.Generator) -> Layout:
    """A plan from a generator; equal generators give equal plans."""
    layout = Layout(np.full((SIDE, SIDE), SOLID), [], [], [], (0.0, 0.0))
    themes = [THEMES[i] for i in rng.choice(len(THEMES), 2, replace=False)]
    rooms = _rooms(layout, rng, themes)
    for one, other in _connections(rooms, rng):
        _corridor(layout, rng, one, other)
    for room in rooms:
        _closed_door(layout, rng, room)
    for number, room in enumerate(rooms):
        _furnish(layout, rng, room, monsters=number > 0)
    row, column = rooms[0].centre
    layout.start = (column + 0.5, row + 0.5)
    return layout


def _pick(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[rng.integers(len(choices))]


def _rooms(layout: Layout, rng: np.random.Generator, themes: list[Theme]) -> list[_Room]:
    """Rooms at least two cells apart."""
    rooms: list[_Room] = []
    for _ in range(300):
        height, width = (int(side) for side in rng.integers(4, 11, 2))
        row, column = (int(rng.integers(2, SIDE - 1 - side)) for side in (height, width))
        margin = layout.cells[max(row - 2, 0) : row + height + 2, max(column - 2, 0) :]
        if (margin[:, : min(column, 2) + width + 2] != SOLID).any():
            continue
        theme = themes[int(rng.random() < 0.35)]
        room = _Room(row, column, height, width, len(layout.sectors), theme)
        layout.sectors.append(_room_sector(rng, theme))
        layout.cells[room.box] = room.sector
        for top in (True, False):
            for left in (True, False):
                if rng.random() < 0.3:
                    _cut_corner(layout, rng, room, top, left)
        rooms.append(room)
        if len(rooms) == MOST_ROOMS:
            break
    return rooms


def _room_sector(rng: np.random.Generator, theme: Theme) -> Sector:
    floor, open_air = 8 * int(rng.integers(-3, 4)), rng.random() < 0.2
    return Sector(
        floor=floor,
        ceiling=floor + (256 if open_air else int(rng.choice([112, 128, 144, 160, 192, 224]))),
        floor_flat=_pick(rng, theme.floors),
        ceiling_flat=SKY if open_air else _pick(rng, theme.ceilings),
        light=16 * int(rng.integers(13, 16) if open_air else rng.integers(9, 15)),
        wall=_pick(rng, theme.walls),
        riser=_pick(rng, theme.risers),
        accents=theme.accents,
    )


def _cut_corner(
    layout: Layout, rng: np.random.Generator, room: _Room, top: bool, left: bool
) -> None:
    """Makes a corner of a room solid, never its middle."""
    height, width = (
        int(rng.integers(1, max(s // 2 - 1, 1) + 1)) for s in (room.height, room.width)
    )
    row = room.row if top else room.row + room.height - height
    column = room.column if left else room.column + room.width - width
    layout.cells[row : row + height, column : column + width] = SOLID


def _connections(rooms: list[_Room], rng: np.random.Generator) -> list[tuple[_Room, _Room]]:
    """A tree of the shortest ways, and some more that close loops."""
    centres = np.array([room.centre for room in rooms])
    distance = np.abs(centres[:, None] - centres[None]).sum(-1)
    found, joined = [], [0]
    while len(joined) < len(rooms):
        others = [i for i in range(len(rooms)) if i not in joined]
        near = distance[np.ix_(joined, others)]
        one, other = np.unravel_index(near.argmin(), near.shape)
        found.append((joined[int(one)], others[int(other)]))
        joined.append(others[int(other)])
    for one in range(len(rooms)):
        for other in np.argsort(distance[one])[1:4].tolist():
            if (one, other) not in found and (other, one) not in found and rng.random() < 0.2:
                found.append((one, other))
    return [(rooms[one], rooms[other]) for one, other in found]


def _corridor(layout: Layout, rng: np.random.Generator, one: _Room, other: _Room) -> None:
    """Digs from the middle of one room to that of another; what is open already stays."""
    path = _way(one.centre, other.centre, rows_first=bool(rng.random() < 0.5))
    inside = [all(layout.cells[r + i, c + j] >= 0 for i, j in BRUSH) for r, c in path]
    base = layout.sectors[one.sector]
    wall, riser = _pick(rng, one.theme.walls), _pick(rng, one.theme.risers)
    floor_flat, ceiling_flat = _pick(rng, one.theme.floors), _pick(rng, one.theme.ceilings)
    headroom, light = 8 * int(rng.integers(13, 17)), 16 * int(rng.integers(8, 13))
    doors, door = bool(rng.random() < 0.6), _pick(rng, one.theme.doors)
    first = 0
    while first < len(path):
        if inside[first]:
            first += 1
            continue
        last = first
        while not inside[last + 1]:  # the path ends in a room
            last += 1
        floors = _climb(layout, path[first - 1 : last + 2])
        for place, floor in enumerate(floors):
            framed = doors and len(floors) > 4 and place in (1, len(floors) - 2)
            sector = dataclasses.replace(
                base,
                floor=floor,
                ceiling=floor + (88 if framed else headroom),
                floor_flat=floor_flat,
                ceiling_flat=ceiling_flat,
                light=light + 32 * framed,
                wall="DOORTRAK" if framed else wall,
                riser=riser,
                header=door if framed else "",
            )
            if not layout.sectors or layout.sectors[-1] != sector:
                layout.sectors.append(sector)
            row, column = path[first + place]
            for i, j in BRUSH:
                if layout.cells[row + i, column + j] == SOLID:
                    layout.cells[row + i, column + j] = len(layout.sectors) - 1
        first = last + 1


def _climb(layout: Layout, path: list[tuple[int, int]]) -> list[int]:
    """Floors along a corridor, without its ends: those of what is open already, even in between."""
    known: dict[int, int] = {}
    for place, (row, column) in enumerate(path):
        open_already = [n for i, j in BRUSH if (n := layout.cells[row + i, column + j]) >= 0]
        if open_already:
            known[place] = layout.sectors[open_already[0]].floor
    floors = np.interp(np.arange(len(path)), list(known), list(known.values()))
    return floors.round().astype(int)[1:-1].tolist()


def _way(
    start: tuple[int, int], end: tuple[int, int], *, rows_first: bool
) -> list[tuple[int, int]]:
    """Cells from start to end, along one axis and then along the other."""
    corner = (end[0], start[1]) if rows_first else (start[0], end[1])
    cells = [start]
    for goal in (corner, end):
        while cells[-1] != goal:
            row, column = cells[-1]
            cells.append(
                (row + int(np.sign(goal[0] - row)), column + int(np.sign(goal[1] - column)))
            )
    return cells


def _closed_door(layout: Layout, rng: np.random.Generator, room: _Room) -> None:
    """A recess in a wall, with a door that is shut, where there is rock enough behind it."""
    base = layout.sectors[room.sector]
    for _ in range(12):
        along = int(rng.integers(1, max(room.width - 2, 2)))
        column = room.column + along
        step, row = (-1, room.row - 1) if rng.random() < 0.5 else (1, room.row + room.height)
        if not 4 < row < SIDE - 4 or column + 3 > SIDE:
            continue
        behind = slice(row, row + 3) if step > 0 else slice(row - 2, row + 1)
        rock = layout.cells[behind, column - 1 : column + 3] == SOLID
        if not rock.all() or (layout.cells[row - step, column : column + 2] != room.sector).any():
            continue
        recess = dataclasses.replace(
            base,
            ceiling=min(base.floor + 112, base.ceiling),
            ceiling_flat=_pick(rng, room.theme.ceilings),
            light=max(base.light - 32, 96),
            accents=(),
        )
        shut = dataclasses.replace(
            recess, ceiling=recess.floor, header=_pick(rng, room.theme.doors), wall="DOORTRAK"
        )
        for depth, sector in enumerate((recess, shut)):
            layout.cells[row + depth * step, column : column + 2] = len(layout.sectors)
            layout.sectors.append(sector)
        return


def _furnish(layout: Layout, rng: np.random.Generator, room: _Room, *, monsters: bool) -> None:
    """Platforms, pits, lamps, pillars, crates and things, away from the walls of a room."""
    for make in (_platform, _lamp, _pillars, _crates):
        if rng.random() < 0.5:
            make(layout, rng, room)
    kinds = list(rng.choice(room.theme.things, int(rng.integers(0, 4))))
    kinds += list(rng.choice(MONSTERS, int(rng.integers(1, 6)) * monsters))
    spots = np.argwhere(layout.cells[room.box] >= 0) + np.array([room.row, room.column])
    for kind, (row, column) in zip(kinds, rng.permutation(spots), strict=False):
        layout.things.append((column + 0.5, row + 0.5, int(kind)))


def _inner(layout: Layout, room: _Room, margin: int = 1) -> np.ndarray:
    """Cells (row, column) of a room's own sector, as are all within so many cells of them."""
    own = layout.cells == room.sector
    for axis in (0, 1) * margin:
        own = own & np.roll(own, 1, axis) & np.roll(own, -1, axis)
    return np.argwhere(own)


def _part(layout: Layout, rng: np.random.Generator, room: _Room, sector: Sector) -> None:
    """Gives the inside of a room, or a rectangle of it, to a sector of its own."""
    inner = _inner(layout, room)
    if not len(inner):
        return
    low, high = (np.sort(inner[rng.integers(len(inner), size=2)], axis=0)[i] for i in (0, 1))
    within = ((inner >= low) & (inner <= high + 1)).all(1)
    layout.cells[tuple(inner[within].T)] = len(layout.sectors)
    layout.sectors.append(sector)


def _platform(layout: Layout, rng: np.random.Generator, room: _Room) -> None:
    base = layout.sectors[room.sector]
    floor = base.floor + int(rng.choice([-24, -16, -8, 8, 16, 24]))
    flat = _pick(rng, room.theme.floors)
    _part(layout, rng, room, dataclasses.replace(base, floor=floor, floor_flat=flat))


def _lamp(layout: Layout, rng: np.random.Generator, room: _Room) -> None:
    base = layout.sectors[room.sector]
    if base.ceiling_flat == SKY:
        return
    lamp = dataclasses.replace(
        base,
        ceiling=base.ceiling + int(rng.choice([-16, 0, 24])),
        ceiling_flat=_pick(rng, room.theme.lamps),
        light=min(base.light + 48, 255),
    )
    _part(layout, rng, room, lamp)


def _pillars(layout: Layout, rng: np.random.Generator, room: _Room) -> None:
    """One every three cells, up to the ceiling."""
    inner = _inner(layout, room, 2)
    chosen = inner[((inner - [room.row, room.column]) % 3 == 2).all(1)]
    layout.cells[tuple(chosen.T)] = SOLID - 1 - len(layout.solids)
    layout.solids.append(_pick(rng, room.theme.pillars))


def _crates(layout: Layout, rng: np.random.Generator, room: _Room) -> None:
    base = layout.sectors[room.sector]
    for row, column in rng.permutation(_inner(layout, room, 2))[: int(rng.integers(1, 4))].tolist():
        side, top = CRATES[rng.integers(len(CRATES))]
        height = int(rng.choice([32, 48, 64]))
        crate = dataclasses.replace(base, floor=base.floor + height, floor_flat=top, riser=side)
        layout.cells[row, column] = len(layout.sectors)
        layout.sectors.append(crate)
