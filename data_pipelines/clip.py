"""The Clip record: the one schema every source of worlds yields, validated and stored.

A clip is a short video with everything geometry needs: z-depth, intrinsics, poses and the identity
of whatever moves.  On disk it is one safetensors buffer (no pickle): the arrays as tensors, the
names and numbers as JSON in its header.  This module imports numpy alone, because recording and
loading workers are spawned by the dozen and must not pay for, or fight over, an accelerator.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from safetensors.numpy import save as _save_safetensors

ARRAY_FIELDS = ("video", "depth", "intrinsics", "cam2world", "mover_ids")
META_FIELDS = ("world", "source", "trajectory", "seed", "gamma", "fps", "name")
FORMAT = "mirage-clip-1"

_DTYPES: dict[str, type[np.generic]] = {
    "video": np.uint8,
    "depth": np.float32,
    "intrinsics": np.float32,
    "cam2world": np.float64,
    "mover_ids": np.int32,
}
_TRAILING = {"video": "H W 3", "depth": "H W", "intrinsics": "4", "cam2world": "4 4"}
_TRAILING["mover_ids"] = "H W"
# Rotations come from sines and cosines in float64 or from a game's float32 variables.
_ROTATION_TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Clip:
    """One recorded clip of T frames of H x W pixels.

    The fields are plain arrays here and `validate` states the full contract, so that a clip from a
    faulty source can be built, named in an error and counted instead of ending the recording.

    Attributes:
      video: uint8 [T, H, W, 3], RGB, already raised to `gamma`.
      depth: float32 [T, H, W], z-depth (not range) in metres; 0 = unknown, inf = sky.
      intrinsics: float32 [T, 4], `fx, fy, cx, cy` in pixels of H x W, pixel centres at +0.5.
      cam2world: float64 [T, 4, 4], OpenCV axes (x right, y down, z forward), metres.
      mover_ids: int32 [T, H, W], 0 = static, otherwise an id that is constant over the clip.
      world: the map or maze, e.g. "freedoom2/MAP07"; held-out worlds are told apart by it.
      source: the registry name of the source, e.g. "freedoom", "labmaze", "procedural".
      trajectory: kind of camera path, e.g. "easy" (exact return) or "parallax" (offset return).
      seed: the number the clip can be recorded again from.
      gamma: exponent applied to linear 0..1 colours at recording (1 = none).
      fps: frames per second the clip should be played at.
      name: unique within a dataset.
    """

    video: np.ndarray
    depth: np.ndarray
    intrinsics: np.ndarray
    cam2world: np.ndarray
    mover_ids: np.ndarray
    world: str
    source: str
    trajectory: str
    seed: int
    gamma: float
    fps: float
    name: str

    @property
    def frames(self) -> int:
        return self.video.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.video.shape[1], self.video.shape[2]


def validate(clip: Clip) -> Clip:
    """Returns `clip` unchanged if it keeps the contract in `Clip`'s docstring.

    Raises:
      ValueError: names the clip, the field, what was found and what was expected: wrong dtype or
        shape, NaN or negative depth, no usable depth at all, a non-finite or non-positive focal
        length, a pose that is not a right-handed rigid motion, a negative mover id, an empty name.
    """

    def refuse(field: str, found: object, expected: str) -> ValueError:
        return ValueError(f"clip {clip.name!r}, {field}: found {found}, expected {expected}")

    for field in ("world", "source", "trajectory", "name"):
        text = getattr(clip, field)
        if not isinstance(text, str) or not text:
            raise refuse(field, repr(text), "a non-empty string")
    if not isinstance(clip.seed, int | np.integer):
        raise refuse("seed", repr(clip.seed), "an integer")
    for field in ("gamma", "fps"):
        number = getattr(clip, field)
        if not np.isfinite(number) or number <= 0:
            raise refuse(field, number, "a positive number")

    video = clip.video
    if not isinstance(video, np.ndarray) or video.ndim != 4 or 0 in video.shape:
        raise refuse("video", _describe(video), "uint8 [T, H, W, 3] with T, H, W > 0")
    frames, height, width = video.shape[:3]
    sizes = {"T": frames, "H": height, "W": width}
    for field in ARRAY_FIELDS:
        array = getattr(clip, field)
        axes = ["T", *_TRAILING[field].split()]
        shape = tuple(sizes[axis] if axis in sizes else int(axis) for axis in axes)
        good = isinstance(array, np.ndarray) and array.dtype == _DTYPES[field]
        if not good or array.shape != shape:
            expected = f"{np.dtype(_DTYPES[field])} {list(shape)} as [{', '.join(axes)}]"
            raise refuse(field, _describe(array), expected)

    if np.isnan(clip.depth).any():
        frame, row, column = np.argwhere(np.isnan(clip.depth))[0]
        where = f"NaN at frame {frame}, row {row}, column {column}"
        raise refuse("depth", where, "metres, 0 for unknown, inf for sky")
    if (clip.depth < 0).any():
        raise refuse("depth", f"{clip.depth.min():g}", "z-depth >= 0 metres")
    if not ((clip.depth > 0) & np.isfinite(clip.depth)).any():
        raise refuse("depth", "only unknown or sky", "at least one pixel of known depth")
    if not np.isfinite(clip.intrinsics).all() or (clip.intrinsics[:, :2] <= 0).any():
        bad = ~np.isfinite(clip.intrinsics).all(1) | (clip.intrinsics[:, :2] <= 0).any(1)
        frame = int(np.flatnonzero(bad)[0])
        found = f"{clip.intrinsics[frame].tolist()} at frame {frame}"
        raise refuse("intrinsics", found, "finite fx, fy, cx, cy with fx, fy > 0 pixels")
    _validate_poses(clip, refuse)
    if (clip.mover_ids < 0).any():
        raise refuse("mover_ids", int(clip.mover_ids.min()), "0 for static, positive ids")
    return clip


def _validate_poses(clip: Clip, refuse: Any) -> None:
    poses = clip.cam2world
    if not np.isfinite(poses).all():
        frame = int(np.flatnonzero(~np.isfinite(poses).all((1, 2)))[0])
        raise refuse("cam2world", f"a non-finite number at frame {frame}", "finite 4x4 poses")
    rotation = poses[:, :3, :3]
    error = np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max((1, 2))
    if (error > _ROTATION_TOLERANCE).any():
        frame = int(error.argmax())
        found = f"R R^T off the identity by {error[frame]:.2g} at frame {frame}"
        raise refuse("cam2world", found, f"orthonormal rotations within {_ROTATION_TOLERANCE:g}")
    determinant = np.linalg.det(rotation)
    if (determinant < 0).any():
        frame = int(determinant.argmin())
        found = f"a left-handed rotation (determinant {determinant[frame]:.3f}) at frame {frame}"
        raise refuse("cam2world", found, "determinant +1 (x right, y down, z forward)")
    if not np.array_equal(poses[:, 3], np.broadcast_to([0.0, 0.0, 0.0, 1.0], (len(poses), 4))):
        frame = int(np.flatnonzero((poses[:, 3] != [0, 0, 0, 1]).any(1))[0])
        found = f"last row {poses[frame, 3].tolist()} at frame {frame}"
        raise refuse("cam2world", found, "last row [0, 0, 0, 1]")


def _describe(array: object) -> str:
    if isinstance(array, np.ndarray):
        return f"{array.dtype} {list(array.shape)}"
    return type(array).__name__


def to_bytes(clip: Clip) -> bytes:
    """Returns `clip` as one safetensors buffer, without loss."""
    tensors = {field: np.ascontiguousarray(getattr(clip, field)) for field in ARRAY_FIELDS}
    meta = {
        "format": FORMAT,
        "world": clip.world,
        "source": clip.source,
        "trajectory": clip.trajectory,
        "seed": int(clip.seed),
        "gamma": float(clip.gamma),
        "fps": float(clip.fps),
        "name": clip.name,
    }
    # One metadata key: safetensors writes several in no fixed order, and equal clips are to have
    # equal bytes.
    return _save_safetensors(tensors, metadata={"clip": json.dumps(meta)})


def decode(data: bytes, fields: Sequence[str] = ARRAY_FIELDS + META_FIELDS) -> dict[str, Any]:
    """Returns the named fields of a stored clip; the others are neither decoded nor copied.

    Raises:
      ValueError: `data` is not a stored clip, is cut short, or a field name is unknown.
    """
    unknown = set(fields) - set(ARRAY_FIELDS) - set(META_FIELDS)
    if unknown:
        known = ", ".join(ARRAY_FIELDS + META_FIELDS)
        raise ValueError(f"unknown clip fields {sorted(unknown)}; known fields: {known}")
    header, meta, start = _header(data)
    try:
        return {
            field: _tensor(data, start, header, field) if field in ARRAY_FIELDS else meta[field]
            for field in fields
        }
    except KeyError as error:
        raise ValueError(f"not a stored clip: its header lacks {error}") from error


def from_bytes(data: bytes) -> Clip:
    """Returns the clip that `to_bytes` stored.

    Raises:
      ValueError: `data` is not a stored clip or is cut short.
    """
    return Clip(**decode(data))


def _header(data: bytes) -> tuple[Mapping[str, Any], Mapping[str, Any], int]:
    # safetensors itself decodes all tensors and hides the metadata; its layout is a length in eight
    # little-endian bytes, a JSON header, then the tensors.
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise ValueError(f"not a stored clip, or cut short: {len(data)} bytes, header of {length}")
    try:
        header = json.loads(data[8 : 8 + length])
        meta = json.loads(header["__metadata__"]["clip"])
        found = meta["format"]
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"not a stored clip: unreadable header ({error!r})") from error
    if found != FORMAT:
        raise ValueError(f"not a stored clip: found format {found!r}, expected {FORMAT!r}")
    return header, meta, 8 + length


def _tensor(data: bytes, start: int, header: Mapping[str, Any], field: str) -> np.ndarray:
    begin, end = header[field]["data_offsets"]
    if start + end > len(data):
        raise ValueError(f"stored clip cut short in {field}: {len(data)} of {start + end} bytes")
    array = np.frombuffer(data, _DTYPES[field], (end - begin) // _itemsize(field), start + begin)
    # A copy, so that the caller owns writable memory and the record's buffer can go.
    return array.reshape(header[field]["shape"]).copy()


def _itemsize(field: str) -> int:
    return np.dtype(_DTYPES[field]).itemsize
