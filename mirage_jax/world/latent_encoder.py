"""The trained latent encoder as one object: autoencoder, parameters and latent statistics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, UInt8

from mirage_jax.nn.tiny_decoder import TinyDecoder, init_params
from mirage_jax.nn.vae_streaming import code_streamed
from mirage_jax.nn.vae_tiling import decode_tiled, encode_tiled
from mirage_jax.nn.video_vae import LatentStats, VideoVAE, denormalise, normalise
from mirage_jax.weights import export, from_fields, load_module, module_fields, stored_field


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
      tile: rows and columns of cells that are coded at once, half of them in the next tile too;
        () for whole pictures. Less memory, at the price of blended borders: `nn.vae_tiling`.
      tiny_params: of `tiny`.
      tiny: decoder that is used in place of that of `vae`, see `with_tiny_decoder`; None: `vae`'s.
      linear: whether the linear path alone decodes, see `with_linear_decoder`.
      streamed: whether clips are coded latent by latent, with the same result: `nn.vae_streaming`.
    """

    params: Any
    stats: LatentStats
    vae: VideoVAE = flax.struct.field(pytree_node=False)
    spread: tuple[float, ...] = flax.struct.field(pytree_node=False, default=())
    tile: tuple[int, ...] = flax.struct.field(pytree_node=False, default=())
    tiny_params: Any = None
    tiny: TinyDecoder | None = flax.struct.field(pytree_node=False, default=None)
    linear: bool = flax.struct.field(pytree_node=False, default=False)
    streamed: bool = flax.struct.field(pytree_node=False, default=False)

    def encode(self, video: Float[Array, "b t height width 3"]) -> Float[Array, "b l h w c"]:
        """Normalised latents (posterior means) of clips in [-1, 1] of 1 + 4 n frames."""

        def code(video: Array) -> Array:
            return self._code("encode", video)[0]

        latents = encode_tiled(code, video, **self._tiles()) if self.tile else code(video)
        return normalise(latents, self.stats)

    def encode_images(self, frames: Float[Array, "k height width 3"]) -> Float[Array, "k h w c"]:
        """Normalised image-mode latents: every frame encoded alone."""
        return self.encode(frames[:, None])[:, 0]

    def decode(self, latents: Float[Array, "b l h w c"]) -> Float[Array, "b t height width 3"]:
        """Frames, not clipped, of normalised latents."""
        if self.linear:
            return self.decode_linear(latents)
        if self.tiny is not None:
            video: Any = self.tiny.apply({"params": self.tiny_params}, latents)
            return video

        def code(latents: Array) -> Array:
            return self._code("decode", latents)

        latents = denormalise(latents, self.stats)
        return decode_tiled(code, latents, **self._tiles()) if self.tile else code(latents)

    def decode_patches(self, tokens: Float[Array | np.ndarray, "*n c"]) -> Float[Array, "*n s s 3"]:
        """The picture of each image-mode token by the linear path alone: one matrix product.

        Raises:
          ValueError: if the autoencoder has no linear path.
        """
        tokens = jnp.asarray(tokens, jnp.float32)
        pictures = self.decode_linear(tokens.reshape(-1, 1, 1, 1, tokens.shape[-1]))
        return pictures.reshape(*tokens.shape[:-1], *pictures.shape[2:])

    def decode_linear(
        self, latents: Float[Array, "b l h w c"]
    ) -> Float[Array, "b t height width 3"]:
        """Frames, not clipped, of normalised latents by the linear path alone: each patch of a
        latent by one matrix product.

        Raises:
          ValueError: if the autoencoder has no linear path.
        """
        self._check_linear_path()

        def linear(vae: VideoVAE, latents: Array) -> Array:
            return vae.linear_decoder(latents, True)

        latents = denormalise(latents, self.stats)
        video: Any = self.vae.apply({"params": self.params}, latents, method=linear)
        return video

    def encode_patches(
        self, video: Float[Array | np.ndarray, "b t height width 3"]
    ) -> Float[Array, "b l h w c"]:
        """Normalised latents of clips in [-1, 1] by the linear path alone.

        Raises:
          ValueError: if the autoencoder has no linear path.
        """
        self._check_linear_path()

        def linear(vae: VideoVAE, video: Array) -> Array:
            return vae.linear_encoder(video, True)

        params = {"params": self.params}
        latents: Any = self.vae.apply(params, jnp.asarray(video), method=linear)
        return normalise(latents, self.stats)

    def _check_linear_path(self) -> None:
        if not self.vae.linear_path:
            raise ValueError("vae.linear_path: found False, expected True to code single patches")

    def _code(self, method: str, x: Array) -> Any:
        """`VideoVAE.encode` or `decode`, at once or latent by latent."""
        params = {"params": self.params}
        if not self.streamed:
            return self.vae.apply(params, x, method=method)

        def code_chunk(part: Array, cache: Any) -> Any:
            return self.vae.apply(params, part, cache, method=f"{method}_chunk")

        frames = self.vae.temporal_stride if method == "encode" else 1
        return code_streamed(code_chunk, x, frames)

    def _tiles(self) -> dict[str, Any]:
        step = tuple(-(-cells // 2) for cells in self.tile)
        return {"spatial_stride": self.vae.spatial_stride, "tile": self.tile, "step": step}

    def with_tiny_decoder(self, path: Path) -> LatentEncoder:
        """The same encoder with the tiny decoder of an export; the vae's own is not used any more.

        Raises:
          FileNotFoundError, ValueError: if there is none, or it is for other latents.
        """
        params, tiny = load_tiny_decoder(path)
        for name in ("latent_channels", "spatial_stride", "temporal_stride"):
            found, expected = getattr(tiny, name), getattr(self.vae, name)
            if found != expected:
                raise ValueError(
                    f"{path}: {name}: found {found}, expected {expected} as the encoder has"
                )
        return self.replace(tiny=tiny, tiny_params=params)  # type: ignore[attr-defined]

    def with_linear_decoder(self) -> LatentEncoder:
        """The same encoder, decoding by its linear path alone: for a hundredth of the work, without
        what the network adds.

        Raises:
          ValueError: if the autoencoder has no linear path.
        """
        self._check_linear_path()
        return self.replace(linear=True)  # type: ignore[attr-defined]

    def encode_white(self, latents: int, size: tuple[int, int]) -> Float[Array, "l h w c"]:
        """Normalised latents of an all-white video that has so many of them.

        The "score" channels of Mirage's and Spatia's branches: the same for every video of a size,
        not the same in every cell or latent.
        """
        frames = 1 + (latents - 1) * self.vae.temporal_stride
        return self.encode(jnp.ones((1, frames, *size, 3), jnp.float32))[0]

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
        params, _, architecture = load_module(
            path, {"kind": "latent_encoder"}, "vae", VideoVAE, encoder_params
        )
        return LatentEncoder.of(path, params, architecture)

    @staticmethod
    def of(path: Path, params: Mapping[str, Any], architecture: Mapping[str, Any]) -> LatentEncoder:
        """From what an export at `path` holds."""
        vae = from_fields(path, architecture, "vae", VideoVAE)
        spread = stored_field(path, architecture, "spread", (list, tuple))
        return LatentEncoder(params["vae"], LatentStats(**params["stats"]), vae, tuple(spread))


def load_tiny_decoder(path: Path) -> tuple[dict[str, Any], TinyDecoder]:
    """Parameters and module of a tiny decoder from an export.

    Raises:
      FileNotFoundError, ValueError: if there is none, or what is there does not fit.
    """
    params, tiny, _ = load_module(
        path,
        {"kind": "tiny_decoder"},
        "tiny_decoder",
        TinyDecoder,
        lambda module: init_params(module, jax.random.key(0)),
    )
    return params, tiny


def encoder_params(vae: VideoVAE) -> dict[str, Any]:
    """Fresh parameters of `vae` and statistics of its latents, as exports hold them."""
    video = jnp.zeros((1, 5, *(2 * (vae.spatial_stride,)), 3), jnp.float32)
    stats = dict.fromkeys(("mean", "std"), jnp.zeros(vae.latent_channels, jnp.float32))
    return {"vae": vae.init(jax.random.key(0), video)["params"], "stats": stats}


def untrained(vae: VideoVAE) -> LatentEncoder:
    """An encoder all of zeros, to trace or to time programs where there are no weights."""
    shapes = jax.eval_shape(lambda: nn.unbox(encoder_params(vae)))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    return LatentEncoder(zeros["vae"], LatentStats(**zeros["stats"]), vae)
