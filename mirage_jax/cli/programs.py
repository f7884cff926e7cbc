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
from mirage_jax.cli import build
from mirage_jax.conditioning import TEMPORAL_STRIDE, camera_rays, memory_context
from mirage_jax.geometry import Camera
from mirage_jax.training import state as states
from mirage_jax.training.denoiser_task import DenoiserTask
from mirage_jax.training.optimizers import BETAS, recipe
from mirage_jax.training.task import parameter_count
from mirage_jax.world import sample_chunk

Traced = tuple[jax.stages.Traced, dict[str, Any]]
"""A traced program and facts about it, for the report."""


def train(config: ConfigDict, mesh: Mesh, rules: parallel.rules.Rules) -> Traced:
    """The step that `loop.fit` runs for the denoiser, on cached latents and encoded text."""
    training = config.denoiser_training
    task = _task(config)
    if build.trained(config) != "all":
        task = build.branch_task(config, task)
    names = ("learning_rate", "steps", "warmup", "weight_decay")
    betas = tuple(training.get("betas", BETAS))
    optimizer, schedule = recipe(**{name: training[name] for name in names}, betas=betas)
    decay = training.ema_decay
    state = states.Builder(task, optimizer, mesh, rules, seed=config.seed, with_ema=decay > 0)
    frozen = None
    if task.frozen is not None:
        frozen = parallel.placed(task.frozen, parallel.shardings(task.frozen, mesh, rules))
    step = states.make_step(task, optimizer, ema_decay=decay, schedule=schedule)
    clips = _batch(config, mesh)
    batch = _clips(config, clips) | _text(config, clips)
    traced = states.trace_step(step, state, _split(batch, mesh), frozen, mesh)
    return traced, _facts(config, task, clips, state.abstract.params, frozen)


def sample(config: ConfigDict, mesh: Mesh, rules: parallel.rules.Rules) -> Traced:
    """One chunk of a rollout up to its latents: the memory read, then every denoising step."""
    task, sampling = _task(config), config.sampling
    channels, grid = config.vae.latent_channels, _grid(config)
    options = {"steps": sampling.steps, "shift": sampling.shift, "method": sampling.method}

    def one(bank: memory.LatentMemory, intrinsics: Any, poses: Any) -> tuple[Any, Any]:
        camera = Camera(jnp.broadcast_to(intrinsics, (len(poses), 4)), poses, task.size)
        context = memory_context(bank, camera, grid, **dataclasses.asdict(task.readout))
        return context, camera_rays(camera, grid)

    def chunk(params: Any, views: tuple[Any, ...], first: Any, text: Any, key: Any) -> Any:
        context, rays = jax.vmap(one)(*views)
        return sample_chunk(
            task.denoiser, params, first, context, rays, key, **options, text=text.get("text")
        )

    clips = _batch(config, mesh)
    boxed = jax.eval_shape(lambda: task.init(jax.random.key(0)))
    params = parallel.placed(boxed, parallel.shardings(boxed, mesh, rules))
    empty = jax.eval_shape(lambda: memory.create(config.memory.capacity, channels))
    banks = jax.tree.map(lambda leaf: _array(clips, *leaf.shape, dtype=leaf.dtype), empty)
    views = (banks, _array(clips, 4), _array(clips, config.chunk_frames, 4, 4))
    split = _split((views, _array(clips, *grid, channels), _text(config, clips)), mesh)
    key = jax.eval_shape(lambda: jax.random.key(0))
    key = parallel.placed(key, parallel.replicated(mesh))
    out = parallel.batch_sharding(mesh)
    return (
        jax.jit(chunk, out_shardings=out).trace(params, *split, key),
        _facts(config, task, clips, None, params),
    )


def _task(config: ConfigDict) -> DenoiserTask:
    return build.denoiser_task(config, "latent", (1.0,) * config.vae.latent_channels)


def _batch(config: ConfigDict, mesh: Mesh) -> int:
    per_shard = config.compile.batch_per_shard if "compile" in config else 1
    return per_shard * parallel.batch_shards(mesh)


def _grid(config: ConfigDict) -> tuple[int, int]:
    stride = build.vae(config).spatial_stride
    height, width = build.picture_size(config)
    return height // stride, width // stride


def _array(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _clips(config: ConfigDict, count: int) -> dict[str, jax.ShapeDtypeStruct]:
    """A batch of `latent_cache.LatentClip`, as the loader hands it over."""
    frames, channels, grid = config.record.frames, config.vae.latent_channels, _grid(config)
    chunks = (frames - 1) // (config.chunk_frames - 1)
    latents = build.latents_of_frames(config.chunk_frames)
    keyframes = (frames - 1) // TEMPORAL_STRIDE + 1
    return {
        "chunks": _array(count, chunks, latents, *grid, channels),
        "tokens": _array(count, keyframes, *grid, channels),
        "depth": _array(count, keyframes, *grid),
        "static": _array(count, keyframes, *grid),
        "intrinsics": _array(count, 4),
        "cam2world": _array(count, frames, 4, 4),
        "rgb_chunks": _array(count, 0, latents, *grid, channels),
        "rgb_hits": _array(count, 0, latents, *grid, TEMPORAL_STRIDE),
    }


def _text(config: ConfigDict, count: int) -> dict[str, jax.ShapeDtypeStruct]:
    width = config.denoiser.get("text_width", 0)
    return {"text": _array(count, config.compile.text_tokens, width)} if width else {}


def _split(tree: Any, mesh: Mesh) -> Any:
    sharding = parallel.batch_sharding(mesh)
    return parallel.placed(tree, jax.tree.map(lambda _: sharding, tree))


def _facts(
    config: ConfigDict, task: DenoiserTask, clips: int, trained: Any, frozen: Any
) -> dict[str, Any]:
    height, width = _grid(config)
    return {
        "batch": clips,
        "tokens": task.chunk_latents * height * width // math.prod(task.denoiser.patch),
        "attention": task.denoiser.attention_backend,
        "trained": parameter_count(trained),
        "frozen": parameter_count(frozen),
    }
