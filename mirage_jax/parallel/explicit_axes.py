"""Arrays that a mesh with explicit axes splits (`jax.make_mesh` makes such axes by default).

There every operation must say how its result is split, which a scatter over all elements of all
views, or the reshapes of a network, cannot. Within a function of the memory or a module the
compiler decides instead, as on a mesh of `Auto` axes, and only what comes out is split by rule.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mirage_jax.geometry import Camera

F = TypeVar("F", bound=Callable[..., Any])


def compiler_splits(outputs: Callable[..., Any]) -> Callable[[F], F]:
    """A decorator: inside the function, explicit axes of its arrays' mesh are `Auto` ones.

    Where there are none it changes nothing.

    Args:
      outputs: from the function's arguments to the `PartitionSpec`s of what it returns, a prefix of
        its tree.
    """

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            leaves, tree = jax.tree.flatten((args, kwargs))
            places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)]
            mesh = _explicit_mesh([leaves[i] for i in places])
            if mesh is None:
                return function(*args, **kwargs)

            def run(*arrays: Any) -> Any:
                now = dict(zip(places, arrays, strict=True))
                inside = [now.get(i, leaf) for i, leaf in enumerate(leaves)]
                args, kwargs = jax.tree.unflatten(tree, inside)
                return jax.tree.map(jnp.asarray, function(*args, **kwargs))

            splits = jax.tree.map(
                lambda spec: NamedSharding(mesh, spec),
                outputs(*args, **kwargs),
                is_leaf=lambda leaf: isinstance(leaf, PartitionSpec),
            )
            axes = _explicit_axes(mesh)
            run = jax.sharding.auto_axes(run, axes=axes, out_sharding=splits)
            return run(*(leaves[i] for i in places))

        return wrapped  # type: ignore[return-value]

    return decorate


def apply(module: nn.Module, variables: Any, *inputs: Any, **options: Any) -> Any:
    """`module.apply` of inputs on a mesh with explicit axes, or on any other or none.

    Args:
      module: one of `mirage_jax.nn`, or any other of Linen.
      variables: of the module, split or not.
      inputs: with a batch along their first axis.
      options: further arguments of `module.apply`, such as `method`.

    Returns:
      What the module returns; all arrays are split along their first axis as the first input is.
    """
    leaves = jax.tree.leaves((inputs, options))
    first = next((leaf for leaf in leaves if isinstance(leaf, jax.Array)), None)
    batch = PartitionSpec(*tuple(spec_of(first))[:1]) if first is not None else PartitionSpec()

    @compiler_splits(lambda *_, **__: batch)
    def run(variables: Any, *inputs: Any, **options: Any) -> Any:
        return module.apply(variables, *inputs, **options)

    return run(variables, *inputs, **options)


def spec_of(array: Any) -> PartitionSpec:
    """How explicit axes split an array; not at all if it is one of numpy's."""
    return PartitionSpec() if isinstance(array, np.ndarray) else jax.typeof(array).sharding.spec


def spec_of_views(camera: Camera) -> PartitionSpec:
    """How explicit axes split the leading dimensions of a camera."""
    spec, lead = spec_of(camera.cam2world), len(camera.shape)
    return PartitionSpec(*tuple(spec)[:lead])


def _explicit_mesh(arrays: list[Any]) -> Any:
    meshes = (jax.typeof(array).sharding.mesh for array in arrays)
    return next((mesh for mesh in meshes if _explicit_axes(mesh)), None)


def _explicit_axes(mesh: Any) -> tuple[str, ...]:
    named = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return tuple(name for name, kind in named if kind == AxisType.Explicit)
