"""Prompts of a command: from a file of embeddings, or from a tokenizer and the text encoder."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import Float

from mirage_jax.cli.helpers.common import UserError
from mirage_jax.cli.helpers.flag_types import PathName
from mirage_jax.convert.networks import read_text_encoder
from mirage_jax.explore.starts import Prompts
from mirage_jax.io.text import TextEmbeddings, Tokenizer, load_embeddings, save_embeddings
from mirage_jax.world import WorldModel
from mirage_jax.world.prompting import Prompt, prompted, saved_prompt
from mirage_jax.world.world_file import read_world_file

TOKENIZER = flags.DEFINE(
    PathName(), "tokenizer", "", "UMT5's tokenizer.json or spiece.model, to embed prompts."
)
TEXT_ENCODER = flags.DEFINE(PathName(), "text_encoder", "", "UMT5's weights, to embed prompts.")


def with_prompt(
    model: WorldModel,
    *,
    prompt: str | None,
    negative_prompt: str,
    cfg_scale: float,
    text: str,
    tokenizer: str,
    text_encoder: str,
    save_text: str,
    world: str = "",
) -> WorldModel:
    """The model with its prompt; arguments are the flags of `mirage generate`. A saved `world` goes
    on with its own prompt, unless another is given.

    Raises:
      UserError: naming the flag that is missing, or that a model without text cannot use.
    """
    width, guided = model.denoiser.text_width, cfg_scale != 1.0
    if not width:
        named = {
            "prompt": prompt,
            "negative_prompt": negative_prompt,
            "cfg_scale": guided,
            "text": text,
            "tokenizer": tokenizer,
            "text_encoder": text_encoder,
            "save_text": save_text,
        }
        for name in filter(named.get, named):
            raise UserError(f"--{name}: found one, but this denoiser was trained without text")
        return model
    if prompt is None and (kept := _saved_in(world)):
        prompt, cfg_scale, guided = kept.text, kept.guidance, kept.guidance != 1
        negative_prompt = kept.negative_text if guided else ""
    if negative_prompt and not guided:
        raise UserError("--negative_prompt: found --cfg_scale=1 with it, expected another scale")
    if text and (tokenizer or text_encoder or save_text):
        raise UserError("--text: expected it alone, or --tokenizer and --text_encoder instead")
    if prompt is None:
        raise UserError("--prompt: found none, expected a text that says what is shown")
    wanted = list(dict.fromkeys([prompt, *([negative_prompt] if guided else [])]))
    if text:
        tokens = read_prompts(wanted, Path(text), width)
    elif tokenizer and text_encoder:
        made = embed_prompts(wanted, Path(tokenizer), Path(text_encoder))
        tokens = made.tokens
        if save_text:
            Path(save_text).parent.mkdir(parents=True, exist_ok=True)
            save_embeddings(save_text, made)
    else:
        raise UserError(
            "--prompt: give --text=EMBEDDINGS, or --tokenizer=FILE and --text_encoder=WEIGHTS"
        )
    if tokens.shape[-1] != width:
        raise UserError(
            f"--text_encoder: found {tokens.shape[-1]} channels, the denoiser expects {width}"
        )
    return model.replace(  # type: ignore[attr-defined]
        text=jnp.asarray(tokens[0]),
        negative_text=jnp.asarray(tokens[-1]) if guided else None,
        sampler=dataclasses.replace(model.sampler, cfg_scale=cfg_scale),
    )


def _saved_in(world: str) -> Prompt | None:
    """The prompt in a world's file, None without a file or one in it."""
    return saved_prompt(read_world_file(world).provenance) if world else None


@dataclasses.dataclass(frozen=True)
class Prompting:
    """The flags of `mirage explore` about texts, as those of `with_prompt`."""

    prompt: str | None = None
    negative_prompt: str = ""
    cfg_scale: float | int = 1.0
    text: str = ""
    tokenizer: str = ""
    text_encoder: str = ""

    def told(self, model: WorldModel, world: str = "") -> tuple[WorldModel, Prompts | None]:
        """The model with its prompt, and what else it can be told; None for one without text. A
        saved `world` goes on with its own prompt, unless another is given.

        Raises:
          UserError, ValueError, OSError: as of `with_prompt`.
        """
        if model.denoiser.text_width and self.prompt is None and (kept := _saved_in(world)):
            again = dataclasses.replace(self, prompt=kept.text, cfg_scale=kept.guidance)
            negative = kept.negative_text or self.negative_prompt
            return dataclasses.replace(again, negative_prompt=negative).told(model)
        prompt, known = self.prompt, tuple[str, ...]()
        if model.denoiser.text_width and self.text:
            known = load_embeddings(Path(self.text), model.denoiser.text_width).prompts
            prompt = known[0] if prompt is None and known else prompt
        given = dataclasses.asdict(self) | {"prompt": prompt}
        if model.denoiser.text_width and self.cfg_scale == 1:
            given["negative_prompt"] = ""  # until the page asks for guidance
        model = with_prompt(model, **given, save_text="")
        if not model.denoiser.text_width or prompt is None:
            return model, None
        prompts = Prompts(
            functools.lru_cache(64)(self._embedder(model.denoiser.text_width)),
            prompt,
            self.negative_prompt,
            self.cfg_scale,
            known,
        )
        return prompted(model, model.text, model.negative_text, self.cfg_scale), prompts

    def _embedder(self, width: int) -> Callable[[str], Float[np.ndarray, "n e"]]:
        if self.text:
            embeddings = load_embeddings(Path(self.text), width)
            return lambda text: embeddings.of([text])[0]
        embed = text_embedder(Path(self.tokenizer), Path(self.text_encoder))
        return lambda text: embed([text]).tokens[0]


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
    """Embeddings of prompts, each once; arguments and errors are those of `text_embedder`."""
    return text_embedder(tokenizer, encoder)(prompts)


def text_embedder(tokenizer: Path, encoder: Path) -> Callable[[Sequence[str]], TextEmbeddings]:
    """What embeds texts, in the precision that the encoder's weights are stored in.

    Args:
      tokenizer: UMT5's tokenizer.json or spiece.model.
      encoder: its weights, a safetensors file or folder, in Wan's or Hugging Face's naming, or an
        export of `mirage convert`.

    Raises:
      FileNotFoundError, ValueError: naming the file that is missing or is something else.
    """
    tokenize = Tokenizer(tokenizer)
    params, network = read_text_encoder(encoder)
    apply = jax.jit(network.apply)

    def embed(texts: Sequence[str]) -> TextEmbeddings:
        ids, mask = tokenize(texts)
        found: Any = apply({"params": params}, ids, mask)
        return TextEmbeddings(tuple(texts), np.asarray(found), mask.sum(axis=1, dtype=np.int32))

    return embed
