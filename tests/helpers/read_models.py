"""Small plain readers of point and camera files, by their specifications."""

import json
import struct

import numpy as np
from scipy.spatial.transform import Rotation

PLY_TYPES = {"float": "<f4", "uchar": "u1", "int": "<i4"}
GLTF_TYPES = {5121: np.uint8, 5126: np.dtype("<f4")}
WIDTHS = {"VEC3": 3, "VEC4": 4}


def ply(path):
    """Properties of the vertices by name."""
    head, _, body = path.read_bytes().partition(b"end_header\n")
    lines = head.decode("ascii").splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    (count,) = [int(line.split()[2]) for line in lines if line.startswith("element vertex ")]
    kinds = [line.split()[1:] for line in lines if line.startswith("property ")]
    table = np.dtype([(name, PLY_TYPES[kind]) for kind, name in kinds])
    assert len(body) == count * table.itemsize
    rows = np.frombuffer(body, table)
    return {name: rows[name] for name in table.names}


def colmap(folder):
    """(lenses by camera number, images by name: cam2world and camera number, points, colours)."""

    def rows(name, every=1):
        lines = (folder / name).read_text().splitlines()
        return [line.split() for line in lines if not line.startswith("#")][::every]

    lenses = {}
    for number, model, width, height, *lens in rows("cameras.txt"):
        assert model == "PINHOLE"
        lenses[number] = ((int(height), int(width)), np.array(lens, float))
    images = {}
    for _, qw, qx, qy, qz, *place, camera, name in rows("images.txt", 2):
        turn = Rotation.from_quat(np.array([qx, qy, qz, qw], float)).as_matrix()
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = turn, np.array(place, float)
        images[name] = np.linalg.inv(pose), camera
    points = np.array([row[1:7] for row in rows("points3D.txt")], float)
    return lenses, images, points[:, :3], points[:, 3:]


def glb(path):
    """(the scene, a function that gives an accessor's values)."""
    data = path.read_bytes()
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size, kind = struct.unpack_from("<I4s", data, 12)
    assert kind == b"JSON" and size % 4 == 0
    scene = json.loads(data[20 : 20 + size])
    body_size, kind = struct.unpack_from("<I4s", data, 20 + size)
    body = data[28 + size :]
    assert kind == b"BIN\0" and body_size == len(body) == scene["buffers"][0]["byteLength"]

    def values(number):
        accessor = scene["accessors"][number]
        view = scene["bufferViews"][accessor["bufferView"]]
        dtype, width = np.dtype(GLTF_TYPES[accessor["componentType"]]), WIDTHS[accessor["type"]]
        assert view["byteOffset"] % dtype.itemsize == 0
        assert view["byteLength"] == accessor["count"] * width * dtype.itemsize
        found = np.frombuffer(body, dtype, accessor["count"] * width, view["byteOffset"])
        return found.reshape(-1, width)

    return scene, values
