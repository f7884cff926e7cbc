"""The trained latent encoder as one object: autoencoder, parameters and latent statistics."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, UInt8

from mirage_jax.nn.vae_streaming import code_streamed
from mirage_jax.nn.vae_tiling import decode_tiled, encode_tiled
from mirage_jax.nn.video_vae import LatentStats, VideoVAE, denormalise, normalise
from mirage_jax.weights import compare_tensors, export, flatten, load_export

T = TypeVar("T")


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
      streamed: whether clips are coded latent by latent, with the same result: `nn.vae_streaming`.
    """

    params: Any
    stats: LatentStats
    vae: VideoVAE = flax.struct.field(pytree_node=False)
    spread: tuple[float, ...] = flax.struct.field(pytree_node=False, default=())
    tile: tuple[int, ...] = flax.struct.field(pytree_node=False, default=())
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

        def code(latents: Array) -> Array:
            return self._code("decode", latents)

        latents = denormalise(latents, self.stats)
        return decode_tiled(code, latents, **self._tiles()) if self.tile else code(latents)

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

    def encode_white(self, latents: int, size: tuple[int, int]) -> Float[Array, "l h w c"]:
        """Normalised latents of an all-white video that has so many of them.

        The "score" channels of Mirage's and Spatia's branches: the same for every video of a size,
        not the same in every cell or latent.
        """
        frames = 1 + (latents - 1) * self.vae.temporal_stride
        return self.encode(jnp.ones((1, frames, *size, 3)))[0]

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
        params, vae, architecture = load_module(
            path, {"kind": "latent_encoder"}, "vae", VideoVAE, _encoder_params
        )
        spread = stored_field(path, architecture, "spread", list)
        return LatentEncoder(params["vae"], LatentStats(**params["stats"]), vae, tuple(spread))


def _encoder_params(vae: VideoVAE) -> dict[str, Any]:
    video = jnp.zeros((1, 5, *(2 * (vae.spatial_stride,)), 3))
    stats = dict.fromkeys(("mean", "std"), jnp.zeros(vae.latent_channels))
    return {"vae": vae.init(jax.random.key(0), video)["params"], "stats": stats}


def load_module(
    path: Path,
    expected: Mapping[str, Any],
    field: str,
    module_class: type[T],
    init: Callable[[T], Any],
    *,
    any_float: bool = False,
) -> tuple[dict[str, Any], T, dict[str, Any]]:
    """Reads an export and rebuilds the module that its parameters belong to.

    Args:
      path: folder of the export.
      expected: fields that its architecture must agree with.
      field: where in the architecture the module's own fields are.
      module_class: the module to build.
      init: from the module to everything the export should hold; only shapes are computed.
      any_float: accept parameters of another floating-point type than the module starts with.

    Returns:
      Parameters, module and architecture.

    Raises:
      FileNotFoundError: if there is no export.
      ValueError: naming the file and the field or tensor that does not fit.
    """
    params, architecture = load_export(path, expected_architecture=expected)
    module = from_fields(path, architecture, field, module_class)
    try:
        abstract = jax.eval_shape(lambda: init(module))
    except (TypeError, ValueError, KeyError, ArithmeticError) as error:
        raise ValueError(
            f"{path}: field {field}: found what makes no {module_class.__name__} ({error})"
        ) from error
    found, wanted = flatten(params), flatten(nn.unbox(abstract))
    if any_float:
        wanted = {name: _in_float_of(found.get(name), leaf) for name, leaf in wanted.items()}
    compare_tensors(str(path), found, wanted)
    return params, module, architecture


def _in_float_of(found: Any, wanted: Any) -> Any:
    floats = found is not None and all(
        jnp.issubdtype(x.dtype, jnp.floating) for x in (found, wanted)
    )
    return jax.ShapeDtypeStruct(wanted.shape, found.dtype) if floats else wanted


def from_fields(path: Path, architecture: Mapping[str, Any], field: str, kind: type[T]) -> T:
    """A module, or any dataclass, from the fields that an architecture stores under `field`.

    Raises:
      ValueError: naming the file and the field that is missing, unknown or of another type.
    """
    stored = stored_field(path, architecture, field, dict)
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init}  # type: ignore[arg-type]
    for name in sorted(stored.keys() - fields.keys()):
        raise ValueError(
            f"{path}: field {field}.{name}: found {stored[name]!r}, but a {kind.__name__} has no "
            "such field; the export may be of another version"
        )
    for name, f in fields.items():
        if name not in stored and f.default is f.default_factory is dataclasses.MISSING:
            raise ValueError(f"{path}: field {field}.{name}: found nothing, expected a value")
    try:
        return kind(**as_fields(stored))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: field {field}: {error}") from error


def stored_field(
    path: Path, architecture: Mapping[str, Any], name: str, kind: type | tuple[type, ...]
) -> Any:
    """A field of an export's architecture.

    Raises:
      ValueError: naming the file and the field, if it is missing or of another type.
    """
    kinds = kind if isinstance(kind, tuple) else (kind,)
    found = architecture.get(name)
    if not isinstance(found, kinds) or isinstance(found, bool):
        expected = " or ".join(k.__name__ for k in kinds)
        raise ValueError(f"{path}: field {name}: found {found!r}, expected {expected}")
    return found


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
