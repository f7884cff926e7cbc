"""Returns in closed loop: the first picture is given, and everything else is the model's own.

The protocol (`protocol`) gives the whole true history. Here a world starts from one picture with
the head's depth, walks to and fro along a held-out clip, and remembers what it generated; every
frame has a true picture to compare with. Drift shows as a score that falls with the chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from mirage_jax.evaluation import image_metrics
from mirage_jax.evaluation.memory_walk import to_and_fro
from mirage_jax.evaluation.protocol import HeldOut
from mirage_jax.geometry import Camera
from mirage_jax.memory import movers
from mirage_jax.world import WorldModel
from mirage_jax.world.latent_encoder import to_model_range, to_uint8
from mirage_jax.world.state import World

MARKS = (2, 4, 8, 16)
"""Chunks after which the score is reported; of a recorded clip the second is the first return."""


def measure(
    model: WorldModel,
    held_out: HeldOut,
    *,
    marks: tuple[int, ...] = MARKS,
    seed: int = 0,
    batch_size: int = 16,
    advance: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """PSNR of the new frames of some chunks, with the memory and with it emptied before each.

    Context frames, of models that are denoised beside some, stay in both.

    Args:
      model: encoder, head and denoiser of a trained work directory.
      held_out: the clips to walk along.
      marks: which chunks are scored, from 1; the walk is as long as the last.
      seed: of the noise.
      batch_size: clips walked at once.
      advance: called after every chunk of every batch, twice (with memory and without).

    Returns:
      A dict ready for JSON: `chunks`, and under `psnr` and `psnr_emptied` by chunk the mean in dB
      and the standard error over the clips.
    """
    begin, walk = jax.jit(_begin), jax.jit(_walk_chunk)
    found: dict[str, dict[str, Any]] = {"psnr": {}, "psnr_emptied": {}}
    scores: dict[str, dict[int, list[np.ndarray]]] = {
        name: {m: [] for m in marks} for name in found
    }
    for start in range(0, len(held_out), batch_size):
        chosen = np.minimum(np.arange(start, start + batch_size), len(held_out) - 1)
        real = min(batch_size, len(held_out) - start)
        truth, poses = held_out.video[chosen], held_out.clips.cam2world[chosen]
        first = to_model_range(truth[:, 0])
        begun = begin(model, first, held_out.clips.intrinsics[chosen], poses[:, 0])
        for name in found:
            emptied, worlds = name == "psnr_emptied", begun
            for chunk in range(max(marks)):
                frames = to_and_fro(truth.shape[1], model.chunk_frames, chunk)
                key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), start), chunk)
                pictures, worlds = walk(
                    model, worlds, jnp.asarray(poses[:, frames], jnp.float32), key, emptied
                )
                advance()
                if chunk + 1 in marks:
                    made = to_uint8(pictures)[:real, 1:]
                    psnr = image_metrics.psnr(made, truth[:real, frames[1:]])
                    scores[name][chunk + 1].append(psnr.mean(axis=-1))
    for name, by_chunk in scores.items():
        for mark, parts in by_chunk.items():
            found[name][str(mark)] = _mean(np.concatenate(parts))
    return {"chunks": max(marks), "clips": len(held_out), **found}


def _mean(values: Float[np.ndarray, " clips"]) -> dict[str, float]:
    spread = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
    return {"mean": float(values.mean()), "standard_error": spread}


def table(worlds: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Rows of text, the first the head: world, memory, and a column for each chunk."""
    marks = list(next(iter(worlds.values()))["psnr"])
    rows = [("world", "memory", *(f"chunk {mark}" for mark in marks))]
    for world, found in worlds.items():
        for name, label in (("psnr", "kept"), ("psnr_emptied", "emptied")):
            cells = (
                f"{found[name][m]['mean']:.2f} +- {found[name][m]['standard_error']:.2f}"
                for m in marks
            )
            rows.append((world, label, *cells))
    return rows


def _begin(
    model: WorldModel,
    pictures: Float[Array, "b height width 3"],
    intrinsics: Float[Array, "b 4"],
    poses: Float[Array, "b 4 4"],
) -> World:
    """Worlds that each know one picture, with a leading dimension on every leaf."""

    def one(picture: Array, lens: Array, pose: Array) -> World:
        camera = Camera(lens[None], pose[None], model.size)
        return model.begin(picture[None], camera)[0]

    return jax.vmap(one)(pictures, intrinsics, poses)


def _walk_chunk(
    model: WorldModel,
    worlds: World,
    poses: Float[Array, "b f 4 4"],
    key: PRNGKeyArray,
    emptied: Any,
) -> tuple[Float[Array, "b f height width 3"], World]:
    keys = jax.random.split(key, len(poses))

    def one(world: World, path: Array, key: PRNGKeyArray) -> tuple[Array, World]:
        bank = world.bank.replace(valid=world.bank.valid & ~jnp.asarray(emptied))  # type: ignore[attr-defined]
        bodies = world.movers
        if bodies is not None:
            bodies = movers.emptied(bodies, jnp.full(bodies.slots, emptied))
        world, latents, _ = model.advance(world.replace(bank=bank, movers=bodies), path, key)  # type: ignore[attr-defined]
        return latents, world

    latents, worlds = jax.vmap(one)(worlds, poses, keys)
    return model.encoder.decode(latents), worlds
