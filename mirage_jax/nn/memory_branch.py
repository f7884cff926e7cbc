"""The control branch that feeds the memory's read-out to the denoiser (VACE layout).

A second, shorter stack of transformer blocks runs beside the denoiser. It starts from the
denoiser's own embedded tokens plus the embedded read-out, c0 = before_proj(embed(context)) + x, and
each of its blocks sends a hint, after_proj(c), which is added to the denoiser's tokens after the
block it belongs to. `after_proj` starts at zero, so that a new branch leaves the denoiser as it was
(arXiv 2606.09828; layout of VACE, arXiv 2503.07598).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mirage_jax.nn.attention import Linear
from mirage_jax.nn.block import DiTBlock, over_layers


class _BranchLayer(nn.Module):
    """One block and its hint, in the form `over_layers` wants."""

    block: Mapping[str, Any]

    @nn.compact
    def __call__(self, c: Array, _: None, shared: tuple[Any, ...]) -> tuple[Array, Array]:
        c = DiTBlock(**self.block, name="block")(c, *shared)
        zeros = nn.initializers.zeros
        width, dtype = self.block["width"], self.block["dtype"]
        hint = Linear(width, width, ("embed", None), zeros, dtype, name="after_proj")(c)
        axes = ("batch", None, "tokens", None)
        return c, nn.with_logical_constraint(hint.astype(jnp.float32), axes)


class MemoryBranch(nn.Module):
    """Embedded read-out and tokens -> one hint per branch layer."""

    width: int
    heads: int
    mlp_width: int
    layers: int
    context_channels: int
    text: bool = False
    attention_backend: str = "auto"
    remat: str = "none"
    scan: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        context: Float[Array, "b f s m"],
        x: Float[Array, "b f s d"],
        modulation: Float[Array, "b f #s 6 d"],
        rotations: Float[Array, "n half 2"],
        text: Float[Array, "b l d"] | None = None,
        frame_mask: Bool[Array, "b f"] | None = None,
    ) -> Float[Array, "layers b f s d"]:
        """Computes the hints.

        Args:
          context: patches of the memory context of target and preceding frames, m channels.
          x: embedded latents of the same frames.
          modulation: as for the denoiser's blocks, for the same frames.
          rotations: rotary table of the same n = f s tokens.
          text: embedded text tokens, if the blocks have cross-attention.
          frame_mask: which frames are present, as keys of self-attention; None for all.
        """
        embed = Linear(
            self.context_channels,
            self.width,
            (None, "embed"),
            dtype=self.dtype,
            name="patch_embedding",
        )
        before = Linear(
            self.width, self.width, ("embed", None), dtype=self.dtype, name="before_proj"
        )
        c = x + before(embed(context)).astype(jnp.float32)
        block = {
            "width": self.width,
            "heads": self.heads,
            "mlp_width": self.mlp_width,
            "text": self.text,
            "attention_backend": self.attention_backend,
            "dtype": self.dtype,
        }
        stack = over_layers(_BranchLayer, self.layers, remat=self.remat, scan=self.scan)
        _, hints = stack(block, name="blocks")(c, None, (modulation, rotations, text, frame_mask))
        return hints
