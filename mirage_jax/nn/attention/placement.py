"""Where queries, keys and values live: the axes of the current mesh and the specs they give.

Attention of tokens that are split over devices is written out device by device (`jax.shard_map`).
All axes of the mesh are manual there: with only `context` manual the compiler adds all-gathers over
the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Bool, Float

from mirage_jax.parallel.mesh import CONTEXT, batch_axes

TENSOR = "tensor"


@dataclasses.dataclass(frozen=True)
class Placement:
    """How arrays `[b, *tokens, heads, d]` are split; of the tokens, their last axis, "cells".

    Attributes:
      batch: mesh axes over which samples are split.
      heads: mesh axis over which heads are split, if any.
      parts: devices among which the cells of one sample are split.
      heads_here: heads of one device.
    """

    batch: tuple[str, ...]
    heads: str | None
    parts: int
    heads_here: int

    def spec(self, ndim: int, *, split: bool) -> PartitionSpec:
        """Of an array with `ndim` axes whose cells are split, or whole on every device."""
        cells = CONTEXT if split and self.parts > 1 else None
        middle = (None,) * (ndim - 4)
        return PartitionSpec(self.batch or None, *middle, cells, self.heads, None)

    def pad(self, x: Float[Array, "b *n heads d"]) -> Float[Array, "b *m heads d"]:
        """Adds cells so that the devices get equally many."""
        return pad_cells(x, -x.shape[-3] % self.parts)

    def run(
        self,
        local: Callable[..., Array],
        q: Array,
        k: Array,
        v: Array,
        frame_mask: Array | None,
        *,
        keys_split: bool,
    ) -> Array:
        """Runs `local` on every device's own q, k and v, padded to equal parts; crops the result.

        Beside them it gets `frame_mask`, [b, frames], of its own samples; None stays None.

        With `keys_split=False` every device gets all keys.
        """
        cells = q.shape[-3]
        if keys_split:
            k, v = self.pad(k), self.pad(v)
        q = self.pad(q)
        key_spec = self.spec(k.ndim, split=keys_split)
        out = jax.shard_map(
            local,
            in_specs=(
                self.spec(q.ndim, split=True),
                key_spec,
                key_spec,
                PartitionSpec(self.batch or None, None),
            ),
            out_specs=self.spec(q.ndim, split=True),
            # The running sums of `ring` start as constants, which the check would want marked.
            check_vma=False,
        )(q, k, v, frame_mask)
        return out[..., :cells, :, :]


def pad_cells(x: Float[Array, "b *n heads d"], count: int) -> Float[Array, "b *m heads d"]:
    """Adds `count` cells of zeros at the end."""
    return jnp.pad(x, ((0, 0),) * (x.ndim - 3) + ((0, count), (0, 0), (0, 0))) if count else x


def flat(x: Float[Array, "b *n heads d"]) -> Float[Array, "b m heads d"]:
    """All token axes as one."""
    return x.reshape(x.shape[0], -1, *x.shape[-2:])


def key_mask(
    frame_mask: Bool[Array, "b f"] | None, k: Float[Array, "b *n heads d"]
) -> Bool[Array, "b m"] | None:
    """Which keys, all token axes as one, are of frames that are present; None for all."""
    return None if frame_mask is None else jnp.repeat(frame_mask, k.shape[-3], axis=1)


def current(q: Float[Array, "b *n heads d"]) -> Placement | None:
    """How the mesh in force (`jax.set_mesh`) splits arrays of the size of `q`.

    An axis that does not divide its dimension is left out, as it is for parameters. None without a
    mesh, on a mesh of one device, or where the code is written device by device already.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or AxisType.Manual in mesh.axis_types:
        return None
    size: dict[str, int] = dict(mesh.shape)
    tensor = size.get(TENSOR, 1)
    heads: Any = TENSOR if tensor > 1 and q.shape[-2] % tensor == 0 else None
    return Placement(
        batch=batch_axes(q.shape[0]),
        heads=heads,
        parts=size.get(CONTEXT, 1),
        heads_here=q.shape[-2] // (tensor if heads else 1),
    )
