"""Logical axis name -> mesh axis: the one table that decides what is split where.

Modules name the axes of their parameters and activations; this file alone knows the mesh.  A name
that no rule mentions is a mistake and is refused, so that a renamed axis cannot silently end up
repeated on every device.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mirage_jax.parallel.mesh import BATCH_AXES

Rules = Sequence[tuple[str, Any]]

PRESETS: dict[str, dict[str, str | tuple[str, ...] | None]] = {
    # logical name      data            fsdp            fsdp_context    full
    #                   (parameters repeated) (parameters split) (+ tokens split) (+ layers split)
    name: dict(zip(("data", "fsdp", "fsdp_context", "full"), columns, strict=True))  # type: ignore[arg-type]
    for name, columns in {
        # activations
        "batch": (BATCH_AXES, BATCH_AXES, BATCH_AXES, BATCH_AXES),
        "tokens": (None, None, "context", "context"),
        "height": (None, None, "context", "context"),
        # parameters
        "embed": (None, "fsdp", "fsdp", "fsdp"),
        "mlp": (None, None, None, "tensor"),
        "heads": (None, None, None, "tensor"),
        "vocab": (None, None, None, "tensor"),
        "conv_in": (None, None, None, None),
        "conv_out": (None, "fsdp", "fsdp", "fsdp"),
        "layers": (None, None, None, None),
    }.items()
}
"""Rows: logical names. Columns: presets. A mesh axis of size 1 makes its entries a no-op."""


ACTIVATIONS = ("batch", "tokens", "height")
"""Logical names of activations; the others are of parameters."""


def preset(name: str = "full") -> Rules:
    """The rules of one column of `PRESETS`, in the form Flax takes.

    Raises:
      ValueError: if there is no such preset.
    """
    known = tuple(next(iter(PRESETS.values())))
    if name not in known:
        raise ValueError(f"rules: found {name!r}, expected one of {', '.join(known)}")
    return tuple((logical, columns[name]) for logical, columns in PRESETS.items())


def shardings(boxed: Any, mesh: Mesh, rules: Rules) -> Any:
    """Sharding of every leaf of an abstract tree whose parameters carry logical axis names.

    Leaves without names, and dimensions that the mesh axis does not divide (a bias of 3 channels
    over 2 devices), are repeated on every device.

    Args:
      boxed: tree of `ShapeDtypeStruct`, parameters still boxed (`nn.LogicallyPartitioned`).
      mesh: mesh with the axes the rules mention.
      rules: pairs (logical name, mesh axis or axes or None).

    Returns:
      The unboxed tree with a `NamedSharding` for each leaf.

    Raises:
      ValueError: if a parameter names an axis that is in no rule.
    """
    known = {logical for logical, _ in rules}

    def one(path: Any, leaf: Any) -> NamedSharding:
        if not is_box(leaf):
            return NamedSharding(mesh, PartitionSpec())
        names = leaf.get_partition_spec()
        unknown = sorted({n for n in jax.tree.leaves(tuple(names)) if n not in known})
        if unknown:
            raise ValueError(
                f"parameter {jax.tree_util.keystr(path, simple=True, separator='/')}: no rule for "
                f"the logical axis {unknown[0]!r}, expected one of {', '.join(sorted(known))}"
            )
        spec = nn.logical_to_mesh_axes(names, rules)  # type: ignore[arg-type]
        return NamedSharding(mesh, _divisible(spec, leaf.value.shape, mesh))

    return jax.tree_util.tree_map_with_path(one, boxed, is_leaf=is_box)


def is_box(leaf: Any) -> bool:
    """Whether a leaf carries the names of its axes."""
    return isinstance(leaf, nn.Partitioned)


def laid_out(boxed: Any, mesh: Mesh, rules: Rules) -> tuple[Any, Any]:
    """The tree without its boxes, and the sharding of every leaf; see `shardings`."""
    return unboxed(boxed), shardings(boxed, mesh, rules)


def unboxed(tree: Any) -> Any:
    """The tree without its boxes of axis names, concrete or abstract.

    `nn.unbox` would constrain each value to its sharding on the way, which an abstract one refuses
    and a host array answers by travelling to the devices.
    """
    return jax.tree.map(lambda leaf: leaf.value if is_box(leaf) else leaf, tree, is_leaf=is_box)


def placed(abstract: Any, tree_shardings: Any) -> Any:
    """An abstract tree, boxed or not, as `ShapeDtypeStruct` that carry their shardings."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        unboxed(abstract),
        tree_shardings,
    )


def splits_parameters(mesh: Mesh, rules: Rules) -> bool:
    """Whether the rules split any axis of a parameter over this mesh."""
    return any(
        mesh.shape[axis] > 1
        for logical, axes in rules
        if logical not in ACTIVATIONS
        for axis in ((axes,) if isinstance(axes, str) else tuple(axes or ()))
    )


def unsharded_share(abstract: Any, tree_shardings: Any) -> float:
    """Share of the tree's bytes that is repeated on every device, 0 (none) to 1 (all)."""
    total = repeated = 0
    for leaf, sharding in zip(
        jax.tree.leaves(abstract), jax.tree.leaves(tree_shardings), strict=True
    ):
        size = int(np.prod(leaf.shape)) * leaf.dtype.itemsize
        total += size
        repeated += size if sharding.is_fully_replicated else 0
    return repeated / total if total else 0.0


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Leading dimension over the batch axes, the rest whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def _divisible(spec: PartitionSpec | None, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    entries: list[Any] = []
    for size, axes in zip(shape, tuple(spec or ()), strict=False):
        group = (axes,) if isinstance(axes, str) else tuple(axes or ())
        parts = int(np.prod([mesh.shape[axis] for axis in group]))
        entries.append(axes if group and size % parts == 0 else None)
    return PartitionSpec(*entries)
