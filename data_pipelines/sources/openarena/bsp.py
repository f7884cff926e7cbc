"""Compiled maps of Quake III's format: IBSP, version 46 (or 47), little-endian.

A header of 17 (offset, length) pairs, and as many lumps; those read here are the entities, the
textures, planes, models, brushes and their sides, vertices, triangles, faces and lightmaps.
Lengths are in map units, z up; 32 of them are taken for a metre.
"""

import re
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

METRES = 1 / 32  # per map unit
FARTHEST = 1e6  # map units from the origin
LIGHTMAP = 128  # pixels along a side
POLYGON, PATCH, MESH = 1, 2, 3  # kinds of faces that are drawn
SKY, NODRAW = 0x4, 0x80  # flags of a texture
SOLID, LIQUID, FOG, PLAYER_CLIP = 0x1, 0x38, 0x40, 0x10000  # what fills a brush

_TEXTURE = [("name", "S64"), ("flags", "<i4"), ("contents", "<i4")]
_PLANE: list[Any] = [("normal", "<f4", 3), ("distance", "<f4")]
_MODEL: list[Any] = [("bounds", "<f4", (2, 3)), ("face", "<i4"), ("faces", "<i4")]
_MODEL += [("brush", "<i4"), ("brushes", "<i4")]
_BRUSH = [("side", "<i4"), ("sides", "<i4"), ("texture", "<i4")]
_VERTEX: list[Any] = [("place", "<f4", 3), ("picture", "<f4", 2), ("light", "<f4", 2)]
_VERTEX += [("normal", "<f4", 3), ("colour", "u1", 4)]
_FACE: list[Any] = [("texture", "<i4"), ("effect", "<i4"), ("kind", "<i4"), ("vertex", "<i4")]
_FACE += [("vertices", "<i4"), ("corner", "<i4"), ("corners", "<i4"), ("lightmap", "<i4")]
_FACE += [("light", "<i4", 4), ("frame", "<f4", (4, 3)), ("grid", "<i4", 2)]
_LUMPS: dict[str, tuple[int, Any]] = {
    "textures": (1, _TEXTURE),
    "planes": (2, _PLANE),
    "models": (7, _MODEL),
    "brushes": (8, _BRUSH),
    "sides": (9, [("plane", "<i4"), ("texture", "<i4")]),
    "vertices": (10, _VERTEX),
    "corners": (11, "<i4"),
    "faces": (13, _FACE),
    "lightmaps": (14, ("u1", (LIGHTMAP, LIGHTMAP, 3))),
}
# (field of a lump's records, how many from there on or None for one, lump that it points into)
_POINTERS = (
    ("brushes", "side", "sides", "sides"),
    ("brushes", "texture", None, "textures"),
    ("sides", "plane", None, "planes"),
    ("faces", "texture", None, "textures"),
    ("faces", "vertex", "vertices", "vertices"),
    ("faces", "corner", "corners", "corners"),
    ("models", "face", "faces", "faces"),
    ("models", "brush", "brushes", "brushes"),
)


@dataclass(frozen=True)
class Bsp:
    """A map as it lies in its file: records of numpy fields, whose pointers are within bounds.

    Attributes:
      where: what messages call it.
      entities: keys and values of what the map's author placed; the first one is the world.
      textures, planes, models, brushes, sides, vertices, corners, faces: records, [n].
      lightmaps: [n, 128, 128, 3].
    """

    where: str
    entities: tuple[dict[str, str], ...]
    textures: np.ndarray
    planes: np.ndarray
    models: np.ndarray
    brushes: np.ndarray
    sides: np.ndarray
    vertices: np.ndarray
    corners: np.ndarray
    faces: np.ndarray
    lightmaps: np.ndarray

    def texture_name(self, index: int) -> str:
        """Name in lower case, as shaders have it."""
        return self.textures["name"][index].decode("latin-1").lower()

    def places(self, *prefixes: str) -> np.ndarray:
        """Where the entities stand whose class begins so, map units, [n, 3].

        ValueError, naming the map, for a place that is not three numbers.
        """
        found = [
            entity["origin"]
            for entity in self.entities
            if entity.get("classname", "").startswith(prefixes) and "origin" in entity
        ]
        try:
            places = np.array([[float(number) for number in text.split()] for text in found])
            places = places.reshape(len(found), 3)
        except ValueError:
            raise ValueError(
                f"{self.where}: found {found}, expected origins of 3 numbers"
            ) from None
        if not (np.abs(places) < FARTHEST).all():
            raise ValueError(f"{self.where}: found {found}, expected origins within the map")
        return places


def read_bsp(data: bytes, where: str) -> Bsp:
    """Reads a map; ValueError, beginning with `where`, for what is no whole map of this format."""
    if (
        len(data) < 144
        or data[:4] != b"IBSP"
        or struct.unpack_from("<i", data, 4)[0]
        not in (
            46,
            47,
        )
    ):
        raise ValueError(f"{where}: found {data[:8]!r}, expected b'IBSP' and version 46 or 47")
    lumps = {name: _lump(data, where, name, *layout) for name, layout in _LUMPS.items()}
    for name, field, count, target in _POINTERS:
        begin = lumps[name][field].astype(np.int64)
        # What has no vertices or corners may point anywhere.
        length = 1 if count is None else lumps[name][count].astype(np.int64)
        bad = (length < 0) | ((length > 0) & ((begin < 0) | (begin + length > len(lumps[target]))))
        if bad.any():
            index = int(np.flatnonzero(bad)[0])
            raise ValueError(
                f"{where}, {name} {index}: found {field} {begin[index]}, expected within the "
                f"{len(lumps[target])} {target}"
            )
    if not len(lumps["models"]):
        raise ValueError(f"{where}: found no model, expected the world's")
    for name, field in (("vertices", "place"), ("planes", "normal"), ("planes", "distance")):
        if not (np.abs(lumps[name][field]) < FARTHEST).all():
            raise ValueError(f"{where}, {name}: found a {field} beyond {FARTHEST:g} or no number")
    return Bsp(where, _entities(_bytes(data, where, "entities", 0)), **lumps)


def _bytes(data: bytes, where: str, name: str, number: int) -> bytes:
    begin, length = struct.unpack_from("<ii", data, 8 + 8 * number)
    if begin < 0 or length < 0 or begin + length > len(data):
        raise ValueError(
            f"{where}, {name}: found {length} bytes from {begin} on, expected within the file of "
            f"{len(data)}"
        )
    return data[begin : begin + length]


def _lump(data: bytes, where: str, name: str, number: int, layout: Any) -> np.ndarray:
    raw, kind = _bytes(data, where, name, number), np.dtype(layout)
    if len(raw) % kind.itemsize:
        raise ValueError(
            f"{where}, {name}: found {len(raw)} bytes, expected a multiple of {kind.itemsize}"
        )
    return np.frombuffer(raw, kind)


def _entities(raw: bytes) -> tuple[dict[str, str], ...]:
    text = raw.rstrip(b"\0").decode("latin-1")
    blocks = re.findall(r"\{([^{}]*)\}", text)
    return tuple(dict(re.findall(r'"([^"]*)"\s*"([^"]*)"', block)) for block in blocks)
