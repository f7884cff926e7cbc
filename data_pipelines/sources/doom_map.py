"""Doom maps as geometry: read a WAD, find where a camera fits, build the camera script's PWAD.

Everything is in map units (x east, y north, z up; 32 units are taken as one metre). The file
format is id Software's: a WAD is a list of named lumps, a map is a marker lump followed by
THINGS, LINEDEFS, SIDEDEFS, VERTEXES, SECTORS and others. Ray casting is in `doom_rays`.
"""

import itertools
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

MAP_LUMPS = (
    *("THINGS", "LINEDEFS", "SIDEDEFS", "VERTEXES", "SEGS", "SSECTORS"),
    *("NODES", "SECTORS", "REJECT", "BLOCKMAP", "BEHAVIOR"),
)
BLOCKS_PLAYER = 1  # LINEDEFS flag bit 0
NO_SIDE = 0xFFFF
PLAYER_AND_TELEPORT_STARTS = (1, 2, 3, 4, 11, 14)

LINEDEF = np.dtype(
    [(f, "<u2") for f in ("start", "end", "flags", "special", "tag", "right", "left")]
)
SIDEDEF = np.dtype(
    [("offset", "<i2", 2), ("upper", "S8"), ("lower", "S8"), ("middle", "S8"), ("sector", "<u2")]
)
SECTOR = np.dtype(
    [
        *(("floor", "<i2"), ("ceiling", "<i2"), ("floor_texture", "S8")),
        *(("ceiling_texture", "S8"), ("light", "<i2"), ("special", "<i2"), ("tag", "<i2")),
    ]
)
THING = np.dtype([("position", "<i2", 2), ("angle", "<i2"), ("type", "<u2"), ("flags", "<u2")])


@dataclass(frozen=True)
class DoomMap:
    """Geometry of one map.

    `line_vertices` holds the vertex numbers of each line's start and end; the front sector lies
    to the right of that direction, `back` is -1 on one-sided (solid) lines. `see_through` marks
    two-sided lines that carry a masked middle texture, such as a fence.
    """

    name: str
    vertices: Float[np.ndarray, "v 2"]
    line_vertices: Int[np.ndarray, "l 2"]
    front: Int[np.ndarray, " l"]
    back: Int[np.ndarray, " l"]
    blocks: Bool[np.ndarray, " l"]
    see_through: Bool[np.ndarray, " l"]
    floor: Float[np.ndarray, " s"]
    ceiling: Float[np.ndarray, " s"]
    light: Int[np.ndarray, " s"]
    sky: Bool[np.ndarray, " s"]
    things: Float[np.ndarray, "t 2"]


def _directory(data: bytes, where: str) -> list[tuple[str, int, int]]:
    """Lumps of a WAD as (name, offset, bytes)."""
    if len(data) < 12 or data[:4] not in (b"IWAD", b"PWAD"):
        raise ValueError(f"{where}: starts with {data[:4]!r}, expected IWAD or PWAD")
    count, offset = struct.unpack_from("<ii", data, 4)
    if count < 0 or offset < 12 or offset + 16 * count > len(data):
        raise ValueError(
            f"{where}: directory of {count} lumps at byte {offset} does not fit in "
            f"{len(data)} bytes; the file is cut short"
        )
    entries = struct.iter_unpack("<ii8s", data[offset : offset + 16 * count])
    return [(_text(name), start, size) for start, size, name in entries]


