"""Values that were stored in another type than parameters have: in 8 bits, in 64, as integers.

A weight in 8 bits (e4m3 or e5m2) is exact in bfloat16. Where the file holds a scale for it, beside
"x.weight" as "x.scale_weight" or "x.weight_scale", it is their product in float32; a scale is one
number, one for every row, or one for every block of a row, shape (rows, blocks, 1).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from mirage_jax.convert.lazy_tensors import DTYPES, LazyTensor

_EIGHT_BITS = (np.dtype(ml_dtypes.float8_e4m3fn), np.dtype(ml_dtypes.float8_e5m2))
_SCALES = (".scale_weight", ".weight_scale")
_OF_INPUTS = (".scale_input", ".input_scale")
_MARKER = "scaled_fp8"
_ALPHA = ".alpha"  # of low-rank adapters: a number, of whatever type


@dataclasses.dataclass(frozen=True)
class Converted:
    """A `LazyTensor` that was stored in another type, and is multiplied by a scale if it has one.

    Attributes:
      stored: the values.
      dtype: of what is read.
      scale: that they are multiplied by in float32; None for none.
      blocked: shape of the values that a scale spreads over by broadcasting.
    """

    stored: LazyTensor
    dtype: np.dtype
    scale: LazyTensor | None = None
    blocked: tuple[int, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        values = np.asarray(self.stored)
        if self.scale is not None:
            scale = np.asarray(self.scale).astype(np.float32)
            lined_up = scale.reshape(scale.shape + (1,) * (len(self.blocked) - scale.ndim))
            product = values.astype(np.float32).reshape(self.blocked) * lined_up
            values = product.reshape(self.shape)
        with np.errstate(over="ignore"):  # infinite values are refused by name, by `finite`
            return values.astype(dtype or self.dtype)

    def __getitem__(self, index: int) -> np.ndarray:
        return np.asarray(self)[index]


def readable(
    stored: Mapping[str, LazyTensor],
) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    """The tensors of a file as floating-point ones of `DTYPES`, and what has no use as such.

    Returns:
      The tensors by name, and why a tensor is not among them, by its name.

    Raises:
      ValueError: naming a scale that has no weight in 8 bits, or another shape than is known.
    """
    tensors: dict[str, LazyTensor] = {}
    unused: dict[str, str] = {}
    scales: dict[str, str] = {}
    for name, tensor in stored.items():
        suffix = next((end for end in _SCALES if name.endswith(end)), "")
        if suffix:
            scales[f"{name.removesuffix(suffix)}.weight"] = name
        elif name.endswith(_OF_INPUTS):
            unused[name] = "scale of the inputs in 8-bit arithmetic"
        elif name.rpartition(".")[2] == _MARKER:
            unused[name] = "marker of a file of scaled 8-bit weights"
        elif tensor.dtype in DTYPES.values():
            tensors[name] = tensor
        elif tensor.dtype in _EIGHT_BITS:
            tensors[name] = Converted(tensor, DTYPES["BF16"])
        elif tensor.dtype == np.float64 or (tensor.dtype.kind in "iu" and name.endswith(_ALPHA)):
            tensors[name] = Converted(tensor, DTYPES["F32"])
        else:
            unused[name] = f"{tensor.dtype} of shape {tuple(tensor.shape)}"
    for name, scale_name in scales.items():
        weight, scale = stored.get(name), stored[scale_name]
        if weight is None or weight.dtype not in _EIGHT_BITS:
            found = "no such tensor" if weight is None else str(weight.dtype)
            raise ValueError(
                f"tensor {scale_name!r}: a scale, but {name!r} is {found}; expected 8-bit values "
                "to multiply by it (a file that was cast without its scales has lost their use)"
            )
        blocked = _blocked(scale_name, tuple(scale.shape), tuple(weight.shape))
        tensors[name] = Converted(weight, DTYPES["F32"], scale, blocked)
    return tensors, unused


def _blocked(name: str, scale: tuple[int, ...], weight: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the weight's values in which the scale's axes are the first ones."""
    if math.prod(scale) == 1 and len(scale) <= len(weight):
        return weight
    if weight and scale in ((weight[0],), (weight[0], 1)):
        return weight
    if len(weight) == 2 and len(scale) == 3 and scale[::2] == (weight[0], 1):
        blocks = scale[1]
        if weight[1] % blocks == 0:
            return weight[0], blocks, weight[1] // blocks
    raise ValueError(
        f"tensor {name!r}: found shape {scale} for a weight of {weight}, expected one number, one "
        "for each row, or (rows, blocks, 1)"
    )
