"""Text encoders and depth networks from files: as they were released, or exports of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from mirage_jax.convert.all_in_one import select
from mirage_jax.convert.depth_anything import depth_anything_fields, from_depth_anything
from mirage_jax.convert.placement import without_prefix
from mirage_jax.convert.recognition import DEPTH, TEXT
from mirage_jax.convert.tensor_files import open_tensors
from mirage_jax.convert.umt5 import from_umt5, umt5_fields
from mirage_jax.io.exports import stored_architecture
from mirage_jax.nn.depth_anything import DepthAnything
from mirage_jax.nn.dinov2 import PATCH
from mirage_jax.nn.text_encoder import TextEncoder
from mirage_jax.weights import load_module


def read_text_encoder(path: Path) -> tuple[dict[str, Any], TextEncoder]:
    """Parameters and module of a UMT5 encoder, which computes in the precision of its weights.

    Args:
      path: a file or folder in Wan's or Hugging Face's naming, or an export.

    Raises:
      FileNotFoundError, ValueError: naming the file that is missing or is something else.
    """
    if stored_architecture(path):
        params, network, _ = load_module(
            path, {"kind": TEXT}, TEXT, TextEncoder, _text_params, keep_float=True
        )
    else:
        files, _ = select(open_tensors(path), if_several="text_encoder")
        tensors = without_prefix(files.tensors)
        try:
            fields, params = umt5_fields(tensors), from_umt5(tensors)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        network = TextEncoder(**fields)
    dtype: Any = jnp.dtype(params["token_embedding"].dtype).type
    return params, network.clone(dtype=dtype)


def read_depth_anything(path: Path) -> tuple[dict[str, Any], DepthAnything]:
    """Parameters and module of Depth Anything V2 of a released size.

    Args:
      path: a file or folder in any of `depth_anything.NAMINGS`, or an export.

    Raises:
      FileNotFoundError, ValueError: naming the file that is missing or is something else.
    """
    if stored_architecture(path):
        params, network, _ = load_module(path, {"kind": DEPTH}, DEPTH, DepthAnything, _depth_params)
        return params, network
    tensors = open_tensors(path).tensors
    try:
        network = DepthAnything(**depth_anything_fields(tensors))
        return from_depth_anything(tensors, network), network
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _text_params(network: TextEncoder) -> Any:
    ids = jnp.zeros((1, 1), jnp.int32)
    return network.init(jax.random.key(0), ids, ids)["params"]


def _depth_params(network: DepthAnything) -> Any:
    return network.init(jax.random.key(0), jnp.zeros((1, PATCH, PATCH, 3)))["params"]
