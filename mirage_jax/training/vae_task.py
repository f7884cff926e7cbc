"""Training the latent encoder: reconstruction of clips, frame 0 as the image-mode latent it is."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, PRNGKeyArray

from mirage_jax.io.pictures import contact_sheet
from mirage_jax.nn.patch_pca import Weights, with_linear_path
from mirage_jax.nn.video_vae import VideoVAE, kl_divergence, sample_posterior
from mirage_jax.parallel import processes
from mirage_jax.training.task import Params, Samples, Task
from mirage_jax.world.latent_encoder import to_model_range, to_uint8


def reconstruction_error(
    output: Float[Array, "b t height width 3"],
    video: Float[Array, "b t height width 3"],
    *,
    l1_weight: float,
    first_frame_weight: float,
) -> Float[Array, ""]:
    """Mean squared error and a share of the absolute one.

    Args:
      output: decoded frames.
      video: true ones.
      l1_weight: of the absolute error.
      first_frame_weight: how much more the first frame counts.
    """
    weight = jnp.ones(video.shape[1], jnp.float32).at[0].set(first_frame_weight)
    weight = (weight / weight.sum())[None, :, None, None, None]
    per_frame = 1.0 / math.prod([video.shape[0], *video.shape[2:]])
    squared = jnp.square(output - video)
    error = (squared + l1_weight * jnp.abs(output - video)) * weight
    return error.sum() * per_frame


def psnr(output: Array, video: Array) -> Float[Array, ""]:
    """Peak signal-to-noise ratio of clipped frames in [-1, 1], dB."""
    # Values span 2, so a squared error in [-1, 1] is 4 times one in [0, 1].
    return -10.0 * jnp.log10(jnp.square(jnp.clip(output, -1, 1) - video).mean() / 4.0)


def with_noise(
    key: PRNGKeyArray, latents: Float[Array, "b t h w c"], most: float
) -> Float[Array, "b t h w c"]:
    """Latents with normal noise, a standard deviation for each clip from 0 to `most` of their
    root mean square."""
    share_key, noise_key = jax.random.split(key)
    share = jax.random.uniform(share_key, (len(latents), 1, 1, 1, 1), maxval=most)
    scale = jax.lax.stop_gradient(jnp.sqrt(jnp.square(latents).mean()))
    return latents + share * scale * jax.random.normal(noise_key, latents.shape)


@dataclasses.dataclass(frozen=True)
class VAETask(Task):
    """Squared and absolute error of the reconstruction, plus KL to a unit normal.

    Batches are `{"video": uint8 [B, T, H, W, 3]}`.

    Attributes:
      vae: the module.
      frames, size: of the training windows.
      linear_path: weights of the linear path (`patch_pca`), which stay as they are; None trains it.
      l1_weight: of the absolute error beside the squared one.
      kl_weight: of the KL divergence per latent value.
      latent_noise: largest standard deviation of noise on the latents that the decoder is trained
        on, in root-mean-square latents; drawn for each clip, uniform from 0. A decoder that knows
        uncertain latents draws those of a denoiser without the borders of their cells.
      first_frame_weight: how much more the first frame counts. It alone trains the image-mode
        latents that the memory stores.
      sheet_video: uint8 [N, T, H, W, 3] shown in sample sheets.
    """

    vae: VideoVAE
    frames: int
    size: int
    linear_path: Weights | None = None
    l1_weight: float = 0.05
    kl_weight: float = 1e-4
    latent_noise: float = 0.0
    first_frame_weight: float = 4.0
    sheet_video: np.ndarray | None = None

    def init(self, key: PRNGKeyArray) -> Params:
        video = jnp.zeros((1, self.frames, self.size, self.size, 3), jnp.float32)
        params = self.vae.init(key, video)["params"]
        return params if self.linear_path is None else with_linear_path(params, self.linear_path)

    def loss(
        self, params: Params, batch: dict[str, Any], key: PRNGKeyArray, *, train: bool, **_: Any
    ) -> tuple[Array, dict[str, Array]]:
        video = to_model_range(batch["video"])
        if self.linear_path is not None:
            # It is the best linear code already, and Adam would spend its steps on shaking it.
            params = {
                name: jax.lax.stop_gradient(leaves) if name in self.linear_path else leaves
                for name, leaves in params.items()
            }
        posterior: Any = self.vae.apply({"params": params}, video, method="encode")
        mean, logvar = posterior
        latents = mean
        if train:
            latents = sample_posterior(key, mean, logvar)
            if self.latent_noise:
                latents = with_noise(jax.random.fold_in(key, 1), latents, self.latent_noise)
        output: Any = self.vae.apply({"params": params}, latents, method="decode")
        error = reconstruction_error(
            output, video, l1_weight=self.l1_weight, first_frame_weight=self.first_frame_weight
        )
        kl = kl_divergence(mean, logvar).mean()
        return error + self.kl_weight * kl, {"psnr": psnr(output, video), "kl": kl}

    def samples(self, params: Params, step: int) -> Samples | None:
        """True frames above their reconstructions."""
        if self.sheet_video is None:
            return None
        video = to_model_range(jnp.asarray(self.sheet_video))
        output = to_uint8(processes.fetch(_reconstruct(self.vae, nn.unbox(params), video)))
        rows: dict[str, np.ndarray] = {}
        for number, (true, decoded) in enumerate(zip(self.sheet_video, output, strict=True), 1):
            rows |= {f"clip {number}": true, f"clip {number}, decoded": decoded}
        return Samples(contact_sheet(rows))


@functools.partial(jax.jit, static_argnames="vae")
def _reconstruct(vae: VideoVAE, params: Params, video: Array) -> Array:
    output: Any = vae.apply({"params": params}, video)
    return output
