"""Points and cameras as files that other programs read: PLY, and glTF with the camera path."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Num, UInt8

from mirage_jax.io.atomic import write_atomically
from mirage_jax.io.outputs import FileKind

COMMENT = "mirage_jax"
"""What the files say about who wrote them."""

_PLY_TYPES = {"float32": "float", "uint8": "uchar", "int32": "int"}


def write_ply(
    path: str | Path,
    xyz: Float[np.ndarray, "n 3"],
    colours: UInt8[np.ndarray, "n 3"],
    more: dict[str, Num[np.ndarray, " n"]] | None = None,
) -> None:
    """Writes points as a binary little-endian PLY file.

    Args:
      path: the file.
      xyz: places, metres.
      colours: red, green and blue.
      more: further properties of the points by name; whole numbers are written as int32, all others
        as float32.
    """
    columns: dict[str, np.ndarray] = dict(zip("xyz", xyz.astype(np.float32).T, strict=True))
    columns |= dict(zip(("red", "green", "blue"), colours.T, strict=True))
    for name, values in (more or {}).items():
        whole = np.issubdtype(values.dtype, np.integer)
        columns[name] = values.astype(np.int32 if whole else np.float32)
    lines = ["ply", "format binary_little_endian 1.0", f"comment {COMMENT}"]
    lines += [f"element vertex {len(xyz)}"]
    lines += [f"property {_PLY_TYPES[str(c.dtype)]} {name}" for name, c in columns.items()]
    kinds = [(name, c.dtype.newbyteorder("<")) for name, c in columns.items()]
    table = np.zeros(len(xyz), np.dtype(kinds))
    for name, values in columns.items():
        table[name] = values
    header = "\n".join([*lines, "end_header", ""]).encode("ascii")
    write_atomically(path, header + table.tobytes())


def write_glb(
    path: str | Path,
    xyz: Float[np.ndarray, "n 3"],
    colours: UInt8[np.ndarray, "n 3"],
    cam2world: Float[np.ndarray, "f 4 4"],
    field_of_view: float,
    aspect: float,
) -> None:
    """Writes points, the camera path as a line, and its last camera as a binary glTF 2.0 file.

    glTF has y up and cameras that look along -z: the scene is turned by half a turn about x, which
    takes our axes (y down, z ahead) to these.

    Args:
      path: the file.
      xyz: places of at least one point, metres.
      colours: red, green and blue.
      cam2world: poses of at least one camera, OpenCV axes.
      field_of_view: vertical, radians.
      aspect: width of the picture over its height.
    """
    flip = np.diag([1.0, -1.0, -1.0])
    buffers: list[bytes] = []
    views: list[dict[str, Any]] = []
    accessors: list[dict[str, Any]] = []

    def add(values: np.ndarray, component: int, kind: str, **fields: Any) -> int:
        data = np.ascontiguousarray(values).tobytes()
        offset = sum(len(part) for part in buffers)
        views.append({"buffer": 0, "byteOffset": offset, "byteLength": len(data), "target": 34962})
        accessor = {"bufferView": len(views) - 1, "componentType": component, "type": kind}
        accessors.append(accessor | {"count": len(values)} | fields)
        buffers.append(data + bytes(-len(data) % 4))
        return len(accessors) - 1

    def places(points: np.ndarray) -> int:
        points = (points @ flip).astype(np.float32)
        bounds = {"min": points.min(0).tolist(), "max": points.max(0).tolist()}
        return add(points, _FLOAT, "VEC3", **bounds)

    # Linear, as vertex colours are; with an alpha, so that rows begin at multiples of four bytes.
    linear = np.round(255 * (colours / 255.0) ** 2.2).astype(np.uint8)
    rgba = np.concatenate([linear, np.full((len(linear), 1), 255, np.uint8)], axis=1)
    centres = cam2world[:, :3, 3]
    if len(centres) == 1:
        centres = np.repeat(centres, 2, axis=0)  # a line has two ends
    cloud = {"POSITION": places(xyz), "COLOR_0": add(rgba, _BYTE, "VEC4", normalized=True)}
    walk = {"POSITION": places(centres)}
    pose = np.eye(4)
    pose[:3, :3] = flip @ cam2world[-1, :3, :3] @ flip
    pose[:3, 3] = flip @ cam2world[-1, :3, 3]
    lens = {"yfov": field_of_view, "aspectRatio": aspect, "znear": 0.01}
    scene = {
        "asset": {"version": "2.0", "generator": COMMENT},
        "scene": 0,
        "scenes": [{"nodes": [0, 1, 2]}],
        "nodes": [
            {"name": "memory", "mesh": 0},
            {"name": "camera path", "mesh": 1},
            {"name": "camera", "camera": 0, "matrix": pose.T.reshape(-1).tolist()},
        ],
        "cameras": [{"type": "perspective", "perspective": lens}],
        "meshes": [
            {"name": "memory", "primitives": [{"attributes": cloud, "mode": _POINTS}]},
            {"name": "camera path", "primitives": [{"attributes": walk, "mode": _LINE_STRIP}]},
        ],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": sum(len(part) for part in buffers)}],
    }
    text = json.dumps(scene, allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    body = b"".join(buffers)
    chunks = _chunk(b"JSON", text) + _chunk(b"BIN\0", body)
    write_atomically(path, struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks)


_BYTE, _FLOAT, _POINTS, _LINE_STRIP = 5121, 5126, 0, 3
"""Numbers that glTF has for these."""


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack("<I4s", len(data), kind) + data


def _begins(path: Path, length: int) -> bytes:
    with path.open("rb") as file:
        return file.read(length)


PLY = FileKind("PLY file", lambda path: f"comment {COMMENT}\n".encode() in _begins(path, 100))
GLB = FileKind(
    "glTF file",
    lambda path: (
        _begins(path, 4) == b"glTF" and f'"generator": "{COMMENT}"'.encode() in _begins(path, 200)
    ),
)