def _text(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode("latin1").upper()


def map_names(path: str | Path) -> tuple[str, ...]:
    """Names of the maps in a WAD file, in file order. ValueError where it is no WAD."""
    lumps = _directory(Path(path).read_bytes(), str(path))
    pairs = itertools.pairwise(lumps)
    return tuple(marker[0] for marker, following in pairs if following[0] == "THINGS")


def read_map(path: str | Path, name: str) -> DoomMap:
    """Read one map of a WAD file in Doom's (not Hexen's) map format.

    Raises ValueError naming the file and the map where the map is absent, incomplete, in Hexen
    format, or refers to a vertex, side or sector that it does not have.
    """
    data = Path(path).read_bytes()
    where = f"{path}: map {name}"
    return build_map(name, _map_lumps(data, _directory(data, str(path)), name, where), where)


def _map_lumps(
    data: bytes, lumps: list[tuple[str, int, int]], name: str, where: str
) -> dict[str, bytes]:
    markers = [number for number, lump in enumerate(lumps) if lump[0] == name]
    if not markers:
        raise ValueError(f"{where} is not in the file")
    found: dict[str, bytes] = {}
    for lump, start, size in lumps[markers[-1] + 1 :]:
        if lump not in MAP_LUMPS:
            break
        found[lump] = data[start : start + size]
    missing = {"THINGS", "LINEDEFS", "SIDEDEFS", "VERTEXES", "SECTORS"} - found.keys()
    if missing:
        raise ValueError(f"{where} lacks the lumps {sorted(missing)}")
    if "BEHAVIOR" in found:
        raise ValueError(f"{where} is in Hexen format, expected Doom format")
    return found


def build_map(name: str, lumps: Mapping[str, bytes], where: str) -> DoomMap:
    """The map that lumps by name describe, see `read_map`; `where` names them in errors."""

    def records(lump: str, kind: Any) -> np.ndarray:
        size = np.dtype(kind).itemsize
        if len(lumps[lump]) % size:
            raise ValueError(
                f"{where}: {lump}: found {len(lumps[lump])} bytes, expected a multiple of {size}"
            )
        return np.frombuffer(lumps[lump], kind)

    vertices = records("VERTEXES", ("<i2", 2)).reshape(-1, 2).astype(np.float64)
    lines, sides = records("LINEDEFS", LINEDEF), records("SIDEDEFS", SIDEDEF)
    sectors, things = records("SECTORS", SECTOR), records("THINGS", THING)
    two_sided = lines["left"] != NO_SIDE
    line_vertices = np.stack([lines["start"], lines["end"]], 1).astype(np.int64)
    right, left = lines["right"].astype(np.int64), np.where(two_sided, lines["left"], 0)
    for what, used, count in (
        ("vertex", line_vertices, len(vertices)),
        ("side", np.stack([right, left]), len(sides)),
        ("sector", sides["sector"].astype(np.int64), len(sectors)),
    ):
        if used.max(initial=-1) >= count:
            raise ValueError(f"{where} refers to {what} {used.max()}, but has only {count}")
    masked = np.array([_text(texture) != "-" for texture in sides["middle"]], bool)
    solid = ~np.isin(things["type"], PLAYER_AND_TELEPORT_STARTS)
    return DoomMap(
        name=name,
        vertices=vertices,
        line_vertices=line_vertices,
        front=sides["sector"][right].astype(np.int64),
        back=np.where(two_sided, sides["sector"][left].astype(np.int64), -1),
        blocks=(lines["flags"] & BLOCKS_PLAYER) > 0,
        see_through=two_sided & (masked[right] | masked[left]),
        floor=sectors["floor"].astype(np.float64),
        ceiling=sectors["ceiling"].astype(np.float64),
        light=sectors["light"].astype(np.int64),
        sky=np.array(
            [_text(name).startswith("F_SKY") for name in sectors["ceiling_texture"]], bool
        ),
        things=things["position"][solid].astype(np.float64),
    )


# --- where a camera fits -------------------------------------------------------------------------

CELL = 16.0  # of the navigation grid
STEP = 24.0  # the highest step that a walker takes
HEADROOM = 58.0  # a walker is 56 tall
CLEARANCE = 24.0  # kept from walls, drops and things


@dataclass(frozen=True)
class NavigationGrid:
    """Floor of a map on square cells: `sector` (-1 outside), `free` where a camera may be."""

    origin: Float[np.ndarray, "2"]
    sector: Int[np.ndarray, "rows columns"]
    free: Bool[np.ndarray, "rows columns"]

    def centres(self, cells: Int[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Map position (x, y) of the centres of cells (row, column)."""
        return self.origin + (cells[:, ::-1] + 0.5) * CELL

    def is_free(self, points: Float[np.ndarray, "n 2"]) -> Bool[np.ndarray, " n"]:
        """Whether a camera may stand at each (x, y)."""
        row, column, inside = self._cells(points)
        return inside & self.free[row, column]

    def sector_at(self, points: Float[np.ndarray, "n 2"]) -> Int[np.ndarray, " n"]:
        """Sector under each (x, y), -1 outside the map."""
        row, column, inside = self._cells(points)
        return np.where(inside, self.sector[row, column], -1)

    def _cells(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        cells = np.floor((np.asarray(points) - self.origin) / CELL).astype(np.int64)
        column, row = cells[:, 0], cells[:, 1]
        inside = (row >= 0) & (row < self.free.shape[0])
        inside &= (column >= 0) & (column < self.free.shape[1])
        return np.where(inside, row, 0), np.where(inside, column, 0), inside


def navigation_grid(doom_map: DoomMap) -> NavigationGrid:
    """Cells with a floor, headroom and `CLEARANCE` to every wall, high step and thing."""
    # Imported here: recording other worlds should not pay for scipy.
    from scipy import ndimage

    # Off the whole numbers, so that no scan line passes exactly through a vertex.
    origin = doom_map.vertices.min(0) - 2 * CELL + 0.39
    extent = np.ceil((doom_map.vertices.max(0) - origin) / CELL).astype(int) + 2
    columns, rows = extent.tolist()
    sector = _sector_grid(doom_map, origin, rows, columns)
    walls = np.zeros((2 * rows, 2 * columns), bool)
    _draw(walls, _barriers(doom_map), origin, CELL / 2)
    distance = ndimage.distance_transform_edt(~walls)[1::2, 1::2] * (CELL / 2)
    spots = np.zeros((rows, columns), bool)
    row_column = np.floor((doom_map.things - origin) / CELL).astype(int)[:, ::-1]
    on_grid = ((row_column >= 0) & (row_column < spots.shape)).all(1)
    spots[tuple(row_column[on_grid].T)] = True
    # With no thing at all the transform has no target, and its distances mean nothing.
    clear = ndimage.distance_transform_edt(~spots) * CELL > CLEARANCE if spots.any() else ~spots
    height = (doom_map.ceiling - doom_map.floor)[np.maximum(sector, 0)]
    free = (sector >= 0) & (height >= HEADROOM) & (distance > CLEARANCE) & clear
    return NavigationGrid(origin, sector, free)


def _sector_grid(doom_map: DoomMap, origin: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Sector at each cell centre: the side, facing it, of the next line to the east."""
    start, end = np.moveaxis(doom_map.vertices[doom_map.line_vertices], 1, 0)
    x = origin[0] + (np.arange(columns) + 0.5) * CELL
    sector = np.full((rows, columns), -1, np.int64)
    for row in range(rows):
        y = origin[1] + (row + 0.5) * CELL
        crossed = np.nonzero((start[:, 1] > y) != (end[:, 1] > y))[0]
        if not len(crossed):
            continue
        a, b = start[crossed], end[crossed]
        at = a[:, 0] + (y - a[:, 1]) / (b[:, 1] - a[:, 1]) * (b[:, 0] - a[:, 0])
        order = np.argsort(at)
        crossed, at = crossed[order], at[order]
        following = np.searchsorted(at, x)
        line = crossed[np.minimum(following, len(crossed) - 1)]
        upwards = end[line, 1] > start[line, 1]  # its left side, the back, then faces west
        facing = np.where(upwards, doom_map.back[line], doom_map.front[line])
        sector[row] = np.where(following < len(crossed), facing, -1)
    return sector


def _barriers(doom_map: DoomMap) -> Float[np.ndarray, "n 2 2"]:
    """Lines that a walker cannot cross, in either direction."""
    front, back = doom_map.front, np.maximum(doom_map.back, 0)
    floor, ceiling = doom_map.floor, doom_map.ceiling
    step = np.abs(floor[front] - floor[back]) > STEP
    opening = np.minimum(ceiling[front], ceiling[back]) - np.maximum(floor[front], floor[back])
    closed = (doom_map.back < 0) | doom_map.blocks | step | (opening < HEADROOM)
    return doom_map.vertices[doom_map.line_vertices[closed]]


def _draw(grid: np.ndarray, lines: np.ndarray, origin: np.ndarray, cell: float) -> None:
    """Mark the cells that lines pass through, by samples half a cell apart."""
    for start, end in lines:
        count = int(np.ceil(np.linalg.norm(end - start) / (cell / 2))) + 1
        points = start + (end - start) * np.linspace(0.0, 1.0, count)[:, None]
        column, row = ((points - origin) / cell).astype(int).T
        grid[row, column] = True


# --- the camera script ---------------------------------------------------------------------------


def camera_pwad(more: Iterable[tuple[str, bytes]] = ()) -> bytes:
    """A PWAD with nothing but a script that puts the camera anywhere, and lumps `more`.

    Its ACS library (ZDoom's compiled script format, "ACS\\0") holds script 1 with arguments x, y,
    z and angle as 16.16 fixed-point integers, the angle in turns; `puke -1 x y z angle` on the
    engine's console runs it at once. The console's own `warp` knows only whole units on the floor.
    """
    push_number, push_variable, drop, terminate = 3, 28, 54, 1
    set_position, set_angle = 283, 276  # SetActorPosition(tid, x, y, z, fog), SetActorAngle
    words = [push_number, 0]
    for argument in range(3):
        words += [push_variable, argument]
    words += [push_number, 0, set_position, drop]
    words += [push_number, 0, push_variable, 3, set_angle, terminate]
    code = struct.pack(f"<{len(words)}i", *words)
    scripts = struct.pack("<4i", 1, 1, 8, 4)  # one script: number 1, code at byte 8, 4 arguments
    library = b"ACS\0" + struct.pack("<i", 8 + len(code)) + code + scripts + struct.pack("<i", 0)
    script = [("LOADACS", b"CAMERA\n"), ("A_START", b""), ("CAMERA", library), ("A_END", b"")]
    return _pwad([*more, *script])


def _pwad(lumps: list[tuple[str, bytes]]) -> bytes:
    body, directory = b"", b""
    for name, content in lumps:
        offset = 12 + len(body) if content else 0
        directory += struct.pack("<ii8s", offset, len(content), name.encode())
        body += content
    return struct.pack("<4sii", b"PWAD", len(lumps), 12 + len(body)) + body + directory
