"""Low-rank adapters of the denoiser as a transformation of its parameters (arXiv 2106.09685).

An adapter is a tree of its own, of pairs A, B. Merged, it adds alpha / rank A B to the kernels of
chosen projections. Training puts the pairs beside the kernels, where `Linear` adds x A B to x W: no
kernel-sized gradient is made, and an update far below the rounding of a half-precision kernel still
counts. B starts at zero, so that a new adapter changes nothing.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PRNGKeyArray

STACK = "blocks/block"
"""Path of the blocks whose projections are adapted: those of the denoiser, not of its branch."""

SELF_ATTENTION = tuple(f"self_attn/{name}" for name in "qkvo")
"""Queries, keys, values and outputs of self-attention."""

EVERY_PROJECTION = (
    *SELF_ATTENTION,
    *(f"cross_attn/{name}" for name in "qkvo"),
    "mlp_in",
    "mlp_out",
)
"""Those of self- and cross-attention and of the MLP."""


@dataclasses.dataclass(frozen=True)
class LoRA:
    """Which projections are adapted and how much.

    Attributes:
      rank: of every update.
      alpha: the update is alpha / rank times the product of A and B.
      targets: projections within a block, "self_attn/q".
    """

    rank: int
    alpha: float
    targets: tuple[str, ...] = SELF_ATTENTION

    def init(self, key: PRNGKeyArray, params: Mapping[str, Any]) -> dict[str, Any]:
        """A new adapter, A uniform within 1 / sqrt(inputs) and B zero, as float32.

        Args:
          key: randomness; each target draws from it by name, so that others do not change a draw.
          params: of the denoiser; of boxed ones A and B get the logical names of the axes.

        Raises:
          ValueError: if a target is not among the parameters.
        """
        flat = flatten_dict(dict(params), sep="/")
        adapter: dict[str, Any] = {}
        for target in self.targets:
            kernel = _kernel(flat, target)
            boxed = isinstance(kernel, nn.LogicallyPartitioned)
            layers, inputs, outputs = (kernel.value if boxed else kernel).shape
            own = jax.random.fold_in(key, zlib.crc32(target.encode()))
            bound = inputs**-0.5
            shape = (layers, inputs, self.rank)
            down: Any = jax.random.uniform(own, shape, jnp.float32, -bound, bound)
            up: Any = jnp.zeros((layers, self.rank, outputs), jnp.float32)
            if boxed:
                over_layers, into, out = kernel.names
                down = nn.LogicallyPartitioned(down, (over_layers, into, None))
                up = nn.LogicallyPartitioned(up, (over_layers, None, out))
            adapter[f"{STACK}/{target}/a"], adapter[f"{STACK}/{target}/b"] = down, up
        return unflatten_dict(adapter, sep="/")

    def beside(
        self,
        params: Mapping[str, Any],
        adapter: Mapping[str, Any],
        *,
        dropout: float = 0.0,
        key: PRNGKeyArray | None = None,
    ) -> dict[str, Any]:
        """The parameters with A and B, scaled, beside the kernels, where `Linear` reads them.

        Args:
          params, adapter: of the denoiser, and as `init` makes it.
          dropout: share of the values of x that are dropped before A; the update is scaled by
            1 / (1 - dropout), so that its mean stays.
          key: of the dropped values, split over targets and layers; None drops nothing.

        Raises:
          ValueError: as `merge`.
        """
        flat = flatten_dict(dict(params), sep="/")
        for target, (down, up) in self._pairs(flat, adapter).items():
            scale = self.alpha / self.rank
            if dropout and key is not None:
                own = jax.random.fold_in(key, zlib.crc32(target.encode()))
                layers, keep_prob = down.shape[0], 1.0 - dropout
                flat[f"{STACK}/{target}/lora_key"] = jax.random.split(own, layers)
                flat[f"{STACK}/{target}/lora_keep_prob"] = jnp.full(layers, keep_prob, jnp.float32)
                scale /= keep_prob
            flat[f"{STACK}/{target}/lora_a"] = down
            flat[f"{STACK}/{target}/lora_b"] = scale * up
        return unflatten_dict(flat, sep="/")

    def merge(self, params: Mapping[str, Any], adapter: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters with the adapter's updates added; both unboxed.

        Raises:
          ValueError: if a target is missing from the parameters or the adapter.
        """
        flat = flatten_dict(dict(params), sep="/")
        for target, pair in self._pairs(flat, adapter).items():
            path = f"{STACK}/{target}/kernel"
            update = jnp.einsum("lir,lro->lio", *pair)
            merged = flat[path] + self.alpha / self.rank * update
            flat[path] = merged.astype(flat[path].dtype)
        return unflatten_dict(flat, sep="/")

    def _pairs(
        self, flat: Mapping[str, Any], adapter: Mapping[str, Any]
    ) -> dict[str, tuple[Any, Any]]:
        """A and B of every target; ValueError if one is missing."""
        found, pairs = flatten_dict(dict(adapter), sep="/"), {}
        for target in self.targets:
            _kernel(flat, target)
            names = [f"{STACK}/{target}/{name}" for name in "ab"]
            missing = [name for name in names if name not in found]
            if missing:
                raise ValueError(f"adapter: parameter {missing[0]} is missing")
            pairs[target] = found[names[0]], found[names[1]]
        return pairs


def _kernel(flat: Mapping[str, Any], target: str) -> Any:
    path = f"{STACK}/{target}/kernel"
    if path not in flat:
        raise ValueError(f"targets: found {target!r}, but the denoiser has no parameter {path}")
    return flat[path]
