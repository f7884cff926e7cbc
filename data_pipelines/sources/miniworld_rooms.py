"""Rooms of MiniWorld (`miniworld`): its own environments, and plans of rooms drawn here.

Whatever the plan, the textures of every room, the light and the things that stand about come from
the seed.  Importing this module starts nothing; `open_rooms` needs the package and OpenGL.
"""

import functools
from typing import Any

import numpy as np

from data_pipelines.sources.miniworld_gl import import_pyglet, smooth_texture

# Plans that differ from seed to seed, and those of the package that are always the same.
DRAWN_PLANS = ("rooms", "maze")
FIXED_PLANS = {"fourrooms": "FourRooms", "threerooms": "ThreeRooms"}

GAP = 0.2  # metres between the rooms of a drawn plan
SIDES = (3.0, 6.5)  # metres
DOORS = (1.1, 2.4)  # metres
DOOR_HEIGHT = 2.2  # metres
MORE_DOORS = 0.35  # share of the walls that need none

_WALLS = (
    *("brick_wall", "cardboard", "cinder_blocks", "concrete", "drywall", "marble", "metal_grill"),
    *("rock", "stucco", "wood", "wood_planks"),
)
_FLOORS = (
    *("asphalt", "concrete_tiles", "floor_tiles_bw", "grass", "marble"),
    *("wood", "wood_planks"),
)
_CEILINGS = ("ceiling_tile_noborder", "ceiling_tiles", "concrete", "stucco", "wood_planks")
_THINGS = {  # and how high they are, metres
    **{"barrel": 1.0, "cone": 0.75, "duckie": 0.4, "medkit": 0.4, "potion": 0.5},
    **{"office_chair": 1.0, "office_desk": 0.9, "tree": 1.3},
}
_BOXES = (0.35, 0.9)  # metres along a side
MOST_THINGS = 16


def open_rooms(plan: str, seed: int) -> Any:
    """MiniWorld's environment with the rooms of a seed; `plan` is one of the names above."""
    environment = _environments()[plan](domain_rand=True, obs_width=8, obs_height=8)
    environment.reset(seed=seed)
    return environment


@functools.cache
def _environments() -> dict[str, type]:
    """Classes by name of the plan."""
    import_pyglet()
    import miniworld.envs
    from miniworld.miniworld import MiniWorldEnv
    from miniworld.opengl import Texture

    # Its own takes a second for a picture, whose pixels it converts by a regular expression.
    Texture.load = staticmethod(_load_texture)

    class Rooms(MiniWorldEnv):
        """Rooms of different sizes side by side, every one with a door at least."""

        def _gen_world(self) -> None:
            _draw_plan(self)

    bases = {"rooms": Rooms, "maze": miniworld.envs.Maze}
    bases |= {plan: getattr(miniworld.envs, name) for plan, name in FIXED_PLANS.items()}
    return {plan: _furnished(base) for plan, base in bases.items()}


def _load_texture(path: str) -> Any:
    from PIL import Image

    with Image.open(path) as file:
        opaque = file.convert("RGB").convert("RGBA").transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return smooth_texture(opaque.width, opaque.height, opaque.tobytes())


def _furnished(base: Any) -> type:
    """The environment, in textures and with things of its seed."""

    class Furnished(base):
        def add_room(self, **options: Any) -> Any:
            rng = self.np_random
            options["wall_tex"], options["floor_tex"] = rng.choice(_WALLS), rng.choice(_FLOORS)
            options["ceil_tex"] = rng.choice(_CEILINGS)
            options["no_ceiling"] = bool(rng.random() < 0.25)
            return super().add_room(**options)

        def _gen_world(self) -> None:
            super()._gen_world()
            for thing in _things(self.np_random, min(2 * len(self.rooms), MOST_THINGS)):
                self.place_entity(thing)

    return Furnished


def _things(rng: np.random.Generator, count: int) -> list[Any]:
    from miniworld.entity import COLOR_NAMES, Ball, Box, MeshEnt

    things: list[Any] = []
    for _ in range(count):
        name, colour = str(rng.choice((*_THINGS, "box", "ball"))), str(rng.choice(COLOR_NAMES))
        if name == "box":
            things.append(Box(colour, rng.uniform(*_BOXES, 3)))
        elif name == "ball":
            things.append(Ball(colour, float(rng.uniform(*_BOXES))))
        else:
            things.append(MeshEnt(name, _THINGS[name] * float(rng.uniform(0.8, 1.2))))
    return things


def _draw_plan(environment: Any) -> None:
    """Rooms in rows and columns of uneven widths; doors along a tree, and some more."""
    rng = environment.np_random
    columns, rows = (int(count) for count in rng.integers(2, 4, 2))
    along, across = (
        np.concatenate([[0.0], np.cumsum(rng.uniform(*SIDES, count) + GAP)])
        for count in (columns, rows)
    )
    rooms = {
        (i, j): environment.add_rect_room(
            along[i], along[i + 1] - GAP, across[j], across[j + 1] - GAP
        )
        for i in range(columns)
        for j in range(rows)
    }
    walls = [((i, j), (i + 1, j)) for i, j in rooms if i + 1 < columns]
    walls += [((i, j), (i, j + 1)) for i, j in rooms if j + 1 < rows]
    group = {cell: cell for cell in rooms}  # of rooms that doors connect
    for index in rng.permutation(len(walls)):
        here, there = walls[index]
        if group[here] == group[there] and rng.random() >= MORE_DOORS:
            continue
        joined, kept = group[there], group[here]
        group = {cell: kept if name == joined else name for cell, name in group.items()}
        axis, steps, at = ("z", across, here[1]) if here[1] == there[1] else ("x", along, here[0])
        width = rng.uniform(*DOORS)
        begin = rng.uniform(steps[at] + 0.2, steps[at + 1] - GAP - 0.2 - width)
        door = {f"min_{axis}": begin, f"max_{axis}": begin + width, "max_y": DOOR_HEIGHT}
        environment.connect_rooms(rooms[here], rooms[there], **door)
    environment.place_agent()
