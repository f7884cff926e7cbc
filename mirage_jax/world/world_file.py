"""Worlds as files, from which a rollout can be continued later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from mirage_jax import memory
from mirage_jax.geometry import check_cam2world
from mirage_jax.weights import compare_tensors, save_tensors
from mirage_jax.world import context_frames as past_frames
from mirage_jax.world.model import World, WorldModel, check_world

WORLD_FORMAT = "mirage-world-1"


def save_world(path: Path, world: World) -> None:
    """Writes a world to one safetensors file, so that a rollout can be continued later.

    Raises:
      OSError: naming the file, if writing fails, e.g. on a full disk; an older one is kept.
    """
    flat = {name: np.asarray(leaf, order="C") for name, leaf in _by_name(world).items()}
    partial = path.with_suffix(path.suffix + ".partial")
    try:
        save_tensors(partial, flat, {"format": WORLD_FORMAT}, path)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load_world(path: Path, model: WorldModel | None = None) -> World:
    """Reads what `save_world` wrote.

    Args:
      path: the file.
      model: what is to continue the world, to check it against.

    Raises:
      ValueError: naming the file, on another kind of file, a tensor that is missing, of another
        shape or not finite, or a world that is not the model's.
    """
    try:
        with safe_open(path, "numpy") as file:
            found = (file.metadata() or {}).get("format")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a saved world ({error})") from error
    if found != WORLD_FORMAT:
        raise ValueError(f"{path}: format {found!r}, expected {WORLD_FORMAT!r}")
    kept = any(name.startswith("context_frames/") for name in tensors)
    smallest = _blank((1, 1, 1), 1, (1, 0, 1) if kept else None)
    missing = [name for name in _by_name(smallest) if name not in tensors]
    if missing:
        raise ValueError(f"{path}: tensor {missing[0]!r} is missing")
    latent, slots = tensors["latent"].shape, tensors["bank/xyz"].shape
    if len(latent) != 3 or len(slots) != 2 or 0 in latent + slots:
        raise ValueError(
            f"{path}: found a last latent of shape {latent} and positions of {slots}, "
            "expected (h, w, C) and (N, 3)"
        )
    past = None
    if kept:
        frames, recent, context = (
            tensors[f"context_frames/{n}"] for n in ("latents", "recent", "context")
        )
        past = (len(frames), len(recent), context.shape[-1])
    blank = jax.eval_shape(lambda: _blank(latent, slots[0], past))
    expected = _by_name(blank)
    leaves = {name: tensors[name] for name in expected}
    compare_tensors(str(path), leaves, expected)
    for name, leaf in leaves.items():
        if not np.isfinite(leaf).all():
            raise ValueError(f"{path}: tensor {name!r}: found NaN or infinity, expected numbers")
    world = jax.tree.unflatten(jax.tree.structure(blank), map(jnp.asarray, leaves.values()))
    check_cam2world(world.cam2world, f"{path}: cam2world")
    if model is not None:
        check_world(world, model, str(path))
    return world


def _by_name(world: World) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(world)[0]
    return {"/".join(str(getattr(k, "name", k)) for k in keys): leaf for keys, leaf in leaves}


def _blank(
    latent: tuple[int, ...], capacity: int, past: tuple[int, int, int] | None = None
) -> World:
    """A world of nothing, for the names and shapes of its parts.

    `past`: slots, recent latents and context channels of its past, if it has one.
    """
    frames = None
    if past is not None:
        slots, recent, channels = past
        frames = past_frames.create(slots, (latent[0], latent[1]), latent[2], channels)
        frames = frames.replace(  # type: ignore[attr-defined]
            recent=jnp.zeros((recent, *latent)), context=jnp.zeros((recent, *latent[:2], channels))
        )
    return World(
        bank=memory.create(capacity, latent[-1]),
        latent=jnp.zeros(latent),
        cam2world=jnp.zeros((4, 4)),
        intrinsics=jnp.zeros(4),
        frames=jnp.zeros((), jnp.int32),
        context_frames=frames,
    )
