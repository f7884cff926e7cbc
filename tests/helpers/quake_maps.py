"""A small map in the format of Quake III, written byte by byte from the published layout."""

from __future__ import annotations

import functools
import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_pipelines.sources.openarena.bsp import read_bsp
from data_pipelines.sources.openarena.ground import floor_around
from data_pipelines.sources.openarena.source import OpenArenaSource
from data_pipelines.sources.openarena.surfaces import curved_points
from helpers.format_entry import Format

INSIDE = np.array([[0.0, 0.0, 0.0], [448.0, 384.0, 192.0]])
"""Corners of the room, map units."""
PILLAR = np.array([[200.0, 160.0, 0.0], [248.0, 208.0, 192.0]])
STEP = np.array([[320.0, 0.0, 0.0], [448.0, 128.0, 16.0]])  # is climbed
LEDGE = np.array([[0.0, 288.0, 0.0], [96.0, 384.0, 48.0]])  # is not
POOL = np.array([[320.0, 288.0, 0.0], [448.0, 384.0, 8.0]])  # is not walked through
TEXTURES = {  # flags and contents
    "textures/test/wall": (0, 1),
    "textures/test/floor": (0, 1),
    "textures/test/sky": (0x4, 1),
    "textures/common/clip": (0x80, 0x10000),
    "textures/test/water": (0, 0x20),
    "textures/test/glow": (0, 0),
}
WALL, FLOOR, SKY, CLIP, WATER, GLOW = range(6)
SHADER = """// what a script may say
textures/test/floor
{
    qer_editorimage textures/test/none.tga
    { map $lightmap
      rgbGen identity }
    { map textures/test/painted.tga
      blendFunc filter }
}
textures/test/glow { surfaceparm trans
  { map textures/test/painted.tga
    blendfunc add } }
textures/test/grate {
  { clampmap textures/test/grate.tga
    alphaFunc GE128 }
}
"""


def bsp(size: int = 1) -> bytes:
    """The room with a pillar, a step, a ledge and a pool; the ceiling is sky. `size` scales it."""
    planes, sides, brushes = [], [], []

    def brush(box: np.ndarray, texture: int) -> None:
        brushes.append((len(sides), 6, texture))
        for axis in range(3):
            for sign, corner in ((-1, box[0]), (1, box[1])):
                normal = [0.0, 0.0, 0.0]
                normal[axis] = float(sign)
                sides.append((len(planes), texture))
                planes.append((*normal, sign * corner[axis]))

    vertices, corners, faces = [], [], []

    def face(points: Any, texture: int, kind: int = 1, grid: tuple[int, int] = (0, 0)) -> None:
        first, corner = len(vertices), len(corners)
        for point in np.asarray(points, float):
            # Every surface is painted by what it shows from the side that it is seen best.
            paint = point[:2] if texture == FLOOR else (point[0] + point[1], point[2])
            vertices.append(
                (*point, *(np.array(paint) / 96), 0.5, 0.5, 0, 0, 1, 255, 255, 255, 255)
            )
        if kind == 1:
            corners.extend([0, 1, 2, 0, 2, 3])
        count = len(corners) - corner
        head = (texture, -1, kind, first, len(vertices) - first, corner, count, 0)
        faces.append((*head, 0, 0, 0, 0, *(12 * [0.0]), *grid))

    def sides_of(box: np.ndarray, textures: dict[tuple[int, int], int]) -> None:
        for (axis, end), texture in textures.items():
            a, b = (other for other in range(3) if other != axis)
            quad = np.repeat(box[end][None], 4, 0)
            quad[:, a] = box[[0, 1, 1, 0], a]
            quad[:, b] = box[[0, 0, 1, 1], b]
            face(quad, texture)

    room = INSIDE * size
    walls = {(0, 0): WALL, (0, 1): WALL, (1, 0): WALL, (1, 1): WALL, (2, 0): FLOOR, (2, 1): SKY}
    sides_of(room, walls)
    for (axis, end), texture in walls.items():
        wall = room + np.array([[-16.0], [16.0]])
        wall[1 - end, axis] = room[end, axis]
        brush(wall, texture)
    for box, texture in ((PILLAR, WALL), (STEP, FLOOR), (LEDGE, FLOOR), (POOL, WATER)):
        brush(box * size, texture)
        upright = dict.fromkeys(((0, 0), (0, 1), (1, 0), (1, 1)), WALL)
        sides_of(box * size, {**upright, (2, 1): texture})
    sides_of(np.array([[100.0, 100, 10], [120, 120, 30]]), {(2, 1): GLOW})
    columns = np.array([300.0, 324, 348])
    curve = [(x, 240 + 24 * (x == 324), z) for z in (0.0, 60.0, 120.0) for x in columns]
    face(curve, WALL, kind=2, grid=(3, 3))  # a bulge that no brush stands for
    model = struct.pack("<6f4i", *room.ravel(), 0, len(faces), 0, len(brushes))
    entities = (
        '{ "classname" "worldspawn" }\n{ "classname" "info_player_deathmatch" '
        '"origin" "100 100 32" "angle" "45" }\n'
        '{ "classname" "item_health" "origin" "380 60 40" }\n\0'
    )
    textures = [struct.pack("<64sii", name.encode(), *flags) for name, flags in TEXTURES.items()]
    lumps = {0: entities.encode(), 1: b"".join(textures), 7: model}
    lumps[2] = np.array(planes, "<f4").tobytes()
    lumps[8], lumps[9] = np.array(brushes, "<i4").tobytes(), np.array(sides, "<i4").tobytes()
    lumps[10] = b"".join(struct.pack("<10f4B", *vertex) for vertex in vertices)
    lumps[11] = np.array(corners, "<i4").tobytes()
    lumps[13] = b"".join(struct.pack("<12i12f2i", *record) for record in faces)
    lumps[14] = np.full((1, 128, 128, 3), 64, np.uint8).tobytes()
    directory, body = b"", b""
    for number in range(17):
        content = lumps.get(number, b"")
        directory += struct.pack("<ii", 144 + len(body), len(content))
        body += content
    return b"IBSP" + struct.pack("<i", 46) + directory + body


