"""Encoding recorded clips and prompts once, shared by the processes of a run."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict
from rich.console import Console
from rich.progress import track

from data_pipelines.card import read_card
from data_pipelines.loading import ClipSource
from data_pipelines.tolerance import check_share
from mirage_jax.cli.helpers import clip_sources, depth_network, prompts, training_data
from mirage_jax.cli.helpers.common import UserError
from mirage_jax.io.atomic import write_atomically
from mirage_jax.io.strict_json import read_object
from mirage_jax.io.text import TextEmbeddings, load_embeddings, save_embeddings
from mirage_jax.io.workdir import Workdir
from mirage_jax.parallel.processes import first_alone
from mirage_jax.training import latent_cache
from mirage_jax.training.captions import write_captions
from mirage_jax.training.latent_cache import LatentSource
from mirage_jax.training.latent_encoding import clips_id, refresh_cache
from mirage_jax.weights import fingerprint
from mirage_jax.world.latent_encoder import LatentEncoder


def encode_recordings(
    config: ConfigDict,
    workdir: Workdir,
    console: Console,
    memory: str,
    *,
    splits: tuple[str, ...] = (),
    file_clips: int = latent_cache.FILE_CLIPS,
) -> None:
    """Makes the latent caches of all recorded worlds that are not up to date; each process a share.

    Args:
      config: the experiment.
      workdir: with recorded clips and the encoder.
      console: where to print.
      memory: of the denoiser that is to be trained.
      splits: to encode; by default those that training by `config.loading.latents` reads, and what
        evaluation compares with, the held-out clips.
      file_clips: clips of a file at most.

    Raises:
      FileNotFoundError, ValueError: naming what is missing.
    """
    path = workdir.model("encoder")
    encoder, encoder_id = LatentEncoder.load(path), fingerprint(path)
    settings = training_data.cache_settings(config, memory)
    depth_of = depth_network.load(config)
    if not splits:
        splits = ("eval",) if training_data.from_video(config) else ("train", "eval")
    for world in workdir.recorded(config.worlds):
        for split, other in clip_sources.caches(config, memory, splits):
            refresh_cache(
                encoder,
                encoder_id,
                workdir.worlds(world),
                split,
                workdir.latents(world, split, rgb=settings.rgb, chunk_frames=other),
                dataclasses.replace(settings, chunk_frames=other) if other else settings,
                say=functools.partial(console.print, markup=False, soft_wrap=True),
                console=console,
                depth_of=depth_of,
                file_clips=file_clips,
                share=(jax.process_index(), jax.process_count()),
                skip_share=config.loading.skip_share,
            )
    first_alone(f"encoded {memory}", lambda: None)
    for world in workdir.recorded(config.worlds):
        for split, other in clip_sources.caches(config, memory, splits):
            cache = workdir.latents(world, split, rgb=settings.rgb, chunk_frames=other)
            _check_skipped(cache, config.loading.skip_share, console)


def _check_skipped(cache: Path, share: float, console: Console) -> None:
    """Says how many clips all processes together left out.

    Raises:
      ValueError: if they are more than the share.
    """
    skipped = latent_cache.skipped_clips(cache)
    total = len(LatentSource([cache])) + len(skipped)
    if skipped:
        text = f"{cache}: {len(skipped)} of {total} clips left out"
        console.print(text, markup=False, soft_wrap=True)
    check_share(skipped, total, share)


def encode_prompts(
    config: ConfigDict, out: Path, console: Console, tokenizer: Path, encoder: Path
) -> None:
    """Embeds the prompts of a config's worlds into one file, unless they are there already.

    Beside the file, `<name>.json` says of which text encoder they are.

    Args:
      config: with `text.prompts`.
      out: the file.
      console: where to print.
      tokenizer, encoder: UMT5's files.

    Raises:
      UserError: if a world has no prompt.
      FileNotFoundError, ValueError: naming the file that is missing or is something else.
    """
    missing = [world for world in config.worlds if world not in config.text.prompts]
    if missing:
        raise UserError(f"text.prompts: found none for {missing[0]!r}, expected one for each world")
    wanted = list(dict.fromkeys(config.text.prompts[world] for world in config.worlds))
    key = _text_key(tokenizer, encoder)
    note = out.with_suffix(".json")
    known = out.exists() and note.exists() and read_object(note) == key
    if known and set(wanted) <= set(load_embeddings(out).prompts):
        console.print(f"{out}: up to date", markup=False, soft_wrap=True)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    note.unlink(missing_ok=True)
    save_embeddings(out, prompts.embed_prompts(wanted, tokenizer, encoder))
    write_atomically(note, json.dumps(key, indent=1, sort_keys=True) + "\n")
    console.print(
        f"{out}: {len(wanted)} prompts; train with --config.text.embeddings={out}",
        markup=False,
        soft_wrap=True,
    )


def encode_captions(
    config: ConfigDict, workdir: Workdir, console: Console, tokenizer: Path, encoder: Path
) -> None:
    """Embeds the captions of all recorded clips, one file for each world and split.

    Args:
      config: the experiment.
      workdir: with recorded clips.
      console: where to print.
      tokenizer, encoder: UMT5's files.

    Raises:
      FileNotFoundError, ValueError: naming the file that is missing or is something else.
    """
    embed: Callable[[Sequence[str]], TextEmbeddings] | None = None
    for world in workdir.recorded(config.worlds):
        for split in read_card(workdir.worlds(world))["splits"]:
            path, clips = workdir.captions(world, split), workdir.worlds(world)
            key = {**_text_key(tokenizer, encoder), "clips": clips_id(clips, split)}
            if not latent_cache.stale(path, key):
                console.print(f"{path}: up to date", markup=False, soft_wrap=True)
                continue
            embed = embed or prompts.text_embedder(tokenizer, encoder)
            source = ClipSource(clips, split, (), optional=("caption",))
            numbers = track(range(len(source)), f"captions of {world} {split}", console=console)
            found, texts = write_captions(path, (_caption(source, n) for n in numbers), embed)
            latent_cache.write_key(path, key)
            console.print(
                f"{path}: {found} of {len(source)} clips have captions, {texts} different ones; "
                "train with --config.text.captions=true",
                markup=False,
                soft_wrap=True,
            )


def _caption(source: ClipSource, number: int) -> str | None:
    """Of a clip; None for one that cannot be read, which encoding has said."""
    try:
        return source[number]["caption"]
    except ValueError:
        return None


def _text_key(tokenizer: Path, encoder: Path) -> dict[str, Any]:
    return {"text_encoder": _identity(encoder), "tokenizer": _identity(tokenizer)}


def _identity(path: Path) -> list[list[str | int]]:
    """Names and sizes of a file, or of the files of a folder, and a CRC of places all over each."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    files = sorted(f for f in path.iterdir() if f.is_file()) if path.is_dir() else [path]
    return [[file.name, *latent_cache.file_identity(file).values()] for file in files]
