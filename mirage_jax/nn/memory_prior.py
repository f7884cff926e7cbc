"""What the memory says about a latent before any network has looked: a Gaussian, by regression.

The read-out of a cell holds, in a form a linear map can undo, most of what the latent of that cell
will be. So the best linear guess and its expected error are computed once, in closed form
(`training.prior_fit`), and the diffusion transformer generates only what they leave open. It starts
from where a regression on the whole training set ends, and its weights go into what is not linear.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mirage_jax.nn.attention import named_param

FLOOR = 0.02
"""Least variance, as a share of the latents' own: a fit may promise more than it can hold."""


class MemoryPrior(nn.Module):
    """Mean and variance of a latent given its cell's memory context, both linear in the context.

    Attributes:
      inputs: channels of the memory context.
      data_std: standard deviation of every latent channel; a new prior has mean 0 and this spread.
    """

    inputs: int
    data_std: tuple[float, ...]

    @nn.compact
    def __call__(
        self, context: Float[Array, "*b m"] | None
    ) -> tuple[Float[Array, "*#b c"], Float[Array, "*#b c"]]:
        """Mean and standard deviation; of the latents at large where there is no context.

        Parameters are fitted, not trained: no gradient reaches them.
        """
        spread = jnp.asarray(self.data_std)
        zeros: Any = nn.initializers.zeros

        def affine(name: str, bias_init: Any) -> tuple[Array, Array]:
            shape = (self.inputs, spread.size)
            kernel = named_param(self, f"{name}_kernel", zeros, shape, (None, None))
            bias = named_param(self, f"{name}_bias", bias_init, shape[1:], (None,))
            return jax.lax.stop_gradient(kernel), jax.lax.stop_gradient(bias)

        mean_kernel, mean_bias = affine("mean", zeros)
        own = jnp.square(spread)
        variance_kernel, variance_bias = affine("variance", lambda *_: own)
        if context is None:
            return jnp.zeros_like(spread), spread
        variance = context @ variance_kernel + variance_bias
        return context @ mean_kernel + mean_bias, jnp.sqrt(jnp.clip(variance, FLOOR * own, own))
