"""Encoding recorded clips and prompts once, shared by the processes of a run."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict
from rich.console import Console
from rich.progress import track

from data_pipelines.card import read_card
from data_pipelines.loading import ClipSource
from data_pipelines.tolerance import check_share
from mirage_jax.cli.helpers import clip_sources, depth_network, prompts, training_data, world_names
from mirage_jax.cli.helpers.held_out_sets import with_held_out
from mirage_jax.io.atomic import write_atomically
from mirage_jax.io.file_identity import file_identity
from mirage_jax.io.lock import locked
from mirage_jax.io.outputs import check_file, json_kind
from mirage_jax.io.process_memory import peak_mib
from mirage_jax.io.strict_json import read_object
from mirage_jax.io.text import EMBEDDINGS, load_embeddings, save_embeddings
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
        evaluation compares with, the held-out clips, where there are any.
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
    # The head is trained on all, the denoiser on fewer, it alone in chunks of other lengths.
    denoised = world_names.to_train(config, workdir, "denoiser", memory)
    worlds = denoised if settings.rgb else workdir.recorded(config.worlds)
    scored = with_held_out(workdir, worlds)
    caches = [
        (world, split, other)
        for world in worlds
        for split, other in clip_sources.caches(config, memory, splits)
        if (split != "eval" or world in scored) and (not other or world in denoised)
    ]
    for world, split, other in caches:
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
    for world, split, other in caches:
        cache = workdir.latents(world, split, rgb=settings.rgb, chunk_frames=other)
        _check_skipped(cache, config.loading.skip_share, console)
    console.print(f"this process had at most {peak_mib():,} MiB of memory", highlight=False)


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


_NOTE = json_kind("record of embedded prompts", ["text_encoder", "tokenizer"])


@dataclasses.dataclass(frozen=True)
class PromptFiles:
    """The files that embedding the prompts of a config's worlds reads and writes.

    Attributes:
      out: the file of embeddings; `<name>.json` beside it says of which text encoder they are.
      tokenizer, encoder: UMT5's files.
    """

    out: Path
    tokenizer: Path
    encoder: Path

    @property
    def note(self) -> Path:
        return self.out.with_suffix(".json")

    def check(self, config: ConfigDict) -> None:
        """Checks all that can be known before anything is read.

        Raises:
          UserError: if a world has no prompt.
          FileNotFoundError: naming the flag and the file that is missing.
          ValueError: naming what would be lost, or cannot be written.
        """
        named = {"--tokenizer": self.tokenizer, "--text_encoder": self.encoder}
        for flag, path in named.items():
            if not path.exists():
                raise FileNotFoundError(f"{flag}: {path}: no such file or folder")
        where = f"--prompts_to {self.out}"
        reads = {f"{flag} ({file})": file for flag, path in named.items() for file in _files(path)}
        check_file(where, self.out, EMBEDDINGS, reads=reads, suffixes=(".safetensors",))
        check_file(where, self.note, _NOTE, reads=reads)
        world_names.prompts(config)

    def encode(self, config: ConfigDict, console: Console) -> None:
        """Embeds the prompts into one file, unless they are there already.

        Args:
          config: with `text.prompts`.
          console: where to print.

        Raises:
          UserError: if a world has no prompt.
          FileNotFoundError, ValueError: naming the file that is missing or is something else.
          LockedError: if another process is at it.
        """
        wanted, out = list(dict.fromkeys(world_names.prompts(config).values())), self.out
        with locked(out.with_suffix(".lock"), "embedding prompts"):
            made = self._encode(wanted)
        use = f"{made} prompts; train with --config.text.embeddings={out}"
        said = use if made else "up to date"
        console.print(f"{out}: {said}", markup=False, soft_wrap=True)

    def _encode(self, wanted: list[str]) -> int:
        """Embeds prompts; gives how many, 0 where all are there."""
        key = _text_key(self.tokenizer, self.encoder)
        known = self.out.exists() and self.note.exists() and read_object(self.note) == key
        if known and set(wanted) <= set(load_embeddings(self.out).prompts):
            return 0
        made = prompts.embed_prompts(wanted, self.tokenizer, self.encoder)
        self.note.unlink(missing_ok=True)  # until it is true of what is there
        save_embeddings(self.out, made)
        write_atomically(self.note, json.dumps(key, indent=1, sort_keys=True) + "\n")
        return len(wanted)


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]


def encode_captions(
    config: ConfigDict,
    workdir: Workdir,
    console: Console,
    tokenizer: Path,
    encoder: Path,
    *,
    file_clips: int = latent_cache.FILE_CLIPS,
) -> None:
    """Embeds the captions of all recorded clips that are not up to date; each process a share.

    Args:
      config: the experiment.
      workdir: with recorded clips.
      console: where to print.
      tokenizer, encoder: UMT5's files.
      file_clips: clips of a file at most.

    Raises:
      FileNotFoundError, ValueError: naming the file that is missing or is something else.
    """

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    # Read by those processes alone that have something to embed.
    embedder = functools.cache(lambda: prompts.text_embedder(tokenizer, encoder))
    identity = _text_key(tokenizer, encoder)
    for world in workdir.recorded(config.worlds):
        for split in read_card(workdir.worlds(world))["splits"]:
            path, clips = workdir.captions(world, split), workdir.worlds(world)
            key = {**identity, "clips": clips_id(clips, split, path)}
            if not latent_cache.stale_files(path, key):
                say(f"{path}: up to date")
                continue
            source = ClipSource(clips, split, (), optional=("caption",))

            def make(file: Path, chosen: range, source: ClipSource = source) -> dict[int, str]:
                numbers = track(chosen, f"embedding {file.stem}", console=console)
                captions = (_caption(source, number) for number in numbers)
                found, texts = write_captions(file, captions, embedder())
                say(
                    f"{file}: {found} of {len(chosen)} clips have captions, {texts} different "
                    "ones; train with --config.text.captions=true"
                )
                return {}

            latent_cache.make_stale_files(
                path,
                key,
                len(source),
                make,
                file_clips=file_clips,
                share=(jax.process_index(), jax.process_count()),
                purpose=f"embedding captions of {world} {split}",
                say=say,
            )
    first_alone("captions", lambda: None)


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
    return [[file.name, *file_identity(file).values()] for file in _files(path)]
