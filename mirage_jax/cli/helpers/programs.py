"""The programs of a config as they run, traced on shapes alone: no weights, no data, no device."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mirage_jax import memory, parallel
from mirage_jax.chunks import TEMPORAL_STRIDE, chunks_of_clip, latents_of_frames
from mirage_jax.cli.helpers import build, history_heads, quick_models, training_sections
from mirage_jax.cli.helpers.training_sections import TrainingSection
from mirage_jax.geometry import Camera
from mirage_jax.training import state as states
from mirage_jax.training.denoiser_task import DenoiserTask
from mirage_jax.training.distill_task import DistillTask
from mirage_jax.training.matching_task import MatchingTask
from mirage_jax.training.optimizers import make_optimizer
from mirage_jax.training.task import Task, parameter_count
from mirage_jax.world import latent_encoder, sample_chunk
from mirage_jax.world.conditioners import camera_rays
from mirage_jax.world.scenarios import last_chunk_scenarios, scenarios

Traced = tuple[jax.stages.Traced, dict[str, Any]]
"""A traced program and facts about it, for the report."""


def train(config: ConfigDict, mesh: Mesh, rules: parallel.rules.Rules) -> Traced:
    """The step that `loop.fit` runs for the denoiser, on cached latents and encoded text."""
    task, section = denoiser_task(config, "latent"), training_sections.denoiser(config)
    clips = _batch(config, mesh) * section.accumulate
    program = step(config, section, task, clip_batch(config, clips), mesh, rules)
    facts = _facts(config, task, clips, program.state.abstract.params, program.frozen)
    return program.traced, facts


def distill(config: ConfigDict, mesh: Mesh, rules: parallel.rules.Rules) -> Traced:
    """The step that `loop.fit` runs for a student, as `train` does for its teacher.

    Raises:
      ValueError: if the config does not say how to distill.
    """
    task = distill_task(config, "latent")
    return _of_student(config, training_sections.distill(config), task, mesh, rules)


def match(config: ConfigDict, mesh: Mesh, rules: parallel.rules.Rules) -> Traced:
    """The step that `loop.fit` runs for a student and its critic.

    Raises:
      ValueError: if the config does not say how to match.
    """
    section, task = training_sections.match(config), match_task(config, "latent")
    return _of_student(config, section, task, mesh, rules)


def _of_student(
    config: ConfigDict,
    section: TrainingSection,
    task: DistillTask | MatchingTask,
    mesh: Mesh,
    rules: parallel.rules.Rules,
) -> Traced:
    clips = _batch(config, mesh) * section.accumulate
    program = step(config, section, task, clip_batch(config, clips), mesh, rules)
    trained = program.state.abstract.params
    return program.traced, _facts(config, task.base, clips, trained, program.frozen)


@dataclasses.dataclass(frozen=True)
class Step:
    """A training step on shapes.

    Attributes:
      traced: the step.
      state: of which shardings and shapes are known.
      frozen: parameters that are not trained, as sharded shapes; None where there are none.
    """

    traced: jax.stages.Traced
    state: states.StateBuilder
    frozen: Any


def step(
    config: ConfigDict,
    section: TrainingSection,
    task: Task,
    batch: Any,
    mesh: Mesh,
    rules: parallel.rules.Rules,
) -> Step:
    """The step that `loop.fit` runs for a task.

    Args:
      config: the experiment.
      section: its training section for this task.
      task: its frozen parameters may be shapes.
      batch: a whole batch of shapes.
      mesh: which is set, `jax.set_mesh(mesh)`, as are the rules.
      rules: logical axis rules.
    """
    settings = training_sections.loop(config, section)
    optimizer, schedule = make_optimizer(section, section.steps)
    with_ema = settings.ema_decay > 0
    state = states.StateBuilder(task, optimizer, mesh, rules, seed=settings.seed, with_ema=with_ema)
    frozen = None
    if task.frozen is not None:
        frozen = parallel.placed(task.frozen, parallel.shardings(task.frozen, mesh, rules))
    advance = states.make_step(
        task,
        optimizer,
        ema_decay=settings.ema_decay,
        schedule=schedule,
        accumulate=settings.accumulate,
        guard=settings.guard,
    )
    return Step(states.trace_step(advance, state, _split(batch, mesh), frozen, mesh), state, frozen)


def denoiser_task(config: ConfigDict, kind: str) -> DenoiserTask:
    """The denoiser's task, with its backbone frozen where the config says so."""
    task = whole_task(config, kind)
    whole = training_sections.denoiser(config).trained == "all"
    return task if whole else build.branch_task(config, task)


def distill_task(config: ConfigDict, kind: str) -> DistillTask:
    """The task that makes a student of `denoiser_task`'s denoiser."""
    return quick_models.distill_task(config, whole_task(config, kind))


def match_task(config: ConfigDict, kind: str) -> MatchingTask:
    """The task that goes on with the student of `distill_task`; encoder and head are zeros."""
    head, encoder = history_heads.untrained(config), latent_encoder.untrained(build.vae(config))
    return quick_models.match_task(config, whole_task(config, kind), head=head, encoder=encoder)


def clip_batch(config: ConfigDict, count: int, kind: str = "latent") -> dict[str, Any]:
    """A batch for `denoiser_task`."""
    return _clips(config, count, kind) | _text(config, count)


