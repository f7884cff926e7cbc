"""A Gaussian prior of each latent given the memory's read-out, by linear regression.

The read-out of a cell determines, through a linear map, most of the latent of that cell. So the
best linear estimate and its expected error are fitted once, in closed form (`training.prior_fit`),
and the diffusion transformer generates the residual: it starts where a regression on the whole
training set ends, and its weights serve what is not linear.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mirage_jax.nn.attention import named_param
from mirage_jax.nn.rows import aligned

FLOOR = 0.02
"""Least variance, as a share of the latents' own, since a fit underestimates its error."""


class MemoryPrior(nn.Module):
    """Mean and variance of a latent given its cell's memory context, both linear in the context.

    Attributes:
      inputs: channels of the memory context.
      data_std: standard deviation of every latent channel, that of a new prior; its mean is 0.
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
        std = jnp.asarray(self.data_std, jnp.float32)
        zeros: Any = nn.initializers.zeros

        def affine(name: str, bias_init: Any) -> tuple[Array, Array]:
            shape = (self.inputs, std.size)
            kernel = named_param(self, f"{name}_kernel", zeros, shape, (None, None))
            bias = named_param(self, f"{name}_bias", bias_init, shape[1:], (None,))
            return jax.lax.stop_gradient(kernel), jax.lax.stop_gradient(bias)

        mean_kernel, mean_bias = affine("mean", zeros)
        data_variance = jnp.square(std)
        variance_kernel, variance_bias = affine("variance", lambda *_: data_variance)
        if context is None:
            return jnp.zeros_like(std), std
        most = aligned(data_variance, context)
        variance = context @ variance_kernel + aligned(variance_bias, context)
        variance = jnp.clip(variance, FLOOR * most, most)
        return context @ mean_kernel + aligned(mean_bias, context), jnp.sqrt(variance)
