"""DINOv2 vision transformer (arXiv 2304.07193): a picture to features of its 14 x 14 patches."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mirage_jax.nn.attention import Linear, attention, named_param
from mirage_jax.nn.block import layer_norm, over_layers
from mirage_jax.nn.layers import Conv2d
from mirage_jax.nn.resampling import resize_bicubic
from mirage_jax.nn.rows import aligned

PATCH = 14
"""Pixels per patch along each axis."""


def position_table(
    table: Float[Array, "n d"], grid: tuple[int, int], offset: float = 0.0
) -> Float[Array, "m d"]:
    """Position embeddings of the class token and of `grid` patches, from a learned square table.

    The table is used as it is on its native grid, and resized bicubically for any other.

    Args:
      table: class token first, then the patches row by row.
      grid: rows and columns of patches.
      offset: 0 as transformers resizes it; 0.1 as DINOv2's own code does (the scale is that of a
        grid 0.1 larger).
    """
    side = round((table.shape[0] - 1) ** 0.5)
    if grid == (side, side):
        return table
    patches = resize_bicubic(table[1:].reshape(side, side, -1), grid, offset)
    return jnp.concatenate([table[:1], patches.reshape(-1, table.shape[1])])


class LayerNorm(nn.Module):
    """`block.layer_norm` with a learned scale and bias."""

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        shape, ones, zeros = x.shape[-1:], nn.initializers.ones, nn.initializers.zeros
        scale = named_param(self, "scale", ones, shape, ("embed",))
        bias = named_param(self, "bias", zeros, shape, ("embed",))
        return layer_norm(x) * aligned(scale, x) + aligned(bias, x)


class _Block(nn.Module):
    """Attention and MLP, each with a LayerScale, in the form `over_layers` wants."""

    width: int
    heads: int
    mlp_width: int
    attention_backend: str
    dtype: Any

    def _linear(self, name: str, inputs: int, features: int, axes: tuple[str, str]) -> Linear:
        return Linear(inputs, features, axes, dtype=self.dtype, name=name)

    @nn.compact
    def __call__(self, x: Array, _: None, __: None) -> tuple[Array, Array]:
        width, ones = self.width, nn.initializers.ones
        y = LayerNorm(name="norm1")(x)
        layers = (self._linear(name, width, width, ("embed", "heads")) for name in "qkv")
        q, k, v = (layer(y).reshape(*y.shape[:2], self.heads, -1) for layer in layers)
        y = attention(q, k, v, backend=self.attention_backend).reshape(x.shape)
        y = self._linear("o", width, width, ("heads", "embed"))(y)
        x = x + y * aligned(named_param(self, "gain1", ones, (width,), ("embed",)), y)

        y = LayerNorm(name="norm2")(x)
        y = self._linear("mlp_in", width, self.mlp_width, ("embed", "mlp"))(y)
        y = self._linear("mlp_out", self.mlp_width, width, ("mlp", "embed"))(
            jax.nn.gelu(y, approximate=False)
        )
        x = x + y * aligned(named_param(self, "gain2", ones, (width,), ("embed",)), y)
        return x, x


class DINOv2(nn.Module):
    """Vision transformer without register tokens; the residual stream is float32.

    Attributes:
      width: channels of a token.
      layers: blocks.
      heads: attention heads.
      mlp_width: hidden channels of the MLP.
      taps: blocks, counted from 0, whose outputs are returned.
      table_side: rows (and columns) of patches that the position table was learned for.
      position_offset: see `position_table`.
      attention_backend: see `attention`.
      dtype: of matrix products.
    """

    width: int
    layers: int
    heads: int
    mlp_width: int
    taps: tuple[int, ...]
    table_side: int = 37
    position_offset: float = 0.0
    attention_backend: str = "auto"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, pictures: Float[Array, "b height width 3"]
    ) -> tuple[Float[Array, "b n d"], ...]:
        """Normalised tokens (class token first, then patches row by row) after each tapped block.

        Args:
          pictures: colours normalised as `depth_anything.prepare` does.

        Raises:
          ValueError: if height or width are not multiples of 14.
        """
        height, width = pictures.shape[1:3]
        if height % PATCH or width % PATCH:
            raise ValueError(
                f"pictures: found {height} x {width} pixels, expected multiples of {PATCH}"
            )
        grid = (height // PATCH, width // PATCH)
        x = Conv2d(
            self.width, PATCH, stride=PATCH, padding="VALID", dtype=self.dtype, name="patch"
        )(pictures)
        x = x.reshape(x.shape[0], -1, self.width)

        normal, embed = nn.initializers.normal(0.02), ("embed",)
        first = named_param(self, "cls_token", normal, (self.width,), embed)
        # Stands for hidden patches in DINOv2's training; here only because checkpoints hold it.
        named_param(self, "mask_token", nn.initializers.zeros, (self.width,), embed)
        shape = (self.table_side**2 + 1, self.width)
        table = named_param(self, "positions", normal, shape, (None, "embed"))
        first = jnp.broadcast_to(first, (x.shape[0], 1, self.width))
        x = jnp.concatenate([first, x], axis=1)
        x = x + position_table(table, grid, self.position_offset)[None]

        stack = over_layers(_Block, self.layers, remat="none", scan=True)
        block = (self.width, self.heads, self.mlp_width, self.attention_backend, self.dtype)
        _, outputs = stack(*block, name="blocks")(x, None, None)
        norm = LayerNorm(name="norm")
        return tuple(norm(outputs[tap]) for tap in self.taps)
