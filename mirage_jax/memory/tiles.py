"""A memory of many elements, of which a view reads only what may lie in it.

Elements stand in the order of their slots, in tiles of `rows.TILE` consecutive ones: since `write`
goes through a frame row by row, a tile is a short strip of a surface. Each tile has a bounding box,
and boxes are enclosed by larger ones (`boxes.BoxTree`). For a view the tiles whose boxes touch its
frustum are taken, in order, into a `LatentMemory` small enough for the device; that shows the view
what the whole memory would, bit for bit, ties included.

A tiled memory may be as large as the host's memory or disk. It is changed in place, unlike a
`LatentMemory`; its methods are not for `jax.jit`.
"""

from __future__ import annotations

import functools
import math
import os
import warnings
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from mirage_jax import geometry
from mirage_jax.memory import bank, boxes, readout
from mirage_jax.memory.bank import COUNTERS, ELEMENT_FIELDS, LatentMemory, WriteReport
from mirage_jax.memory.file_rows import FileRows
from mirage_jax.memory.readout import ReadOut
from mirage_jax.memory.rows import TILE, DeviceRows, HostRows, padded

PLACES = ("host", "device")
"""Where a tiled memory can lie, beside a folder."""

_POSITION = ("xyz", "valid")
_AT_ONCE = 1 << 20  # slots whose boxes are made together
_SHOWN = (*_POSITION, "time", "origin")