def sample(config: ConfigDict, mesh: Mesh, rules: parallel.rules.Rules) -> Traced:
    """One chunk of a rollout up to its latents: the memory read, then every denoising step.

    Beside as many earlier frames as chunks are shown at most; what the memory showed of the
    preceding ones, which a rollout keeps, is left out.
    """
    task, sampler = whole_task(config, "latent"), build.sampler(config)
    channels, grid = config.vae.latent_channels, latent_grid(config)

    constants = task.constants[grid]

    def one(bank: memory.LatentMemory, intrinsics: Any, poses: Any) -> tuple[Any, Any]:
        camera = Camera(jnp.broadcast_to(intrinsics, (len(poses), 4)), poses, task.size)
        read = task.conditioner.read(bank, camera, encoder=task.encoder)
        shared = None if constants is None else constants[: len(read)]
        return task.conditioner.complete(read, shared), camera_rays(camera, grid)

    def chunk(
        params: Any, views: tuple[Any, ...], first: Any, clean: Any, text: Any, key: Any
    ) -> Any:
        context, rays = jax.vmap(one)(*views)
        inputs = first, context, rays, key
        return sample_chunk(task.denoiser, params, *inputs, sampler, **clean, **text)

    clips = _batch(config, mesh)
    boxed = jax.eval_shape(lambda: task.init(jax.random.key(0)))
    params = parallel.placed(boxed, parallel.shardings(boxed, mesh, rules))
    empty = jax.eval_shape(lambda: memory.create(config.memory.capacity, channels))
    banks = jax.tree.map(lambda leaf: _array(clips, *leaf.shape, dtype=leaf.dtype), empty)
    views = (banks, _array(clips, 4), _array(clips, config.chunk_frames, 4, 4))
    counts = {
        "reference": task.context_frames.references,
        "preceding": task.context_frames.preceding_latents,
    }
    clean = {name: _array(clips, n, *grid, channels) for name, n in counts.items() if n}
    first = _array(clips, *grid, channels)
    split = _split((views, first, clean, _text(config, clips)), mesh)
    key = jax.eval_shape(lambda: jax.random.key(0))
    key = parallel.placed(key, parallel.replicated(mesh))
    out = parallel.batch_sharding(mesh)
    return (
        jax.jit(chunk, out_shardings=out).trace(params, *split, key),
        _facts(config, task, clips, None, params),
    )


def whole_task(config: ConfigDict, kind: str) -> DenoiserTask:
    """The task of the whole denoiser; encoder, head and constants that it needs are zeros."""
    task = build.denoiser_task(config, kind, (1.0,) * config.vae.latent_channels)
    encoder = latent_encoder.untrained(build.vae(config)) if task.conditioner.encodes else None
    head = history_heads.untrained(config) if task.predicted else None
    latents = task.chunk_latents + task.context_frames.preceding_latents

    def constants() -> Any:
        of = latent_encoder.untrained(build.vae(config))
        return task.conditioner.constants(of, latents, task.size)

    shared = jax.eval_shape(constants)
    made = None if shared is None else jnp.zeros(shared.shape, shared.dtype)
    of_grid = {latent_grid(config): made}
    return dataclasses.replace(task, encoder=encoder, head=head, constants=of_grid)


def _batch(config: ConfigDict, mesh: Mesh) -> int:
    return config.compile.batch_per_shard * parallel.batch_shards(mesh)


def latent_grid(config: ConfigDict) -> tuple[int, int]:
    stride = build.vae(config).spatial_stride
    height, width = build.picture_size(config)
    return height // stride, width // stride


def _array(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _clips(config: ConfigDict, count: int, kind: str) -> dict[str, jax.ShapeDtypeStruct]:
    """A batch of `LatentClip`, as the loader hands it over."""
    frames, channels, grid = (
        build.trained_frames(config),
        config.vae.latent_channels,
        latent_grid(config),
    )
    chunks = chunks_of_clip(frames, config.chunk_frames)
    latents = latents_of_frames(config.chunk_frames)
    keyframes = latents_of_frames(frames)
    last_only = config.loading.window > 0
    situations = last_chunk_scenarios if last_only else scenarios
    rendered = len(situations(chunks, latents).chunk) if kind == "rgb" else 0
    preceding = build.context_frames(config, kind).preceding_latents
    return {
        "chunks": _array(count, 1 if last_only else chunks, latents, *grid, channels),
        "tokens": _array(count, keyframes, *grid, channels),
        "depth": _array(count, keyframes, *grid),
        "static": _array(count, keyframes, *grid),
        "intrinsics": _array(count, 4),
        "cam2world": _array(count, frames, 4, 4),
        "rgb_chunks": _array(count, rendered, latents, *grid, channels),
        "rgb_hits": _array(count, rendered, latents, *grid, TEMPORAL_STRIDE),
        "preceding": _array(count, preceding, *grid, channels),
    }


def _text(config: ConfigDict, count: int) -> dict[str, jax.ShapeDtypeStruct]:
    width = config.denoiser.text_width
    return {"text": _array(count, config.compile.text_tokens, width)} if width else {}


def _split(tree: Any, mesh: Mesh) -> Any:
    sharding = parallel.batch_sharding(mesh)
    return parallel.placed(tree, jax.tree.map(lambda _: sharding, tree))


def _facts(
    config: ConfigDict, task: DenoiserTask, clips: int, trained: Any, frozen: Any
) -> dict[str, Any]:
    height, width = latent_grid(config)
    cells = height * width // math.prod(task.denoiser.patch[1:])
    return {
        "batch": clips,
        "tokens": task.chunk_latents // task.denoiser.patch[0] * cells,
        "clean_tokens": (task.context_frames.references + task.context_frames.preceding_latents)
        * cells,
        "attention": task.denoiser.attention_backend,
        "trained": parameter_count(trained),
        "frozen": parameter_count(frozen),
    }
