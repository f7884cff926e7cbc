"""Released checkpoints read in memory: diffusers' layout, or a transformer and a VAE in one folder.

`mirage convert` makes folders of the same parts, once and in constant memory; see
:mod:`mirage_jax.convert.incoming` for what is understood.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from mirage_jax.convert.incoming import import_checkpoint
from mirage_jax.convert.options import ImportOptions
from mirage_jax.convert.tensor_files import Pieces, Specs
from mirage_jax.nn.denoiser import Denoiser
from mirage_jax.weights import as_fields, unflatten
from mirage_jax.world.latent_encoder import LatentEncoder
from mirage_jax.world.parts import Parts

_LOG = logging.getLogger(__name__)
_TRANSFORMER, _VAE = "transformer", "vae"


def read_released(path: Path, model: str = "") -> Parts:
    """The denoiser and the encoder of a released checkpoint.

    Args:
      path: a folder with `vae` in it, and the transformer in `transformer` or beside it; what lies
        directly in the folder (a control branch, a low-rank adapter) is merged.
      model: key of `convert.presets.DENOISERS`, for sizes that the tensors do not tell.

    Raises:
      FileNotFoundError, ValueError: naming the folder or file, and what is missing or not
        understood.
    """
    if not (path / _VAE).is_dir():
        raise FileNotFoundError(
            f"{path}: found no folder {_VAE!r} in it, expected a video VAE's safetensors there, "
            "beside the diffusion transformer"
        )
    beside: list[Path] = sorted(path.glob("[!.]*.safetensors"))
    if (path / _TRANSFORMER).is_dir():
        sources = [path / _TRANSFORMER, *beside]
    elif beside:
        sources = [path]
    else:
        raise FileNotFoundError(
            f"{path}: found no folder {_TRANSFORMER!r} and no *.safetensors in it, expected the "
            "diffusion transformer's weights"
        )
    params, architecture = _read(sources, model)
    if architecture["kind"] != "denoiser":
        raise ValueError(
            f"{path}: found a {architecture['kind']}, expected a whole diffusion transformer"
        )
    encoder_params, encoder = _read([path / _VAE], "")
    return Parts(
        path,
        LatentEncoder.of(path / _VAE, encoder_params, encoder),
        Denoiser(**as_fields(architecture["denoiser"])),
        params,
        architecture,
    )


def _read(sources: Sequence[Path], model: str) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Parameters and architecture of what an export would hold."""
    found: list[tuple[dict[str, Any], Mapping[str, Any]]] = []

    def collect(_: Path, specs: Specs, pieces: Pieces, architecture: Mapping[str, Any]) -> None:
        params = {}
        for name, (dtype, shape) in specs.items():
            values = np.concatenate([np.asarray(part, dtype).reshape(-1) for part in pieces(name)])
            params[name] = jnp.asarray(values.reshape(shape))
        found.append((unflatten(params), architecture))

    options = ImportOptions(model=model)
    import_checkpoint(sources, "", options=options, report=_LOG.warning, save=collect)
    return found[0]
