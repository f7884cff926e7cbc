"""The trained latent encoder as one object: autoencoder, parameters and latent statistics."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from mirage_jax.nn.video_vae import LatentStats, VideoVAE, denormalise, normalise
from mirage_jax.training.export import export, load_export


def to_model_range(video: Any) -> Float[Array, "*shape"]:
    """uint8 pictures to [-1, 1]."""
    return jnp.asarray(video).astype(jnp.float32) / 127.5 - 1.0


def to_uint8(video: Any) -> UInt8[np.ndarray, "*shape"]:
    """Pictures in [-1, 1], clipped, to uint8."""
    return np.clip(np.round((np.asarray(video) + 1.0) * 127.5), 0, 255).astype(np.uint8)


@flax.struct.dataclass
class LatentEncoder:
    """Pictures to normalised latents and back; a pytree, so it can be an argument of a jitted step.

    Attributes:
      params: of `vae`.
      stats: what latents are normalised with.
      vae: the module.
      spread: standard deviation of every channel of normalised latents, as measured on clips; the
        denoiser's `data_std`.
    """

    params: Any
    stats: LatentStats
    vae: VideoVAE = flax.struct.field(pytree_node=False)
    spread: tuple[float, ...] = flax.struct.field(pytree_node=False, default=())

    def encode(self, video: Float[Array, "b t height width 3"]) -> Float[Array, "b l h w c"]:
        """Normalised latents (posterior means) of clips in [-1, 1] of 1 + 4 n frames."""
        posterior: Any = self.vae.apply({"params": self.params}, video, method="encode")
        return normalise(posterior[0], self.stats)

    def encode_images(self, frames: Float[Array, "k height width 3"]) -> Float[Array, "k h w c"]:
        """Normalised image-mode latents: every frame encoded alone."""
        return self.encode(frames[:, None])[:, 0]

    def decode(self, latents: Float[Array, "b l h w c"]) -> Float[Array, "b t height width 3"]:
        """Frames, not clipped, of normalised latents."""
        latents = denormalise(latents, self.stats)
        video: Any = self.vae.apply({"params": self.params}, latents, method="decode")
        return video

    def architecture(self) -> dict[str, Any]:
        """What `load` needs to build the module again."""
        return {
            "kind": "latent_encoder",
            "vae": module_fields(self.vae),
            "spread": list(self.spread),
        }

    def save(self, path: Path) -> None:
        """Writes an export that `load` reads."""
        stats = {"mean": self.stats.mean, "std": self.stats.std}
        export(path, {"vae": self.params, "stats": stats}, self.architecture())

    @staticmethod
    def load(path: Path) -> LatentEncoder:
        """Reads what `save` wrote; ValueError names what does not fit."""
        params, architecture = load_export(path, expected_architecture={"kind": "latent_encoder"})
        vae = VideoVAE(**as_fields(architecture["vae"]))
        abstract = jax.eval_shape(
            lambda: vae.init(jax.random.key(0), jnp.zeros((1, 5, *(2 * (vae.spatial_stride,)), 3)))
        )["params"]
        channels = jax.ShapeDtypeStruct((vae.latent_channels,), jnp.float32)
        load_export(path, {"vae": abstract, "stats": {"mean": channels, "std": channels}})
        return LatentEncoder(
            params["vae"], LatentStats(**params["stats"]), vae, tuple(architecture["spread"])
        )


def module_fields(module: Any) -> dict[str, Any]:
    """The plain fields of a Linen module, for an export's architecture; a dtype by its name."""
    skipped = ("parent", "name")
    fields = {
        f.name: getattr(module, f.name) for f in dataclasses.fields(module) if f.name not in skipped
    }
    return {k: jnp.dtype(v).name if k == "dtype" else v for k, v in fields.items()}


def as_fields(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """Module fields as JSON gives them back: lists made tuples again, a dtype's name a type.

    Raises:
      ValueError: if the dtype has no name that is known.
    """
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in architecture.items()}
    if "dtype" in fields:
        try:
            # The scalar type, as modules have it by default: equal modules compare and hash alike.
            fields["dtype"] = jnp.dtype(fields["dtype"]).type
        except TypeError as error:
            raise ValueError(
                f"dtype: found {fields['dtype']!r}, expected a name such as 'bfloat16'"
            ) from error
    return fields
