"""Tensors of a checkpoint that are read when their values are needed."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import ml_dtypes
import numpy as np

DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
"""Types of parameters, by their names in safetensors files."""


@runtime_checkable
class LazyTensor(Protocol):
    """A tensor not yet read: `numpy.asarray` reads it, `[i]` the i-th along its first axis."""

    @property
    def dtype(self) -> np.dtype: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray: ...
    def __getitem__(self, index: int) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A `LazyTensor` in a safetensors file."""

    file: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        values = np.fromfile(self.file, self.dtype, math.prod(self.shape), offset=self.offset)
        return values.reshape(self.shape).astype(dtype or self.dtype, copy=False)

    def __getitem__(self, index: int) -> np.ndarray:
        inner = self.shape[1:]
        step = math.prod(inner) * self.dtype.itemsize
        return np.asarray(StoredTensor(self.file, self.dtype, inner, self.offset + index * step))
