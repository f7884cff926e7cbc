"""Where the elements of a tiled memory lie: host memory or a device; `file_rows` maps files.

Each kind holds an array `[room, ...]` for every field of an element, of which it can write rows in
a run and take whole tiles of `TILE` rows.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from mirage_jax.memory.bank import ELEMENT_FIELDS, LatentMemory

TILE = 16
"""Elements of a tile."""

Rows = dict[str, Any]


class HostRows:
    """Rows in arrays of numpy."""

    def __init__(self, layout: LatentMemory) -> None:
        """No rows yet, of the dtypes and shapes that a slot has in `layout`."""
        self._layout = {
            name: (np.dtype(leaf.dtype), tuple(leaf.shape[1:]))
            for name in ELEMENT_FIELDS
            for leaf in (getattr(layout, name),)
        }
        self._arrays: Rows = {name: self._allocate(name, 0) for name in self._layout}

    @property
    def room(self) -> int:
        """Rows there is room for."""
        return len(self._arrays["valid"])

    @property
    def bytes_per_row(self) -> int:
        """Bytes of one element."""
        return sum(dtype.itemsize * int(np.prod(shape)) for dtype, shape in self._layout.values())

    def reserve(self, rows: int) -> None:
        """Makes room for `rows` in all, rounded up to whole tiles."""
        rows = -(-rows // TILE) * TILE
        if rows > self.room:
            for name, old in self._arrays.items():
                self._arrays[name] = self._allocate(name, rows)
                self._arrays[name][: len(old)] = old

    def put(self, first: int, rows: Rows) -> None:
        """Writes rows from number `first` on, for which there must be room."""
        for name, values in rows.items():
            self._arrays[name][first : first + len(values)] = values

    def put_tiles(self, tiles: Int[np.ndarray, " n"], rows: Rows) -> None:
        """Writes whole tiles."""
        for name, values in rows.items():
            array = self._arrays[name]
            array.reshape(-1, TILE, *array.shape[1:])[tiles] = np.reshape(
                values, (len(tiles), TILE, *array.shape[1:])
            )

    def get(self, name: str, first: int, stop: int) -> np.ndarray:
        """Rows of a field, in host memory; they may be those that are stored."""
        return self._arrays[name][first:stop]

    def take(self, names: Sequence[str], tiles: Int[np.ndarray, " n"], capacity: int) -> Rows:
        """Rows of these tiles one after another, then zeros, `capacity` in all."""
        taken = {}
        for name in names:
            dtype, shape = self._layout[name]
            out = _aligned((capacity // TILE, TILE * math.prod(shape)), dtype)
            source = self._arrays[name].reshape(-1, out.shape[1])
            # "clip" copies straight into `out`; the numbers are in range.
            np.take(source, tiles, axis=0, out=out[: len(tiles)], mode="clip")
            out[len(tiles) :] = 0
            taken[name] = out.reshape(capacity, *shape)
        return taken

    def pick(self, name: str, rows: Int[Array, "*n"]) -> Array:
        """Single rows of a field, on the device; zeros for those of negative number."""
        index = np.asarray(rows)
        dtype, shape = self._layout[name]
        picked = _aligned((*index.shape, *shape), dtype)
        np.take(self._arrays[name], index, axis=0, out=picked, mode="clip")
        picked[index < 0] = 0
        return jax.device_put(picked)

    def _allocate(self, name: str, rows: int) -> np.ndarray:
        dtype, shape = self._layout[name]
        return np.zeros((rows, *shape), dtype)


class DeviceRows(HostRows):
    """Rows in arrays of the default device."""

    def reserve(self, rows: int) -> None:
        rows = -(-rows // TILE) * TILE
        if rows > self.room:
            more = rows - self.room
            for name, old in self._arrays.items():
                self._arrays[name] = jnp.concatenate([old, self._allocate(name, more)])

    def put(self, first: int, rows: Rows) -> None:
        count = len(next(iter(rows.values())))
        longer = 1 << (count - 1).bit_length()  # so that few programs are compiled
        self.reserve(first + longer)
        for name, values in rows.items():
            values = jnp.asarray(values)
            rest = [(0, longer - count)] + [(0, 0)] * (values.ndim - 1)
            self._arrays[name] = _put(
                self._arrays[name], jnp.pad(values, rest), jnp.int32(first), jnp.int32(count)
            )

    def put_tiles(self, tiles: Int[np.ndarray, " n"], rows: Rows) -> None:
        index = jnp.asarray(_elements(tiles))
        for name, values in rows.items():
            self._arrays[name] = _put_at(self._arrays[name], index, jnp.asarray(values))

    def get(self, name: str, first: int, stop: int) -> np.ndarray:
        return np.asarray(self._arrays[name][first:stop])

    def take(self, names: Sequence[str], tiles: Int[np.ndarray, " n"], capacity: int) -> Rows:
        arrays = {name: self._arrays[name] for name in names}
        return _take(arrays, padded(tiles, capacity))

    def pick(self, name: str, rows: Int[Array, "*n"]) -> Array:
        return _pick(self._arrays[name], rows)

    def _allocate(self, name: str, rows: int) -> Any:
        dtype, shape = self._layout[name]
        return jnp.zeros((rows, *shape), dtype)


def _elements(tiles: Int[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
    return (tiles[:, None] * TILE + np.arange(TILE)).reshape(-1)


@functools.partial(jax.jit, donate_argnums=0)
def _put(array: Array, values: Array, first: Array, count: Array) -> Array:
    old = jax.lax.dynamic_slice_in_dim(array, first, len(values))
    new = jnp.arange(len(values)) < count
    new = new.reshape(-1, *(1,) * (values.ndim - 1))
    values = jnp.where(new, values.astype(array.dtype), old)
    return jax.lax.dynamic_update_slice_in_dim(array, values, first, axis=0)


@functools.partial(jax.jit, donate_argnums=0)
def _put_at(array: Array, index: Array, values: Array) -> Array:
    return array.at[index].set(values.astype(array.dtype), unique_indices=True)


@jax.jit
def _take(arrays: Rows, tiles: Array) -> Rows:
    kept = (tiles >= 0)[:, None]

    def one(array: Array) -> Array:
        in_tiles = array.reshape(-1, TILE * math.prod(array.shape[1:]))
        taken = in_tiles.at[jnp.maximum(tiles, 0)].get(mode="promise_in_bounds")
        taken = jnp.where(kept, taken, jnp.zeros((), array.dtype))
        return taken.reshape(-1, *array.shape[1:])

    return jax.tree.map(one, arrays)


@jax.jit
def _pick(array: Array, rows: Array) -> Array:
    mask = (rows >= 0).reshape(*rows.shape, *(1,) * (array.ndim - 1))
    return jnp.where(mask, array[jnp.maximum(rows, 0)], jnp.zeros((), array.dtype))


def padded(tiles: Int[np.ndarray, " n"], capacity: int) -> Int[np.ndarray, " m"]:
    """Numbers of the tiles of `capacity` slots, -1 where there is none."""
    numbers = np.full(capacity // TILE, -1, np.int32)
    numbers[: len(tiles)] = tiles
    return numbers


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array that a CPU device takes over without a copy; not to be changed once it has."""
    buffer = np.empty(math.prod(shape) * dtype.itemsize + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    return buffer[start : start + math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
