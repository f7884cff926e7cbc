"""Gradients of a large batch from small ones, one after the other inside the compiled step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array

Gradient = Callable[[Any, Any, Any], tuple[tuple[Array, dict[str, Array]], Any]]
"""(params, batch, key) -> ((loss, metrics), gradients), as `jax.value_and_grad` makes it."""


def accumulated(gradient: Gradient, parts: int) -> Gradient:
    """`gradient` over a batch in `parts` equal parts: means of loss, metrics and gradients.

    Equal to the whole batch at once within rounding where the loss is a mean over samples; what a
    loss draws from its key differs, for every part has a key of its own. Memory is that of one part
    and of the gradients once more.

    Args:
      gradient: of one part.
      parts: how many; must divide the leading dimension of the batch.
    """
    if parts == 1:
        return gradient

    def run(params: Any, batch: Any, key: Any) -> tuple[tuple[Array, dict[str, Array]], Any]:
        def step(total: Any, part: tuple[Any, Any]) -> tuple[Any, Any]:
            values, gradients = gradient(params, *part)
            return jax.tree.map(jnp.add, total, gradients), values

        zeros = jax.tree.map(jnp.zeros_like, params)
        inputs = jax.tree.map(lambda leaf: _split(leaf, parts), batch), jax.random.split(key, parts)
        total, values = jax.lax.scan(step, zeros, inputs)
        means = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), values)
        return means, jax.tree.map(lambda leaf: leaf / parts, total)

    return run


def _split(leaf: Array, parts: int) -> Array:
    """[parts, batch / parts, ...]; a part takes every `parts`-th sample, so some of each device."""
    split = jnp.moveaxis(leaf.reshape(len(leaf) // parts, parts, *leaf.shape[1:]), 1, 0)
    return nn.with_logical_constraint(split, (None, "batch", *(None,) * (leaf.ndim - 1)))
