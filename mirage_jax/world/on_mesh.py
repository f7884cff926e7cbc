"""Worlds and models on the devices of a mesh: what is split, and what each of them has whole.

    mesh = parallel.make_mesh(fsdp=2, context=4)
    with on_mesh.in_force(mesh):
        model = on_mesh.place_model(mirage.load("runs/wan"), mesh)
        session = Session(model, picture)

A memory's slots are split over `context`, the denoiser's parameters as `parallel.rules` says;
encoder, geometry head and all else of a world are whole on every device.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mirage_jax import memory, parallel
from mirage_jax.memory.split import split_axes
from mirage_jax.world.state import World

if TYPE_CHECKING:
    from mirage_jax.world.model import WorldModel


@contextlib.contextmanager
def in_force(mesh: Mesh | None) -> Iterator[None]:
    """Within it, of the thread that enters it, everything runs on the mesh; None changes nothing.

    Rules for the axes of activations are not set: a walk has a batch of one, which cannot be split.
    """
    with jax.set_mesh(mesh) if mesh is not None else contextlib.nullcontext():
        yield


def place_model(model: WorldModel, mesh: Mesh, rules: str = "full") -> WorldModel:
    """The model with each parameter on its devices.

    Args:
      model: the trained parts.
      mesh: `parallel.make_mesh`.
      rules: a preset of `parallel.rules`, by which the denoiser's are split.
    """
    table = parallel.preset(rules)
    module = model.denoiser
    latents = jnp.zeros((1, *module.patch, module.in_channels), jnp.float32)
    boxed = jax.eval_shape(
        lambda: module.init(jax.random.key(0), latents, jnp.zeros(latents.shape[:2], jnp.float32))
    )["params"]
    params = jax.device_put(model.denoiser_params, parallel.shardings(boxed, mesh, table))
    # Texts stay as they are: a later one is not placed either, and would be compiled for anew.
    whole = jax.device_put((model.encoder, model.head_params), parallel.replicated(mesh))
    return model.replace(  # type: ignore[attr-defined, no-any-return]
        denoiser_params=params, encoder=whole[0], head_params=whole[1]
    )


def place_world(world: World) -> World:
    """The world on the mesh in force (`in_force`); without one as it is. Host side."""
    if jax.sharding.get_abstract_mesh().empty:
        return world
    mesh = jax.sharding.get_mesh()
    shardings = jax.tree.map(
        lambda spec: NamedSharding(mesh, spec), _specs(world), is_leaf=_is_spec
    )
    return jax.device_put(world, shardings)


def kept_in_place(world: World) -> World:
    """The same as a constraint on what a jitted function returns, as the compiler may place it
    anywhere: then whatever takes the world next would be compiled again."""
    if jax.sharding.get_abstract_mesh().empty:
        return world
    return jax.lax.with_sharding_constraint(world, _specs(world))


def _specs(world: World) -> Any:
    axes = split_axes(world.bank.capacity)
    specs = jax.tree.map(lambda leaf: PartitionSpec(), world)
    return specs.replace(bank=memory.sharded.specs(axes)) if axes else specs


def _is_spec(leaf: Any) -> bool:
    return isinstance(leaf, PartitionSpec)
