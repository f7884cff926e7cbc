"""Which parameter lies where: a table to read, and a refusal where too much is repeated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from mirage_jax.parallel.rules import Rules, splits_parameters

LIMIT = 0.02
"""Largest share of parameter bytes that every device may repeat where rules split parameters."""

SMALL = 2**24
"""Repeated bytes that are tolerated whatever their share: models of tests are all biases."""


def table(params: Any, shardings: Any) -> list[str]:
    """A line for every parameter: name, shape, type, spec, bytes on one device.

    Args:
      params: tree of arrays or `ShapeDtypeStruct`.
      shardings: tree of `NamedSharding` alike.
    """
    rows = [
        (
            name,
            "x".join(map(str, leaf.shape)) or "scalar",
            str(leaf.dtype),
            _spec(sharding),
            f"{math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize:,}",
        )
        for name, leaf, sharding in _named(params, shardings)
    ]
    rows.insert(0, ("parameter", "shape", "type", "split over", "bytes on a device"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def check_sharded(params: Any, shardings: Any, mesh: Mesh, rules: Rules) -> float:
    """Share of the bytes of parameters that is repeated on every device.

    Args:
      params: tree of arrays or `ShapeDtypeStruct`.
      shardings: tree of `NamedSharding` alike.
      mesh: what they are split over.
      rules: the logical axis rules.

    Raises:
      ValueError: if the rules split parameters over this mesh and still more than `LIMIT` of them,
        and more than `SMALL` bytes, are repeated; names the largest.
    """
    sizes = {
        name: (math.prod(leaf.shape) * leaf.dtype.itemsize, sharding.is_fully_replicated)
        for name, leaf, sharding in _named(params, shardings)
    }
    total = sum(size for size, _ in sizes.values())
    repeated = {name: size for name, (size, whole) in sizes.items() if whole}
    share = sum(repeated.values()) / total if total else 0.0
    if splits_parameters(mesh, rules) and share > LIMIT and sum(repeated.values()) > SMALL:
        largest = max(repeated, key=lambda name: repeated[name])
        raise ValueError(
            f"mesh: found {100 * share:.1f}% of parameter bytes repeated on every device, expected "
            f"at most {100 * LIMIT:g}% with these rules; the largest is {largest!r} with "
            f"{repeated[largest]:,} bytes: name its axes, or choose a mesh that divides them"
        )
    return share


def described(
    parts: Mapping[str, tuple[Any, Any]], mesh: Mesh, rules: Rules
) -> dict[str, list[str]]:
    """A line about every part of a model's parameters, and under it the part's `table`.

    Args:
      parts: trees and their shardings as `check_sharded` takes them, by name, such as "trained".
      mesh: what they are split over.
      rules: the logical axis rules.

    Raises:
      ValueError: as `check_sharded` for a part.
    """
    found = {}
    for name, (params, shardings) in parts.items():
        share = check_sharded(params, shardings, mesh, rules)
        count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
        line = f"{count:,} parameters {name}, {100 * share:.3g}% of their bytes on every device"
        found[line] = table(params, shardings)
    return found


def _named(params: Any, shardings: Any) -> list[tuple[str, Any, Any]]:
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf, sharding)
        for (path, leaf), sharding in zip(leaves, jax.tree.leaves(shardings), strict=True)
    ]


def _spec(sharding: Any) -> str:
    """fsdp on axis 1 -> "-,fsdp"; nothing -> "repeated"."""
    if sharding.is_fully_replicated:
        return "repeated"
    parts = [(axes,) if isinstance(axes, str) else tuple(axes or ()) for axes in sharding.spec]
    return ",".join("+".join(axes) or "-" for axes in parts)
