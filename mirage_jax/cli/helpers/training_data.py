"""What stages train on: cached latents, or recorded video that is encoded before each step."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from data_pipelines.loading import ClipSource, Transform
from data_pipelines.mixture import Mixture
from mirage_jax.cli.helpers import build, depth_network, training_sections, world_names
from mirage_jax.cli.helpers.clip_sources import with_text
from mirage_jax.cli.helpers.held_out_sets import with_held_out
from mirage_jax.cli.helpers.picture_shapes import picture_sizes
from mirage_jax.io.workdir import Workdir
from mirage_jax.training import held_out
from mirage_jax.training.clip_encoding import (
    OPTIONAL_FIELDS,
    REQUIRED_FIELDS,
    ClipEncoder,
    EncodedClips,
    EncoderInputs,
    EncodingSettings,
)
from mirage_jax.training.latent_cache import LatentSource
from mirage_jax.training.sources import of_worlds
from mirage_jax.world.body_reads import BodyReads
from mirage_jax.world.conditioners import BodyReader
from mirage_jax.world.latent_encoder import LatentEncoder


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """What `stage.train_task` takes, and encoded clips by index.

    Attributes:
      source, transform, prepare, mixture: of `train_task`.
      train, held_out: encoded clips of both splits, as `LatentSource` gives them; None held out of
        footage that is all trained on.
      shapes: of pictures; how many. A batch is of one world alone where they are several.
      train_apart, held_out_apart: clips of each world of both splits then; else ().
    """

    source: Any
    train: Any
    held_out: Any
    transform: Transform | None = None
    prepare: Callable[[Any], Any] | None = None
    mixture: Mixture | None = None
    shapes: int = 1
    train_apart: tuple[int, ...] = ()
    held_out_apart: tuple[int, ...] = ()

    @property
    def eval_batches(self) -> Callable[[], Iterator[dict[str, np.ndarray]]] | None:
        """Of `train_task`: makes batches, see `held_out.clip_batches`; None without such clips."""
        if self.held_out is None:
            return None
        return partial(held_out.clip_batches, self.held_out, apart=self.held_out_apart)

    def shown(self, count: int) -> list[dict[str, np.ndarray]]:
        """Some clips, all of one shape: held-out ones where there are any."""
        source, apart = self.held_out, self.held_out_apart
        if source is None:
            source, apart = self.train, self.train_apart
        return [source[i] for i in held_out.spread_over(apart[0] if apart else len(source), count)]


def from_video(config: ConfigDict) -> bool:
    """Whether clips are encoded before each step, and not once into a cache."""
    return config.loading.latents == "video"


def encoding_settings(config: ConfigDict, memory: str) -> EncodingSettings:
    """What is encoded of clips for the stages of a config."""
    conditioner, movers = build.conditioner(config, memory), build.movers(config, memory)
    bodies = None
    if movers is not None and isinstance(conditioner, BodyReader):
        bodies = BodyReads(conditioner, movers, build.history_fusion(config, memory))
    return EncodingSettings(
        chunk_frames=config.chunk_frames,
        sky_depth=config.sky_depth,
        rgb=memory == "rgb",
        preceding=training_sections.denoiser(config).preceding,
        last_only=config.loading.window > 0,
        depth_network=depth_network.identity(config),
        bodies=bodies,
        movers_up=config.geometry.get("movers_up", 0),
    )


def cache_settings(config: ConfigDict, memory: str) -> EncodingSettings:
    """What is encoded of whole clips, once."""
    return dataclasses.replace(encoding_settings(config, memory), last_only=False)


def training_data(
    config: ConfigDict,
    workdir: Workdir,
    memory: str,
    mesh: Mesh,
    texts: Mapping[str, np.ndarray] | None = None,
    *,
    stage: str = "denoiser",
) -> TrainingData:
    """Clips to train on and to evaluate on, with the text of their world if there is one.

    Args:
      config: the experiment.
      workdir: with recorded clips, or their caches, and the encoder.
      memory: of the denoiser, for which a cache is made.
      mesh: where batches are encoded.
      texts: embedded, by world.
      stage: that trains on them, see `world_names.to_train`.

    Raises:
      FileNotFoundError, ValueError: naming what is missing or damaged.
    """
    worlds = world_names.to_train(config, workdir, stage, memory)
    shapes = len(picture_sizes(config, worlds))
    of_split = {"train": worlds, "eval": with_held_out(workdir, worlds)}

    def apart(split: str, source: Any) -> tuple[int, ...]:
        return source.lengths if shapes > 1 and len(of_split[split]) > 1 else ()

    def cached(split: str) -> Any:
        def read(world: str) -> Any:
            source = LatentSource([workdir.latents(world, split, rgb=memory == "rgb")])
            return with_text(config, workdir, texts, world, split, source)

        return of_worlds(of_split[split], read) if of_split[split] else None

    def recorded(split: str) -> Any:
        def read(world: str) -> Any:
            folder = workdir.worlds(world)
            source = ClipSource(folder, split, REQUIRED_FIELDS, optional=OPTIONAL_FIELDS)
            return with_text(config, workdir, texts, world, split, source)

        return of_worlds(of_split[split], read) if of_split[split] else None

    if not from_video(config):
        train = cached("train")
        mixture, evaluated = _mixture(config, worlds, train, stage), cached("eval")
        sets = apart("train", train), apart("eval", evaluated)
        return TrainingData(train, train, evaluated, None, None, mixture, shapes, *sets)
    encoder = LatentEncoder.load(workdir.model("encoder"))
    settings, depth_of = encoding_settings(config, memory), depth_network.load(config)
    inputs = EncoderInputs(
        config.sky_depth, estimates=depth_of is not None, windows=training_sections.windows(config)
    )
    alone = ClipEncoder(encoder, settings, depth_of=depth_of)
    source, evaluated, held = recorded("train"), recorded("eval"), None
    if evaluated is not None:
        # Evaluated again and again: a gigabyte of them is encoded once.
        held = EncodedClips(evaluated, inputs, alone, keep_bytes=1 << 30)
    return TrainingData(
        source,
        EncodedClips(source, inputs, alone),
        held,
        inputs,
        ClipEncoder(encoder, settings, mesh=mesh, depth_of=depth_of, say=warnings.warn),
        _mixture(config, worlds, source, stage),
        shapes,
        apart("train", source),
        apart("eval", evaluated),
    )


def _mixture(config: ConfigDict, worlds: Sequence[str], source: Any, stage: str) -> Mixture | None:
    """The config's weights of the worlds that were recorded; batches of one where shapes differ."""
    weights = dict(zip(config.worlds, config.loading.weights, strict=False))
    share = training_sections.geometry(config).bodies if stage == "geometry" else 0.0
    apart = len(picture_sizes(config, worlds)) > 1
    if len(worlds) == 1 or not (weights or apart or share):
        return None
    if weights:
        return Mixture(source.lengths, tuple(weights[world] for world in worlds), apart)
    by_number = dict(zip(worlds, map(float, source.lengths), strict=True))
    drawn = world_names.sharing(by_number, share)
    return Mixture(source.lengths, tuple(drawn.values()), apart)