@functools.cache
def _painting(seed: int, form: str) -> bytes:
    """Smooth colours that change slowly enough for any picture size, as a file."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(40, 255, (8, 8, 3), np.uint8))
    file = io.BytesIO()
    small.resize((64, 64), Image.Resampling.BICUBIC).save(file, form)
    return file.getvalue()


def game(folder: Path, maps: dict[str, bytes] | None = None) -> Path:
    """The game's files in a folder: two archives, of which the later one has the better floor."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "pak0.pk3", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in ({"room": bsp()} if maps is None else maps).items():
            archive.writestr(f"maps/{name}.bsp", data)
        archive.writestr("scripts/test.shader", SHADER)
        archive.writestr("textures/test/wall.jpg", _painting(1, "JPEG"))
        archive.writestr("textures/test/painted.tga", b"not a picture")
        archive.writestr("textures/test/water.png", _painting(3, "PNG"))
    with zipfile.ZipFile(folder / "pak1.pk3", "w") as archive:
        archive.writestr("Textures/Test/Painted.tga", _painting(2, "TGA"))
    return folder


def _make_map(folder: Path) -> Path:
    path = folder / "room.bsp"
    path.write_bytes(bsp())
    return path


def _read_map(path: Path) -> Any:
    level = read_bsp(path.read_bytes(), str(path))
    curved = curved_points(level)
    floors = [floor_around(level, place, curved) for place in level.places("info_player")]
    return level, floors


def _accept_map(found: Any, original: Any) -> None:
    level, floors = found
    assert np.isfinite(level.vertices["place"]).all() and np.isfinite(level.planes["normal"]).all()
    for floor in filter(None, floors):
        assert np.isfinite(floor.height).all() and floor.free.any()


def _read_game(folder: Path) -> Any:
    source = OpenArenaSource(root=str(folder), eval_share=0.0)
    return source.read(source.worlds("train")[0])


def _accept_game(found: Any, original: Any) -> None:
    _, surfaces = found
    assert surfaces.pictures.dtype == np.uint8
    assert np.isfinite(surfaces.corners["place"]).all()


QUAKE_FORMATS = (
    Format("map of OpenArena", _make_map, _read_map, _accept_map, ("bsp.read_bsp",)),
    Format("archives of OpenArena", game, _read_game, _accept_game, ("files.GameFiles",)),
)
