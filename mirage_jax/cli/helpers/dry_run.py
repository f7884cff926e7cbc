"""What `mirage train` would do: data found, where parameters lie, what a step needs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh
from ml_collections import ConfigDict
from rich.console import Console

from data_pipelines import loading
from mirage_jax import parallel
from mirage_jax.cli.helpers import (
    build,
    config_check,
    programs,
    quick_models,
    starts,
    training_sections,
)
from mirage_jax.cli.helpers.held_out_sets import with_held_out
from mirage_jax.cli.helpers.picture_shapes import of_each_size
from mirage_jax.cli.helpers.training_sections import TrainingSection
from mirage_jax.io.workdir import Workdir
from mirage_jax.parallel import footprint, specs
from mirage_jax.parallel.flops import matmul_flops
from mirage_jax.training.geometry_task import GeometryTask
from mirage_jax.training.latent_cache import LatentSource, cache_files
from mirage_jax.training.task import Task
from mirage_jax.training.throughput import format_count
from mirage_jax.training.tiny_decoder_task import TinyDecoderTask
from mirage_jax.training.vae_task import VAETask
from mirage_jax.world.latent_encoder import encoder_params


def run(
    config: ConfigDict,
    workdir: Workdir,
    console: Console,
    stages: Sequence[str],
    *,
    memory: str,
    source: str = "",
) -> None:
    """Prints, for every stage, all that is known before it runs; compiles its step.

    Args:
      config: the experiment.
      workdir: of the work directory.
      console: where to print.
      stages: which of `train.stages`.
      memory: kind of the denoiser's memory.
      source: a line about where the config comes from.

    Raises:
      ValueError: if a field of the config is none that stages can run with, the mesh does not fit
        the devices or the batch, or too many bytes of parameters are repeated on every device.
    """
    config_check.check(config)
    mesh = parallel.make_mesh(**config.mesh.to_dict())
    rules = parallel.preset(config.rules)

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    axes = " ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    kind = jax.devices()[0].device_kind
    say(f"{config.name}: {mesh.size} devices ({kind}) of {jax.process_count()} processes")
    say(f"mesh {axes}, rules {config.rules!r}, work directory {workdir.root}")
    if source:
        say(source)
    say(f"every field is written to {workdir.stage('STAGE') / 'config.json'}")
    for line in _data(config, workdir, memory):
        say(line)
    for stage in stages:
        say("")
        if stage == "cache":
            say("cache: every clip is encoded once, by all processes")
            continue
        if stage == "encoder" and starts.encoder_is_given(config):
            say(f"encoder: not trained, read from {starts.is_there(workdir.model('encoder'))}")
            continue
        if stage == "encoder" and not training_sections.encoder(config).steps:
            say("encoder: not trained, taken with its linear path alone (0 steps)")
            continue
        configs = of_each_size(config) if stage in _OF_PICTURES else {(): config}
        section = training_sections.OF_STAGE[stage](config)
        shards = parallel.batch_shards(mesh) * section.accumulate
        if section.batch_size % shards:
            raise ValueError(
                f"{stage}: found batch_size {section.batch_size}, expected a multiple of {shards} "
                f"(mesh axes {' x '.join(parallel.BATCH_AXES)}, accumulate {section.accumulate})"
            )
        say(
            f"{stage}: {section.steps:,} steps of {section.batch_size} clips in "
            f"{section.accumulate} parts, {section.optimizer}, {section.schedule} from "
            f"{section.learning_rate:g}"
        )
        say(starts.start(config, workdir, stage, memory, section.steps))
        if stage in ("denoiser", "distill", "match") and config.denoiser.text_width:
            say(starts.text(config)[1])
        for number, (size, own) in enumerate(configs.items()):
            _, task, batch = _STAGES[stage](own, memory)
            with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
                program = programs.step(own, section, task, batch, mesh, rules)
                if not number:
                    _describe_parameters(program, mesh, rules, say)
                if len(configs) > 1:
                    say("pictures of {} x {}:".format(*size))
                _describe_step(program, say)


def _describe_parameters(
    program: programs.Step, mesh: Mesh, rules: parallel.rules.Rules, say: Any
) -> None:
    parts = {"trained": (program.state.abstract.params, program.state.shardings.params)}
    if program.frozen is not None:
        shardings = jax.tree.map(lambda leaf: leaf.sharding, program.frozen)
        parts["frozen"] = (program.frozen, shardings)
    for line, rows in specs.described(parts, mesh, rules).items():
        say(f"{line}:")
        for row in rows:
            say(f"  {row}")


def _describe_step(program: programs.Step, say: Any) -> None:
    say(f"a step takes {format_count(matmul_flops(program.traced.jaxpr))}FLOP in matrix products")
    started = time.monotonic()
    compiled = program.traced.lower().compile()
    stats = compiled.memory_analysis()
    known = "memory unknown" if stats is None else footprint.memory_of(stats, None)
    say(f"compiled in {time.monotonic() - started:.1f} s: {known}")


def _data(config: ConfigDict, workdir: Workdir, memory: str) -> list[str]:
    """What of the data is there, a line for each world."""
    recorded_here = tuple(filter(workdir.is_recorded, config.worlds))
    there = {"train": recorded_here, "eval": with_held_out(workdir, recorded_here)}
    lines = []
    for world in config.worlds:
        found = {}
        for split in ("train", "eval"):
            cache = workdir.latents(world, split, rgb=memory == "rgb")
            clips = workdir.worlds(world)
            recorded = len(loading.ClipSource(clips, split)) if world in there[split] else 0
            found[split] = f"{split} {recorded:,} clips recorded, {_encoded(cache)}"
        lines.append(f"data {world}: {'; '.join(found.values())}")
    return lines


def _encoded(cache: Path) -> str:
    try:
        if not cache_files(cache)[0].exists():
            return "0 encoded"
        return f"{len(LatentSource([cache])):,} encoded"
    except ValueError as error:
        return f"none encoded ({error})"


Stage = tuple[TrainingSection, Task, Any]
"""Training section, task, and a batch of shapes."""


def _encoder(config: ConfigDict, _: str) -> Stage:
    section = training_sections.encoder(config)
    frames, pixels = config.chunk_frames, section.pixels
    task = VAETask(build.vae(config), frames, pixels, kl_weight=section.kl_weight)
    shape = (section.batch_size, frames, pixels, pixels, 3)
    return section, task, {"video": jax.ShapeDtypeStruct(shape, jnp.uint8)}


def _tiny_decoder(config: ConfigDict, _: str) -> Stage:
    section = training_sections.tiny_decoder(config)
    frames, pixels = config.chunk_frames, section.pixels
    vae = build.vae(config)
    frozen = jax.eval_shape(lambda: encoder_params(vae))
    task = TinyDecoderTask(quick_models.tiny_decoder(config), vae, frozen)
    shape = (section.batch_size, frames, pixels, pixels, 3)
    return section, task, {"video": jax.ShapeDtypeStruct(shape, jnp.uint8)}


def _geometry(config: ConfigDict, _: str) -> Stage:
    section = training_sections.geometry(config)
    grid = (*programs.latent_grid(config), config.vae.latent_channels)
    task = GeometryTask(build.geometry_head(config), grid, config.sky_depth)
    batch = programs.clip_batch(config, section.batch_size)
    batch.pop("text", None)
    return section, task, batch


def _denoiser(config: ConfigDict, memory: str) -> Stage:
    section = training_sections.denoiser(config)
    return section, programs.denoiser_task(config, memory), _clip_batch(config, section, memory)


def _distill(config: ConfigDict, memory: str) -> Stage:
    section = training_sections.distill(config)
    return section, programs.distill_task(config, memory), _clip_batch(config, section, memory)


def _match(config: ConfigDict, memory: str) -> Stage:
    section = training_sections.match(config)
    return section, programs.match_task(config, memory), _clip_batch(config, section, memory)


def _clip_batch(config: ConfigDict, section: TrainingSection, memory: str) -> dict[str, Any]:
    """A batch of a denoiser's clips, with as many text tokens as prompts have where it is known."""
    batch = programs.clip_batch(config, section.batch_size, memory)
    if "text" in batch:
        tokens, _ = starts.text(config)
        if tokens == 0:
            del batch["text"]
        elif tokens is not None:
            clips, _, width = batch["text"].shape
            batch["text"] = jax.ShapeDtypeStruct((clips, tokens, width), batch["text"].dtype)
    return batch


_OF_PICTURES = ("geometry", "denoiser", "distill", "match")
"""Stages that train on whole pictures, with a program for each of their shapes."""

_STAGES = {
    "encoder": _encoder,
    "geometry": _geometry,
    "denoiser": _denoiser,
    "distill": _distill,
    "match": _match,
    "tiny_decoder": _tiny_decoder,
}