@flax.struct.dataclass
class Gathered:
    """The part of a tiled memory that some views may show.

    Attributes:
      memory: its elements in the order of their slots, then free slots.
      tiles: `[capacity / TILE]` int32, number of each tile in the whole memory, -1 = none.
      used: int32, slots of `memory` that were gathered; `memory.count` at first.
    """

    memory: LatentMemory
    tiles: Any
    used: Any

    def slots(self, source: Int[Array, "*n"]) -> Int[Array, "*n"]:
        """Slots in the whole memory of `source`, slots of `memory`; -1 stays."""
        tile = jnp.asarray(self.tiles)[jnp.maximum(source, 0) // TILE]
        return jnp.where(source >= 0, tile * TILE + source % TILE, -1)


class TiledMemory:
    """A memory in tiles, in host memory, in files or on the device.

    Attributes:
      counters: those of a `LatentMemory`, `bank.COUNTERS`, as Python numbers.
      working: slots of the memories that `gather` gives; doubled, with a warning, where views need
        more, as what reads them is compiled anew for every size.
    """

    def __init__(
        self,
        channels: int,
        dtype: Any = np.float32,
        *,
        place: str = "host",
        folder: str | os.PathLike[str] | None = None,
        working: int = 1 << 16,
    ) -> None:
        """An empty memory, or that of a folder.

        Args:
          channels: of a token.
          dtype: of the tokens.
          place: where the elements lie, one of `PLACES`.
          folder: lets them lie in files there instead, see `file_rows` and `save`; what was saved
            before is there again.
          working: see the class.

        Raises:
          ValueError: on a place that there is not, sizes that are not positive, or files of another
            kind of memory.
        """
        if place not in PLACES:
            raise ValueError(f"tiles: place: found {place!r}, expected one of {', '.join(PLACES)}")
        if working < TILE:
            raise ValueError(f"tiles: working: found {working}, expected at least {TILE}")
        layout = jax.eval_shape(lambda: bank.create(1, channels, dtype))
        self.counters = dict.fromkeys(COUNTERS, 0)
        self.channels, self.dtype = channels, np.dtype(dtype)
        self.working = _whole_tiles(working)
        self._boxes = boxes.BoxTree()
        self._newest = -math.inf
        self._rows: HostRows
        if folder is None:
            self._rows = HostRows(layout) if place == "host" else DeviceRows(layout)
        else:
            self._rows = FileRows(layout, folder)
            self.counters.update(self._rows.saved)
            for start in range(0, self.count, _AT_ONCE):
                stop = _whole_tiles(min(start + _AT_ONCE, self.count))
                xyz, valid = (self._rows.get(name, start, stop) for name in _POSITION)
                self._bound(np.arange(start // TILE, stop // TILE), xyz, valid)
            self._newest = self._latest()
        self._rows.reserve(TILE)  # so that there is something to take from

    @property
    def count(self) -> int:
        """Slots used so far."""
        return self.counters["count"]

    @property
    def nbytes(self) -> int:
        """Bytes of the slots used so far, boxes and free room not counted."""
        return self.count * self._rows.bytes_per_row

    def append(self, mem: LatentMemory, first: int = 0, stop: int | None = None) -> None:
        """Adds the slots `first` to `stop` (by default those used) of a memory behind those here.

        Elements that are not valid take their slot too, so that a memory of which all is appended
        to an empty one keeps its slots. Counters other than `count` stay.

        Raises:
          ValueError: on tokens of another number of channels.
        """
        stop = int(mem.count) if stop is None else stop
        if mem.channels != self.channels:
            raise ValueError(
                f"tiles: found a memory of {mem.channels} channels, expected {self.channels}"
            )
        if stop <= first:
            return
        rows = {name: _rows(mem, name, first, stop) for name in ELEMENT_FIELDS}
        start = self.count
        end = start + stop - first
        if end > self._rows.room:
            self._rows.reserve(max(end, 2 * self._rows.room))
        self._rows.put(start, rows)
        self.counters["count"] = end
        begin = start // TILE * TILE  # a tile that was begun before is bounded anew
        xyz, valid = rows["xyz"], rows["valid"]
        if begin < start:
            xyz = np.concatenate([self._rows.get("xyz", begin, start), xyz])
            valid = np.concatenate([self._rows.get("valid", begin, start), valid])
        rest = -len(valid) % TILE
        xyz = np.concatenate([xyz, np.zeros((rest, 3), np.float32)])
        valid = np.concatenate([valid, np.zeros(rest, bool)])
        self._bound(np.arange(begin // TILE, -(-end // TILE)), xyz, valid)
        times = rows["time"][rows["valid"]]
        self._newest = max(self._newest, float(times.max(initial=-np.inf)))

    def save(self) -> None:
        """Brings a memory that lies in a folder to the disk.

        After a crash what was appended since is lost. Elements that `absorb` changed in place may
        be the newer ones.

        Raises:
          ValueError: if there is no folder.
        """
        if not isinstance(self._rows, FileRows):
            raise ValueError("tiles: save: found no folder, expected one to be given at first")
        self._rows.save(self.counters)

    def write(
        self, tokens: Any, depth: Any, camera: geometry.Camera, **options: Any
    ) -> WriteReport:
        """Appends the cells of frames; arguments, report and errors as for `memory.write`."""
        frames, height, width = tokens.shape[:3]
        mem = bank.create(frames * height * width, self.channels, self.dtype)
        mem = mem.replace(frames=jnp.int32(self.counters["frames"]))  # type: ignore[attr-defined]
        mem, report = _write(mem, tokens, depth, camera, **options)
        self.append(mem)
        self.counters["frames"] += frames
        return report

    def gather(
        self,
        camera: geometry.Camera,
        *,
        far: float | int = math.inf,
        margin: float | int = 1.0,
        room: int = 0,
    ) -> Gathered:
        """What the views may show, as a memory that `memory.read` and all else can read.

        That reads as the whole memory does: tokens, visibility and depth to the bit, the sources
        after `Gathered.slots`, ages where the time of reading is given, since the newest element
        may be elsewhere (`newest`).

        Args:
          camera: of the views, any leading dimensions.
          far: tiles beyond this z-depth in all views are left out; metres. Give `memory.read` the
            same.
          margin: pixels about each picture that count as seen. Where cells stand for corners it has
            to be half a cell at least.
          room: free slots that there must be, to write to.
        """
        tiles = self._find(camera, far, margin)
        used = len(tiles) * TILE
        capacity = self._fit(used + room)
        rows = jax.device_put(self._rows.take(ELEMENT_FIELDS, tiles, capacity))
        counters = {**self.counters, "count": used}
        return Gathered(
            memory=LatentMemory(
                **rows, **{name: jnp.int32(value) for name, value in counters.items()}
            ),
            tiles=padded(tiles, capacity),
            used=jnp.int32(used),
        )

    def absorb(self, gathered: Gathered, mem: LatentMemory) -> None:
        """Takes over what became of a gathered memory: changed elements, new ones, counters.

        Args:
          gathered: as `gather` gave it; nothing may have been added here since.
          mem: `gathered.memory` after writes.
        """
        used = int(gathered.used)
        differ = _differ(mem, gathered.memory, gathered.used)
        changed = {name: _rows(mem, name, 0, used) for name in ELEMENT_FIELDS if differ[name]}
        if changed:
            tiles = np.asarray(gathered.tiles)[: used // TILE]
            self._rows.put_tiles(tiles, changed)
            self._bound(tiles, *(_rows(mem, name, 0, used) for name in _POSITION))
            self._newest = self._latest()
        self.append(mem, used)
        for name in COUNTERS:
            if name != "count":
                self.counters[name] = int(getattr(mem, name))

    def read(
        self,
        camera: geometry.Camera,
        grid: tuple[int, int],
        *,
        time: Any = None,
        cells: str = "centre",
        far: float | int = math.inf,
        **options: Any,
    ) -> ReadOut:
        """`memory.read` of the whole memory, from the tiles in view; sources are its slots.

        Only positions are gathered; tokens are fetched for the elements that are seen. Where the
        same views are read again and again, `gather` and read that.

        Args:
          camera: as for `memory.read`, like the rest.
          grid: see there.
          time: see there; by default the newest of the whole memory.
          cells: see there.
          far: see there.
          **options: the others of `memory.read`.
        """
        cell = max(camera.size[0] / grid[0], camera.size[1] / grid[1])
        margin = 1.0 + (cell / 2 if cells == "corner" else 0.0)
        tiles = self._find(camera, far, margin)
        names = _SHOWN if options.get("prefer") == "best_view" else _SHOWN[:-1]
        capacity = _steps_of_an_eighth(len(tiles) * TILE)
        # Programs of their own: as one, XLA on a CPU gathers again for every use.
        out, slots = _see(
            self._rows.take(names, tiles, capacity),
            padded(tiles, capacity),
            camera,
            np.float32(self.newest) if time is None else time,
            grid=tuple(grid),
            cells=cells,
            far=far,
            **options,
        )
        tokens = self._rows.pick("tokens", slots)
        return out.replace(tokens=tokens, source=slots)  # type: ignore[attr-defined]

    @property
    def newest(self) -> float:
        """Time of the newest element, -inf where there is none."""
        return self._newest

    def to_memory(self) -> LatentMemory:
        """The whole as a memory of numpy arrays, without free slots; those of files are copied."""
        stop = max(self.count, 1)
        rows = {name: np.array(self._rows.get(name, 0, stop)) for name in ELEMENT_FIELDS}
        counters = {name: np.int32(value) for name, value in self.counters.items()}
        return LatentMemory(**rows, **counters)

    def _find(
        self, camera: geometry.Camera, far: float | int, margin: float | int
    ) -> Int[np.ndarray, " n"]:
        return self._boxes.find(boxes.frusta(camera, far, margin))

    def _fit(self, needed: int) -> int:
        """Slots of the working memory, doubled until they are enough."""
        before = self.working
        while self.working < needed:
            self.working *= 2
        if self.working > before:
            warnings.warn(
                f"tiles: the view needs {needed:,} slots, more than the {before:,} of the working "
                f"memory, which now has {self.working:,}",
                stacklevel=3,
            )
        return self.working

    def _bound(self, tiles: Int[np.ndarray, " n"], xyz: np.ndarray, valid: np.ndarray) -> None:
        tiled = boxes.bounds(xyz.reshape(-1, TILE, 3), valid.reshape(-1, TILE))
        self._boxes.put(tiles, tiled)

    def _latest(self) -> float:
        time, valid = (self._rows.get(name, 0, self.count) for name in ("time", "valid"))
        return float(time[valid].max(initial=-np.inf))


def from_memory(mem: LatentMemory, **options: Any) -> TiledMemory:
    """A memory in tiles, with the slots it has.

    Args:
      mem: the memory.
      **options: see `TiledMemory`.

    Raises:
      ValueError: if a folder is given that holds elements already, and as `TiledMemory`.
    """
    tiled = TiledMemory(mem.channels, mem.tokens.dtype, **options)
    if tiled.count:
        raise ValueError(f"tiles: found {tiled.count} elements in the folder, expected none")
    tiled.append(mem)
    tiled.counters.update({name: int(getattr(mem, name)) for name in COUNTERS})
    return tiled


def _whole_tiles(slots: int) -> int:
    return -(-slots // TILE) * TILE


def _steps_of_an_eighth(slots: int) -> int:
    """A little more, so that few sizes occur: at most an eighth beyond the least of them."""
    step = max(1 << max(slots.bit_length() - 4, 0), 16 * TILE)
    return max(-(-slots // step), 1) * step


_write = jax.jit(bank.write)


def _rows(mem: LatentMemory, name: str, first: int, stop: int) -> np.ndarray:
    """Rows of a field, in host memory; the slice of a device's array would be compiled anew."""
    return np.asarray(getattr(mem, name))[first:stop]


@jax.jit
def _differ(a: LatentMemory, b: LatentMemory, used: Array) -> dict[str, Array]:
    """Which fields differ in the first `used` slots."""
    first = jnp.arange(a.capacity) < used

    def differs(name: str) -> Array:
        other = getattr(a, name) != getattr(b, name)
        return jnp.any(other.reshape(a.capacity, -1).any(axis=1) & first)

    return {name: differs(name) for name in ELEMENT_FIELDS}


@functools.partial(
    jax.jit, static_argnames=("grid", "prefer", "tolerance", "footprint", "cells", "far")
)
def _see(
    rows: dict[str, Array],
    tiles: Array,
    camera: geometry.Camera,
    time: Any,
    *,
    grid: tuple[int, int],
    **options: Any,
) -> tuple[ReadOut, Int[Array, "*v h w"]]:
    """The read-out but for the tokens, and the slots of the whole memory."""
    absent = dict.fromkeys((*ELEMENT_FIELDS, *COUNTERS))
    tokens = jnp.zeros((len(rows["valid"]), 0))
    mem = LatentMemory(**{**absent, **rows, "tokens": tokens})
    out = readout.read(mem, camera, grid, time=time, **options)
    return out, Gathered(mem, tiles, None).slots(out.source)
