"""Fitting a tiny decoder to the latents of a trained encoder."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxtyping import Array, PRNGKeyArray

from mirage_jax.nn.tiny_decoder import TinyDecoder, init_params
from mirage_jax.nn.video_vae import LatentStats, VideoVAE
from mirage_jax.training.task import Params, Task
from mirage_jax.training.vae_task import psnr, reconstruction_error
from mirage_jax.world.latent_encoder import LatentEncoder, to_model_range


@dataclasses.dataclass(frozen=True)
class TinyDecoderTask(Task):
    """Squared and absolute error of clips that the encoder coded and the tiny decoder decodes.

    Batches are `{"video": uint8 [B, T, H, W, 3]}`.

    Attributes:
      decoder: what is trained.
      vae: the encoder's module.
      frozen: its parameters "vae" and the statistics "stats" of its latents, see `of_encoder`.
      l1_weight: of the absolute error beside the squared one.
      first_frame_weight: how much more the first frame counts.
    """

    decoder: TinyDecoder
    vae: VideoVAE
    frozen: Any
    l1_weight: float = 0.05
    first_frame_weight: float = 1.0

    @staticmethod
    def of_encoder(decoder: TinyDecoder, encoder: LatentEncoder, **options: Any) -> TinyDecoderTask:
        """The task for the latents of an encoder; `options` are further attributes."""
        stats = {"mean": encoder.stats.mean, "std": encoder.stats.std}
        frozen = {"vae": encoder.params, "stats": stats}
        return TinyDecoderTask(decoder, encoder.vae, frozen, **options)

    def init(self, key: PRNGKeyArray) -> Params:
        return init_params(self.decoder, key)

    def loss(
        self,
        params: Params,
        batch: dict[str, Array],
        key: PRNGKeyArray,
        *,
        train: bool,
        frozen: Any = None,
        **_: Any,
    ) -> tuple[Array, dict[str, Array]]:
        video = to_model_range(batch["video"])
        encoder = LatentEncoder(frozen["vae"], LatentStats(**frozen["stats"]), self.vae)
        latents = encoder.encode(video)
        output: Any = self.decoder.apply({"params": params}, latents)
        error = reconstruction_error(
            output, video, l1_weight=self.l1_weight, first_frame_weight=self.first_frame_weight
        )
        return error, {"psnr": psnr(output, video)}
