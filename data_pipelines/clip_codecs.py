"""How the arrays of a clip are stored: a registry of codecs by the name in a clip's header.

A codec turns an array into the tensor that is stored, of any shape and dtype (a byte stream is
uint8 [n]), and the parameters that the header keeps, plain JSON; and back.  To add one, write a
class like those here, with a new name, and enter it in `CODECS`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from data_pipelines.clip_video_codecs import H264, Ffv1

_SKY = 65535


@runtime_checkable
class Codec(Protocol):
    """What stores one array of a clip; picklable and small."""

    name: ClassVar[str]
    parts: ClassVar[tuple[str, ...]]  # which it can store, by name in `clip.PARTS`; () = any

    def encode(self, array: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        """Returns the stored tensor and its parameters; ValueError if the array does not fit."""
        ...

    @staticmethod
    def decode(stored: np.ndarray, parameters: Mapping[str, Any]) -> np.ndarray:
        """Returns the array, which may share memory with `stored`."""
        ...


@dataclasses.dataclass(frozen=True)
class Raw:
    """The array as it is."""

    name: ClassVar[str] = "raw"
    parts: ClassVar[tuple[str, ...]] = ()

    def encode(self, array: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        return np.ascontiguousarray(array), {}

    @staticmethod
    def decode(stored: np.ndarray, parameters: Mapping[str, Any]) -> np.ndarray:
        return stored


@dataclasses.dataclass(frozen=True)
class U16:
    """Depth in 16 bits: metres = value * scale, 0 = unknown, 65535 = sky.

    The parameters are `scale` and `error`, the largest difference in metres between the depth given
    and the depth read back. It is at most scale / 2, but for depths below scale / 2, which are
    stored as 1 because 0 means unknown.

    Attributes:
      scale: metres per step; None: the clip's largest depth / 65534.
    """

    scale: float | None = None
    name: ClassVar[str] = "u16"
    parts: ClassVar[tuple[str, ...]] = ("depth",)

    def encode(self, array: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        known = (array > 0) & np.isfinite(array)
        depth = array[known].astype(np.float64)
        furthest = float(depth.max(initial=0.0))
        scale = self.scale if self.scale is not None else (furthest or 1.0) / (_SKY - 1)
        if not (np.isfinite(scale) and scale > 0):
            raise ValueError(f"found scale {scale}, expected positive metres")
        steps = np.rint(depth / scale)
        if (steps >= _SKY).any():
            most = (_SKY - 1) * scale
            raise ValueError(
                f"found {furthest:g} m, expected at most {most:g} m at scale {scale:g}"
            )
        stored = np.zeros(array.shape, np.uint16)
        stored[known] = np.maximum(steps, 1)
        stored[np.isposinf(array)] = _SKY
        parameters = {"scale": float(scale), "error": 0.0}
        if depth.size:
            back = self.decode(stored[known], parameters).astype(np.float64)
            parameters["error"] = float(np.abs(back - depth).max())
        return stored, parameters

    @staticmethod
    def decode(stored: np.ndarray, parameters: Mapping[str, Any]) -> np.ndarray:
        depth = (stored * np.float64(parameters["scale"])).astype(np.float32)
        depth[stored == _SKY] = np.inf
        return depth


CODECS: dict[str, type[Codec]] = {"raw": Raw, "u16": U16, "ffv1": Ffv1, "h264": H264}

ENCODINGS: dict[str, dict[str, Codec]] = {
    "raw": {},
    "lossless": {"video": Ffv1()},
    "visually_lossless": {"video": H264(), "depth": U16()},
}
"""Codecs of a recording by a name for people."""
