"""The text encoder of Wan: the encoder half of UMT5 (T5 v1.1 with a position bias in every layer).

Sources: T5, arXiv 1910.10683; gated MLP, arXiv 2002.05202; UMT5, arXiv 2304.09151. There is no
dropout: Wan uses the encoder frozen.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mirage_jax.nn.attention import named_param, rms_norm
from mirage_jax.nn.block import over_layers

UMT5_XXL: dict[str, Any] = {
    "vocab_size": 256_384,
    "width": 4096,
    "heads": 64,
    "head_width": 64,
    "mlp_width": 10_240,
    "depth": 24,
    "buckets": 32,
}
"""Fields of the encoder that Wan 2.x was trained with: 5.7 billion parameters."""


def relative_buckets(
    queries: int, keys: int, *, buckets: int = 32, max_distance: int = 128
) -> Int[np.ndarray, "queries keys"]:
    """Row of the position bias for every pair of a query and a key (T5, section 2.1).

    The lower half of the rows is for keys at or before the query, the upper half for keys after
    it. In each, the first half of the rows stands for one distance each; the others grow
    geometrically up to `max_distance`, from which on all distances share the last one.

    Raises:
      ValueError: if `buckets` is not a multiple of 4, or `max_distance` is not above buckets / 4.
    """
    if buckets < 4 or buckets % 4:
        raise ValueError(f"buckets: found {buckets}, expected a positive multiple of 4")
    half, exact = buckets // 2, buckets // 4
    if max_distance <= exact:
        raise ValueError(f"max_distance: found {max_distance}, expected more than {exact}")
    growth = (max_distance / exact) ** (np.arange(half - exact) / (half - exact))
    # Distance at which each row but the first begins. Distances are integers; the small step down
    # keeps powers that should be integers, like 8 * 16**(1/4) = 16, from being rounded past them.
    begins = np.concatenate([np.arange(1, exact), exact * growth - 1e-6])
    offset = np.arange(keys)[None, :] - np.arange(queries)[:, None]
    rows = np.searchsorted(begins, np.abs(offset), side="right")
    return (rows + half * (offset > 0)).astype(np.int32)


def biased_attention(
    q: Float[Array, "b n heads d"],
    k: Float[Array, "b m heads d"],
    v: Float[Array, "b m heads d"],
    bias: Float[Array, "heads n m"],
    mask: Bool[Array, "b m"],
) -> Float[Array, "b n heads d"]:
    """softmax(q k^T + bias) v over the keys in `mask`; scores in float32.

    T5 has no factor 1 / sqrt(d), so that scores are large and rounding queries and keys to bfloat16
    shows: they are float32. A text without any unmasked key attends to all of them equally.
    """
    scores = jnp.einsum("bnhd,bmhd->bhnm", q, k, precision=jax.lax.Precision.HIGHEST)
    scores = scores + bias[None]
    scores = jnp.where(mask[:, None, None, :], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bhnm,bmhd->bnhd", weights, v)


class _Layer(nn.Module):
    """Self-attention and gated MLP, in the form `over_layers` wants; the stream is float32."""

    heads: int
    head_width: int
    mlp_width: int
    buckets: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, _: None, shared: tuple[Array, Array]) -> tuple[Array, None]:
        rows, mask = shared
        width, inner = x.shape[-1], self.heads * self.head_width

        def norm(name: str) -> Array:
            scale = named_param(self, name, nn.initializers.ones, (width,), ("embed",))
            return rms_norm(x, scale).astype(self.dtype)

        def matrix(name: str, shape: tuple[int, int], axes: tuple[str, str], std: float) -> Array:
            init = nn.initializers.normal(std)
            return named_param(self, name, init, shape, axes).astype(self.dtype)

        def product(x: Array, kernel: Array) -> Array:
            return jnp.dot(x, kernel, preferred_element_type=jnp.float32)

        def heads(name: str, std: float) -> Array:
            kernel = matrix(name, (width, inner), ("embed", "heads"), std)
            return product(normed, kernel).reshape(*x.shape[:2], self.heads, self.head_width)

        # Standard deviations of T5: the queries' holds the 1 / sqrt(d) that the scores lack.
        normed = norm("norm_attn")
        q = heads("q", (width * self.head_width) ** -0.5)
        k, v = heads("k", width**-0.5), heads("v", width**-0.5).astype(self.dtype)
        init = nn.initializers.normal((2 * self.buckets * self.heads) ** -0.5)
        table_shape = (self.buckets, self.heads)
        table = named_param(self, "position_bias", init, table_shape, (None, "heads"))
        bias = jnp.moveaxis(table.astype(jnp.float32)[rows], -1, 0)
        y = biased_attention(q, k, v, bias, mask).reshape(*x.shape[:2], inner)
        x = x + product(y, matrix("o", (inner, width), ("heads", "embed"), inner**-0.5))

        normed = norm("norm_mlp")
        shape, axes = (width, self.mlp_width), ("embed", "mlp")
        gate = nn.gelu(product(normed, matrix("gate", shape, axes, width**-0.5)), approximate=True)
        y = gate * product(normed, matrix("up", shape, axes, width**-0.5))
        down = matrix("down", (self.mlp_width, width), ("mlp", "embed"), self.mlp_width**-0.5)
        return x + product(y.astype(self.dtype), down), None


class TextEncoder(nn.Module):
    """Token ids to one vector per token, as Wan's denoisers take them (`Denoiser.text_width`).

    `TextEncoder(**UMT5_XXL, dtype=jnp.bfloat16)` is Wan's. Parameters may be of any float dtype:
    bfloat16 ones, as released, take half the memory and are not copied to float32.

    Attributes:
      vocab_size: rows of the token embedding.
      width: channels of a token.
      heads: attention heads.
      head_width: channels of a head; heads * head_width need not be the width.
      mlp_width: hidden channels of the gated MLP.
      depth: layers.
      buckets: rows of the relative position bias, see `relative_buckets`.
      max_distance: distance of tokens from which on the bias stays the same.
      scan: whether layers run in a loop (compiles once) or unrolled; parameters are the same.
      dtype: of the factors of matrix products; sums and all between products are float32.
    """

    vocab_size: int
    width: int
    heads: int
    head_width: int
    mlp_width: int
    depth: int
    buckets: int = 32
    max_distance: int = 128
    scan: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, ids: Int[Array, "b n"], mask: Bool[Array, "b n"] | Int[Array, "b n"]
    ) -> Float[Array, "b n width"]:
        """Encodes texts.

        Args:
          ids: token ids, padded on the right. An id outside the vocabulary gives NaN.
          mask: nonzero for tokens, zero for padding, which no token attends to.

        Returns:
          Embeddings, float32; zero at the padding, because Wan's cross-attention has no mask and
          was trained on zeros there.
        """
        normal, ones = nn.initializers.normal(1.0), nn.initializers.ones
        shape = (self.vocab_size, self.width)
        table = named_param(self, "token_embedding", normal, shape, ("vocab", "embed"))
        present = mask.astype(bool)
        x = jnp.take(table, ids, axis=0, mode="fill", fill_value=jnp.nan).astype(jnp.float32)
        rows = relative_buckets(
            ids.shape[1], ids.shape[1], buckets=self.buckets, max_distance=self.max_distance
        )
        stack = over_layers(_Layer, self.depth, remat="none", scan=self.scan)
        layers = stack(
            heads=self.heads,
            head_width=self.head_width,
            mlp_width=self.mlp_width,
            buckets=self.buckets,
            dtype=self.dtype,
            name="blocks",
        )
        x, _ = layers(x, None, (jnp.asarray(rows), present))
        x = rms_norm(x, named_param(self, "norm", ones, (self.width,), ("embed",)))
        return jnp.where(present[..., None], x, 0.0)
