"""Attention: one function for every backend, one file each, and the module that uses it.

Kernels compute softmax(q k^T / sqrt(d)) v on one device: `xla`, `chunked`, `cudnn` (NVIDIA),
`splash` (TPU) and `tokamax` (optional package). `ulysses` and `ring` do so for tokens that are
split over the `context` axis of the mesh. `dispatch` picks among them.
"""

from mirage_jax.nn.attention.dispatch import KERNELS, attention
from mirage_jax.nn.attention.module import (
    ATTENTION_OUTPUT,
    Attention,
    Linear,
    named_param,
    rms_norm,
)

__all__ = [
    "ATTENTION_OUTPUT",
    "KERNELS",
    "Attention",
    "Linear",
    "attention",
    "named_param",
    "rms_norm",
]
