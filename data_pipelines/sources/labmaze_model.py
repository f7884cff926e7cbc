"""The MuJoCo model of a maze, in the pictures of DeepMind Lab that `labmaze` ships."""

from collections.abc import Iterator

import numpy as np

from data_pipelines.sources.body_kinds import KINDS
from data_pipelines.sources.labmaze_plan import CELL, Plan

WALL_HEIGHT = 2.6  # metres
FIELD_OF_VIEW = 80.0  # degrees
NEAR, FAR = 0.02, 60.0  # metres
MOVERS = 3
PARKED = -20.0  # height of movers in clips where nothing moves: below the floor
PROP = "prop"  # before the number of one, its name
_OVERLAP = 1.002  # of neighbouring planes, so that no sky shines through the seams


def maze_xml(
    plan: Plan,
    style: str,
    seed: int,
    pixels: tuple[int, int],
    walkers: int = 0,
    fovy: float = FIELD_OF_VIEW,
) -> str:
    """MuJoCo model of a maze: one plane per cell of floor and per visible face of wall.

    style: of labmaze's pictures, "style_01" to "style_05". pixels: (height, width) of the largest
    picture. walkers: bodies of every kind to have in stock, in place of the movers that swing.
    fovy: field of view down, degrees.
    """
    height, width = pixels
    rng = np.random.default_rng(seed)
    textures, walls, floors = _textures(style, f"sky_{1 + seed % 3:02d}")
    geometry = [*_floors(plan, floors), *_walls(plan, walls, rng), *_props(plan, walls, rng)]
    movers = _walkers(walkers) if walkers else _movers(rng)
    return f"""<mujoco>
  <visual>
    <map znear="{NEAR}" zfar="{FAR}"/>
    <headlight ambient=".62 .62 .62" diffuse="0 0 0" specular="0 0 0"/>
    <quality offsamples="0" shadowsize="0"/>
    <global offwidth="{width}" offheight="{height}" fovy="{fovy}"/>
  </visual>
  <statistic extent="1" center="0 0 0"/>
  <asset>{"".join(textures)}</asset>
  <worldbody>
    <light directional="true" dir=".5 .3 -1" diffuse=".4 .4 .4" castshadow="false"/>
    <light directional="true" dir="-.4 -.7 -.6" diffuse=".25 .25 .25" castshadow="false"/>
    {"".join(geometry)}{"".join(movers)}
  </worldbody>
</mujoco>"""


def _textures(style: str, sky: str) -> tuple[list[str], int, int]:
    """Asset elements, and how many wall and floor materials ("w0", "f0" and so on) they define."""
    from labmaze import assets

    box = assets.get_sky_texture_paths(sky)
    sides = " ".join(
        f'file{side}="{getattr(box, side)}"'
        for side in ("left", "right", "up", "down", "front", "back")
    )
    elements = [f'<texture name="sky" type="skybox" {sides}/>']
    files = {
        "w": list(assets.get_wall_texture_paths(style).values()),
        "f": list(assets.get_floor_texture_paths(style).values()),
    }
    for letter, names in files.items():
        for number, file in enumerate(names):
            name = f"{letter}{number}"
            elements.append(
                f'<texture name="{name}" type="2d" file="{file}"/>'
                f'<material name="{name}" texture="{name}" texrepeat="1 1" specular="0"/>'
            )
    return elements, len(files["w"]), len(files["f"])


def _floors(plan: Plan, kinds: int) -> Iterator[str]:
    half = _OVERLAP * CELL / 2
    for row, column in np.argwhere(~plan.wall).tolist():
        x, y = plan.centre(row, column)
        yield (
            f'<geom type="plane" pos="{x} {y} 0" size="{half} {half} .1" '
            f'material="f{plan.floor_kind[row, column] % kinds}"/>'
        )


def _walls(plan: Plan, kinds: int, rng: np.random.Generator) -> Iterator[str]:
    rows, columns = plan.wall.shape
    half = _OVERLAP * CELL / 2
    for row, column in np.argwhere(~plan.wall).tolist():
        x, y = plan.centre(row, column)
        for down, right in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            r, c = row + down, column + right
            if not (0 <= r < rows and 0 <= c < columns and plan.wall[r, c]):
                continue
            # Runs of wall share a picture; now and then one differs and marks the place.
            kind = rng.integers(kinds) if rng.random() < 0.25 else (3 * r + c) // 4 % kinds
            yield (
                f'<geom type="plane" material="w{kind}" '
                f'pos="{x + right * CELL / 2} {y - down * CELL / 2} {WALL_HEIGHT / 2}" '
                f'size="{half} {WALL_HEIGHT / 2} .1" xyaxes="{-down} {-right} 0 0 0 1"/>'
            )


def _props(plan: Plan, kinds: int, rng: np.random.Generator) -> Iterator[str]:
    for number, (x, y, radius) in enumerate(plan.props):
        height = rng.uniform(0.2, 0.9)
        shape = rng.choice(["box", "cylinder"])
        across = radius * (0.7 if shape == "box" else 1.0)
        size = f"{across} {across} {height}" if shape == "box" else f"{across} {height}"
        yield (
            f'<geom name="{PROP}{number}" type="{shape}" pos="{x} {y} {height}" size="{size}" '
            f'material="w{rng.integers(kinds)}" rgba="{_colour(rng)}"/>'
        )


def _movers(rng: np.random.Generator) -> Iterator[str]:
    for number in range(MOVERS):
        radius = rng.uniform(0.2, 0.35)
        shape = ("sphere", "ellipsoid", "capsule")[number % 3]
        size = {
            "sphere": f"{radius}",
            "ellipsoid": f"{radius} {radius * 0.7} {radius * 1.2}",
            "capsule": f"{radius * 0.7} {radius * 0.6}",
        }[shape]
        yield (
            f'<body mocap="true" pos="0 0 {PARKED}"><geom type="{shape}" size="{size}" '
            f'rgba="{_colour(rng)}" contype="0" conaffinity="0"/></body>'
        )


def _walkers(stock: int) -> Iterator[str]:
    """`stock` bodies of each kind in turn, below the floor; their colours are set when rendering.

    They are of group 1, everything else of group 0, so that they can be rendered alone.
    """
    for kind in KINDS.values():
        for _ in range(stock):
            parts = []
            for part in kind.parts:
                x, _, z = part.half
                size = {
                    "sphere": f"{x}",
                    "cylinder": f"{x} {z}",
                    "box": " ".join(map(str, part.half)),
                }[part.shape]
                parts.append(
                    f'<geom type="{part.shape}" size="{size}" group="1" contype="0" '
                    f'pos="0 0 {part.height - kind.height / 2}" conaffinity="0"/>'
                )
            yield f'<body mocap="true" pos="0 0 {PARKED}">{"".join(parts)}</body>'


def _colour(rng: np.random.Generator) -> str:
    red, green, blue = rng.uniform(0.35, 1.0, 3)
    return f"{red:.3f} {green:.3f} {blue:.3f} 1"
