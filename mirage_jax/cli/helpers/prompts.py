"""Embedded prompts for a command: from a file, or from a tokenizer and the text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from mirage_jax.convert.tensor_files import open_tensors
from mirage_jax.convert.umt5 import from_umt5, umt5_fields
from mirage_jax.io.text import TextEmbeddings, Tokenizer, load_embeddings
from mirage_jax.nn.text_encoder import TextEncoder


def read_prompts(prompts: Sequence[str], path: Path, width: int) -> Float[np.ndarray, "p n width"]:
    """Embeddings of prompts from a file of them.

    Raises:
      FileNotFoundError, ValueError: naming the file, if it is none, is of another width than the
        denoiser's, or lacks a prompt.
    """
    embeddings = load_embeddings(path, width)
    try:
        return embeddings.of(prompts)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def embed_prompts(prompts: Sequence[str], tokenizer: Path, encoder: Path) -> TextEmbeddings:
    """Embeddings of prompts, computed in the precision that the encoder's weights are stored in.

    Args:
      prompts: texts, each once.
      tokenizer: UMT5's tokenizer.json or spiece.model.
      encoder: its weights, a safetensors file or folder, in Wan's or Hugging Face's naming.

    Raises:
      FileNotFoundError, ValueError: naming the file that is missing or is something else.
    """
    ids, mask = Tokenizer(tokenizer)(prompts)
    tensors = open_tensors(encoder).tensors
    try:
        fields, params = umt5_fields(tensors), from_umt5(tensors)
    except ValueError as error:
        raise ValueError(f"{encoder}: {error}") from error
    dtype: Any = jnp.dtype(params["token_embedding"].dtype).type
    network = TextEncoder(**fields, dtype=dtype)
    found: Any = jax.jit(network.apply)({"params": params}, ids, mask)
    lengths = mask.sum(axis=1, dtype=np.int32)
    return TextEmbeddings(tuple(prompts), np.asarray(found), lengths)
