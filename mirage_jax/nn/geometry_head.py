"""Geometry straight from latents: depth, movers and sky for the memory, without decoding.

From the latents of a clip a few convolutions predict, for the last frame that each latent covers,
the depth of every cell with its error, movers, sky, and the latent that this frame would have if it
were encoded alone (its *image-mode* latent: latents of clips carry the motion of their frames,
which is wrong to store at a place). Wan-style pipelines decode, run a depth network and a
segmenter, and encode each frame again instead (arXiv 2606.09828, section 3).
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mirage_jax.nn.layers import Conv2d, RMSNorm

# 7 mm to 3 km; keeps depth finite whatever the network predicts.
_LOG_DEPTH_RANGE = (-5.0, 8.0)


@flax.struct.dataclass
class Geometry:
    """Predictions per latent, on `cells_up` times the grid of latent cells.

    Attributes:
      log_depth: logarithm of z-depth in metres.
      log_scale: logarithm of the expected absolute error of `log_depth`.
      mover_logit: positive where the cell shows something that moves by itself.
      sky_logit: positive where nothing is near enough to have a depth.
      image_tokens: image-mode latent of the last frame covered, on the grid of latent cells.
    """

    log_depth: Float[Array, "b t gh gw"]
    log_scale: Float[Array, "b t gh gw"]
    mover_logit: Float[Array, "b t mh mw"]
    sky_logit: Float[Array, "b t gh gw"]
    image_tokens: Float[Array, "b t h w c"]

    @property
    def depth(self) -> Float[Array, "b t gh gw"]:
        """Z-depth in metres, positive and finite, also where `sky_logit` is positive."""
        return jnp.exp(jnp.clip(self.log_depth, *_LOG_DEPTH_RANGE))

    @property
    def confidence(self) -> Float[Array, "b t gh gw"]:
        """exp(-expected relative error of depth), in (0, 1]."""
        return jnp.exp(-jnp.exp(jnp.minimum(self.log_scale, 10.0)))


class CellMLP(nn.Module):
    """Of every cell, beside the means over its column and over its frame; a new one gives zeros.

    Attributes:
      hidden: channels.
      dtype: of the products.
    """

    hidden: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t h w d"]) -> Float[Array, "b t h w d"]:
        """What is to be added to `x`."""
        width = x.shape[-1]
        x = RMSNorm(name="norm")(x)
        column, frame = x.mean(axis=-3, keepdims=True), x.mean(axis=(-3, -2), keepdims=True)

        # Three products that are added: what is the same for many cells is multiplied once.
        def product(part: Array, name: str) -> Array:
            bias = name == "cell"
            return Conv2d(self.hidden, 1, use_bias=bias, dtype=self.dtype, name=name)(part)

        hidden = product(x, "cell") + product(column, "column") + product(frame, "frame")
        zeros = nn.initializers.zeros_init()
        out = Conv2d(width, 1, dtype=self.dtype, kernel_init=zeros, name="out")
        return out(nn.silu(hidden))


class GeometryHead(nn.Module):
    """2-D convolutions over each latent and the one before it.

    Attributes:
      width: channels.
      layers: residual convolutions.
      mlp_ratio: hidden channels, as a multiple of `width`, of a residual MLP after each of them. It
        sees a cell beside the means over its column, where floor, wall and ceiling meet, and over
        the frame; 0 = none.
      cells_up: finer grid of the predicted maps, 1 or 2 per latent cell along each axis.
      movers_up: grid of the mover logits, where that is to be finer than the other maps': so many
        per latent cell along each axis, e.g. the encoder's stride for pixels; 0 = as `cells_up`.
      cell_hidden: hidden channels of an MLP, of which mover logits and image tokens are products,
        that sees a cell's latents as they are beside the features of the convolutions; 0 = they are
        products of these features, as the other maps are.
      initial_depth: metres that a new head predicts everywhere.
      dtype: of the convolutions.
    """

    width: int = 48
    layers: int = 2
    mlp_ratio: int = 0
    cells_up: int = 1
    movers_up: int = 0
    cell_hidden: int = 0
    initial_depth: float = 3.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, latents: Float[Array, "b t h w c"], is_image: Bool[Array, "b t"]
    ) -> Geometry:
        """Predicts geometry.

        Args:
          latents: normalised.
          is_image: marks latents that cover one frame alone: the first of a clip, or any that was
            encoded singly. They do not see the latent before; their image token is the latent.
        """
        b, t, h, w, c = latents.shape
        latents = latents.astype(jnp.float32)
        image = is_image[:, :, None, None, None]
        before = jnp.pad(latents[:, :-1], ((0, 0), (1, 0), (0, 0), (0, 0), (0, 0)))
        before = jnp.where(image, 0.0, before)
        flag = jnp.broadcast_to(image, (b, t, h, w, 1)).astype(jnp.float32)
        x = jnp.concatenate([latents, before, flag], axis=-1)
        x = Conv2d(self.width, dtype=self.dtype, name="conv_in")(x)
        for i in range(self.layers):
            y = nn.silu(RMSNorm(name=f"norm_{i}")(x))
            x = x + Conv2d(self.width, dtype=self.dtype, name=f"conv_{i}")(y)
            if self.mlp_ratio:
                hidden = self.mlp_ratio * self.width
                x = x + CellMLP(hidden, dtype=self.dtype, name=f"mlp_{i}")(x)
        x = nn.silu(RMSNorm(name="norm_out")(x))
        zeros = nn.initializers.zeros_init()
        up = self.cells_up
        maps = Conv2d(4 * up**2, 1, dtype=self.dtype, kernel_init=zeros, name="maps")(x)
        maps = _unfold(maps, up)
        mover_logit = maps[..., 2]
        y = x
        if self.cell_hidden:
            y = jnp.concatenate([latents, before, x], axis=-1)
            y = nn.silu(Conv2d(self.cell_hidden, 1, dtype=self.dtype, name="cells")(y))
        if self.movers_up or self.cell_hidden:
            fine = self.movers_up or up
            movers = Conv2d(fine**2, 1, dtype=self.dtype, kernel_init=zeros, name="movers")(y)
            mover_logit = _unfold(movers, fine)[..., 0]
        change = Conv2d(c, 1, dtype=self.dtype, kernel_init=zeros, name="tokens")(y)
        return Geometry(
            log_depth=maps[..., 0] + jnp.log(jnp.float32(self.initial_depth)),
            log_scale=maps[..., 1],
            mover_logit=mover_logit,
            sky_logit=maps[..., 3],
            image_tokens=latents + jnp.where(image, 0.0, change),
        )


def _unfold(maps: Float[Array, "b t h w m"], up: int) -> Float[Array, "b t gh gw c"]:
    """Channels to a grid `up` times as fine: sub-cell (y, x) of (i, j) at (up i + y, up j + x)."""
    b, t, h, w, channels = maps.shape
    maps = maps.reshape(b, t, h, w, up, up, channels // up**2).transpose(0, 1, 2, 4, 3, 5, 6)
    return maps.reshape(b, t, h * up, w * up, channels // up**2)


def masked_mean(values: Float[Array, "*shape"], mask: Any = None) -> Float[Array, ""]:
    """Mean of `values` weighted by `mask` (broadcast; None: all), 0 where the mask is empty."""
    if mask is None:
        return jnp.mean(values)
    weight = jnp.broadcast_to(jnp.asarray(mask, jnp.float32), values.shape)
    # where, not a product: values outside of the mask may be infinite or NaN.
    total = jnp.sum(jnp.where(weight > 0, values * weight, 0.0))
    return total / jnp.maximum(jnp.sum(weight), 1e-6)


def known_depth(depth: Float[Array, "*shape"]) -> Bool[Array, "*shape"]:
    """Where a true depth is known and finite: not 0, negative, NaN, or infinite (sky)."""
    return jnp.isfinite(depth) & (depth > 0)


def depth_loss(
    log_depth: Float[Array, "*shape"],
    log_scale: Float[Array, "*shape"],
    depth: Float[Array, "*shape"],
    mask: Any = None,
) -> Float[Array, ""]:
    """Negative log-likelihood of true depth, Laplace in log-depth with the predicted scale.

    Cells of unknown depth, and those where `mask` is 0, do not count.
    Source: Kendall & Gal 2017 (arXiv 1703.04977), section 3.
    """
    known = known_depth(depth)
    target = jnp.log(jnp.where(known, depth, 1.0))
    # A floor of 1 % error: without it one exact prediction could outweigh a whole batch.
    log_scale = jnp.maximum(log_scale, jnp.log(jnp.float32(0.01)))
    loss = jnp.abs(target - log_depth) * jnp.exp(-log_scale) + log_scale + jnp.log(jnp.float32(2.0))
    return masked_mean(loss, _weight(known, mask))


def logit_loss(
    logit: Float[Array, "*shape"], target: Any, mask: Any = None, *, weight: float = 1.0
) -> Float[Array, ""]:
    """Binary cross-entropy of a mover or sky logit, in nats; `target` in [0, 1].

    With a `weight` of w what is there counts w times as much as what is not, so that a logit is
    positive from a probability of 1 / (1 + w) on: of what is rare little is missed.
    """
    target = jnp.asarray(target, jnp.float32)
    loss = jax.nn.softplus(logit) - logit * target
    if weight != 1.0:
        loss = loss + (weight - 1.0) * target * jax.nn.softplus(-logit)
    return masked_mean(loss, mask)


def token_loss(
    tokens: Float[Array, "b t h w c"], target: Float[Array, "b t h w c"], mask: Any = None
) -> Float[Array, ""]:
    """Mean squared error of predicted image-mode latents; `mask` over [b, t, h, w]."""
    return masked_mean(jnp.mean(jnp.square(tokens - target), axis=-1), mask)


def abs_rel(
    depth: Float[Array, "*shape"], target: Float[Array, "*shape"], mask: Any = None
) -> Float[Array, ""]:
    """Mean of |depth - target| / target over cells of known depth."""
    known = known_depth(target)
    safe = jnp.where(known, target, 1.0)
    return masked_mean(jnp.abs(depth - safe) / safe, _weight(known, mask))


def _weight(known: Array, mask: Any) -> Array:
    return known if mask is None else known * jnp.asarray(mask, jnp.float32)
