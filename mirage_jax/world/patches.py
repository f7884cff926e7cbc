"""What one state has that another has not: enough to make it from the other, bit for bit.

States are pytrees of arrays, such as a `World`. Rows that are the same take no room: between two
chunks of a rollout most of a memory is.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import jax
import numpy as np

State = TypeVar("State")


@dataclasses.dataclass(frozen=True)
class Rows:
    """Some rows of an array that is otherwise the other state's.

    Attributes:
      rows: int64 [k], their numbers, increasing.
      values: [k, ...], what is in them.
    """

    rows: np.ndarray
    values: np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.rows.nbytes + self.values.nbytes


@dataclasses.dataclass(frozen=True)
class Patch:
    """How to make one state from another.

    Attributes:
      structure: of the state that is made.
      changes: of each of its leaves, by name: None if it is the other's; else rows, or all of it.
      on_host: names of leaves that are arrays of numpy.
    """

    structure: Any
    changes: dict[str, Rows | np.ndarray | None]
    on_host: frozenset[str]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(change.nbytes for change in self.changes.values() if change is not None)


def make_patch(source: Any, target: Any) -> Patch:
    """The patch that makes `target` from `source`."""
    known = _leaves(source)
    leaves = _leaves(target)
    changes = {name: _change(known.get(name), leaf) for name, leaf in leaves.items()}
    on_host = frozenset(n for n, leaf in leaves.items() if not isinstance(leaf, jax.Array))
    return Patch(jax.tree.structure(target), changes, on_host)


def apply_patch(patch: Patch, source: Any) -> Any:
    """The state that a patch makes from `source`, which must be the one that it was made from."""
    known, made = _leaves(source), []
    for name, change in patch.changes.items():
        if change is None:
            made.append(known[name])
            continue
        if isinstance(change, Rows):
            leaf = np.array(known[name])
            leaf[change.rows] = change.values
        else:
            leaf = change
        made.append(leaf if name in patch.on_host else _placed_like(leaf, known.get(name)))
    return jax.tree.unflatten(patch.structure, made)


def _placed_like(leaf: np.ndarray, other: Any) -> jax.Array:
    """On the device or, if the other lies on several, split over them as it is."""
    if isinstance(other, jax.Array) and len(other.sharding.device_set) > 1:
        return jax.device_put(leaf, other.sharding)
    return jax.device_put(leaf)  # `jnp.asarray` compiles something for every shape there is


def compose(first: Patch, second: Patch) -> Patch:
    """One patch for `first` and then `second`."""
    changes = {
        name: _after(first.changes.get(name), change) for name, change in second.changes.items()
    }
    return dataclasses.replace(second, changes=changes)


def _leaves(state: Any) -> dict[str, Any]:
    paths = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(path): leaf for path, leaf in paths}


def _change(known: Any, leaf: Any) -> Rows | np.ndarray | None:
    if leaf is known:
        return None
    new = np.asarray(leaf)
    if known is not None:
        old = np.asarray(known)
        if (old.shape, old.dtype) == (new.shape, new.dtype):
            if not new.size:
                return None
            if new.ndim == 0:
                return None if old.tobytes() == new.tobytes() else new.copy()
            rows = np.flatnonzero((_bits(old) != _bits(new)).any(axis=1))
            if not len(rows):
                return None
            change = Rows(rows, new[rows])
            if change.nbytes < new.nbytes:
                return change
    return new.copy()


def _bits(array: np.ndarray) -> np.ndarray:
    """The bits of each row as whole numbers."""
    flat = np.ascontiguousarray(array).reshape(len(array), -1)
    return flat.view(f"u{array.dtype.itemsize}")


def _after(
    first: Rows | np.ndarray | None, second: Rows | np.ndarray | None
) -> Rows | np.ndarray | None:
    if second is None:
        return first
    if first is None or not isinstance(second, Rows):
        return second
    if not isinstance(first, Rows):
        whole = first.copy()
        whole[second.rows] = second.values
        return whole
    kept = ~np.isin(first.rows, second.rows)
    rows = np.concatenate([first.rows[kept], second.rows])
    values = np.concatenate([first.values[kept], second.values])
    order = np.argsort(rows)
    return Rows(rows[order], values[order])
