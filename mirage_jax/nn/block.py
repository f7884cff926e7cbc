"""The transformer block of Wan 2.x: self-attention, text cross-attention and MLP, modulated."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from mirage_jax.nn.attention import ATTENTION_OUTPUT, Attention, Linear, named_param
from mirage_jax.nn.rows import aligned

EPS = 1e-6

BLOCK_INPUT = "block_input"
"""Checkpoint name of a block's input, see `REMAT`."""


def layer_norm(x: Float[Array, "*b d"], eps: float = EPS) -> Float[Array, "*b d"]:
    """(x - mean) / std over the last axis, without affine part, in float32."""
    x = x.astype(jnp.float32)
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + eps)


def modulate(
    x: Float[Array, "*b s d"],
    shift: Float[Array, "*b #s d"],
    scale: Float[Array, "*b #s d"],
) -> Float[Array, "*b s d"]:
    """layer_norm(x) (1 + scale) + shift, in float32."""
    return layer_norm(x) * (1.0 + scale) + shift


def modulation_init(width: int) -> Any:
    """Normal with standard deviation width**-0.5, as Wan initialises its modulation tables."""
    return nn.initializers.normal(width**-0.5)


class DiTBlock(nn.Module):
    """One block; tokens come as [b, frames, cells, d], so that a timestep per frame costs one row.

    The residual stream is float32; matrix products run in `dtype`.
    """

    width: int
    heads: int
    mlp_width: int
    text: bool = False
    attention_backend: str = "auto"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b f s d"],
        modulation: Float[Array, "b f #s 6 d"],
        rotations: Float[Array, "n half 2"],
        text: Float[Array, "b l d"] | None = None,
        frame_mask: Bool[Array, "b f"] | None = None,
    ) -> Float[Array, "b f s d"]:
        """Applies the block.

        Args:
          x: tokens, f frames of s cells, n = f s.
          modulation: shift, scale, gate for attention, then for the MLP, from the timestep; per
            frame (s = 1) or per token.
          rotations: rotary table of the n tokens.
          text: embedded text tokens; needed if and only if the module has `text`.
          frame_mask: which frames are present, as keys of self-attention; None for all.
        """
        # In every block: else kernels split along `embed` may split the tokens' channels, too.
        x = nn.with_logical_constraint(x, ("batch", None, "tokens", None))
        x = checkpoint_name(x, BLOCK_INPUT)
        batch, frames, cells, width = x.shape
        # The frames of all samples on one axis, so that a batch of one is no axis: see `nn.rows`.
        x = x.reshape(-1, cells, width)
        modulation = modulation.reshape(-1, *modulation.shape[2:])
        table = named_param(self, "modulation", modulation_init(width), (6, width), (None, "embed"))
        rows = modulation.astype(jnp.float32) + aligned(table, modulation)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = (rows[..., i, :] for i in range(6))

        def attend(name: str, y: Array, **options: Any) -> Array:
            module = Attention(width, self.heads, self.attention_backend, self.dtype, name=name)
            return module(y.reshape(batch, frames, cells, width), **options).reshape(y.shape)

        # Frames and cells stay two axes throughout: devices may split the cells.
        rotations = rotations.reshape(frames, cells, *rotations.shape[1:])
        y = modulate(x, shift, scale).astype(self.dtype)
        x = x + gate * attend("self_attn", y, rotations=rotations, frame_mask=frame_mask)

        if self.text:
            ones, zeros = nn.initializers.ones, nn.initializers.zeros
            weight = named_param(self, "cross_norm_scale", ones, (width,), ("embed",))
            bias = named_param(self, "cross_norm_bias", zeros, (width,), ("embed",))
            y = (layer_norm(x) * aligned(weight, x) + aligned(bias, x)).astype(self.dtype)
            x = x + attend("cross_attn", y, context=text)

        y = modulate(x, mlp_shift, mlp_scale).astype(self.dtype)
        y = Linear(width, self.mlp_width, ("embed", "mlp"), dtype=self.dtype, name="mlp_in")(y)
        y = nn.gelu(y, approximate=True)
        y = Linear(self.mlp_width, width, ("mlp", "embed"), dtype=self.dtype, name="mlp_out")(y)
        return (x + mlp_gate * y).reshape(batch, frames, cells, width)


REMAT = {
    "none": None,
    "elementwise": jax.checkpoint_policies.dots_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "attention": jax.checkpoint_policies.save_only_these_names(ATTENTION_OUTPUT),
    "full": jax.checkpoint_policies.nothing_saveable,
    "offload": jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[BLOCK_INPUT],
        offload_src="device",
        offload_dst="pinned_host",
    ),
}
"""What is saved of a block for its backward pass: everything; all matrix products; those with
weights; attention's output, the most expensive to recompute; the input alone; the input, in host
memory."""


def over_layers(step: type[nn.Module], layers: int, *, remat: str, scan: bool) -> Any:
    """The module class that runs `step` once per layer: its carry first, then per-layer inputs.

    Parameters are stacked on a leading "layers" axis whether or not the loop is unrolled, so that
    checkpoints do not depend on `scan`. `step` takes (carry, per_layer, *shared) and returns
    (carry, output).

    Raises:
      ValueError: if `remat` is not a key of `REMAT`.
    """
    if remat not in REMAT:
        raise ValueError(f"remat: found {remat!r}, expected one of {', '.join(REMAT)}")
    if remat != "none":
        step = nn.remat(step, policy=REMAT[remat], prevent_cse=not scan)
    return nn.scan(
        step,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(0, nn.broadcast),
        length=layers,
        unroll=1 if scan else layers,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )
