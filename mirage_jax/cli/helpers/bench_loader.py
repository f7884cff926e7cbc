"""mirage bench loader: how fast recorded clips are read, cut to windows and batched.

    mirage bench loader --recording=runs/quickstart/worlds/freedoom
    mirage bench loader --room_pixels=128 --window_frames=33 --loader_workers=0,2
    mirage bench loader --room_pixels=704 --room_width=1280 --recorded_rooms=2
    mirage bench loader --recording=runs/wan/worlds/footage --window_frames=65 --step_seconds=2.03

Without --recording it records generated rooms, once for each way of storing them. Prints a table
and writes bench_loader.json (--json=FILE): windows, frames and decoded megabytes a second by worker
count, from the first batch on, so that the start of processes does not count. Of threads it says
the seconds of one core that a window takes, whatever else the machine does: times the windows a
second that a host's chips need, that is the cores that they need. With --step_seconds a step that
does nothing for so long takes the place of training, and the share of the time that it waits for
the next batch is measured.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from absl import flags
from rich.console import Console
from rich.table import Table

from data_pipelines import recording, sources
from data_pipelines.clip import Clip
from data_pipelines.clip_codecs import ENCODINGS
from data_pipelines.sources import Source
from mirage_jax.cli.helpers.bench_networks import json_path
from mirage_jax.cli.helpers.flag_types import Integer, Numbers, PathName, Real
from mirage_jax.io import outputs
from mirage_jax.io.json_files import write_json

_CLIPS = flags.DEFINE(PathName(), "recording", "", "Folder of recorded clips; '' records rooms.")
_SIZE = flags.DEFINE(
    Integer(least=8), "room_pixels", 128, "Height of the rooms' pictures, without clips."
)
_WIDTH = flags.DEFINE(Integer(least=0), "room_width", 0, "Their width; 0 = as the height.")
_ROOMS = flags.DEFINE(Integer(least=1), "recorded_rooms", 16, "How many of them are recorded.")
_ENCODINGS = flags.DEFINE_multi_enum(
    "room_encodings", list(ENCODINGS), list(ENCODINGS), "How rooms are stored; repeat it for more."
)
_FRAMES = flags.DEFINE(Integer(least=1), "window_frames", 33, "Frames of a window.")
_BATCH = flags.DEFINE(Integer(least=1), "batch_windows", 8, "Windows of a batch.")
_BATCHES = flags.DEFINE(Integer(least=1), "timed_batches", 12, "Batches to time.")
_WORKERS = flags.DEFINE(
    Numbers(Integer(least=0)), "loader_workers", [0, 1, 2], "Loader processes; 0 = threads."
)
_STEP = flags.DEFINE(
    Real(least=0), "step_seconds", 0.0, "Of a step that stands in for training; 0 = none."
)


def run(console: Console) -> None:
    path = json_path("loader")
    outputs.check_file(f"--json {path}", path, outputs.json_kind("file of timings", ["loader"]))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for encoding, clips, split in _recordings(Path(folder), console):
            for count in _WORKERS.value:
                with console.status(f"{encoding}, {count} loader processes"):
                    rows.append({"encoding": encoding, **measure(clips, split, count)})
    outcome = {"loader": rows, "cores": os.cpu_count(), "frames": _FRAMES.value}
    write_json(path, outcome)
    console.print(table(rows))
    console.print(f"-> {path}")


def _recordings(folder: Path, console: Console) -> Iterator[tuple[str, Path, str]]:
    """How clips are stored, where, and the split to read."""
    if _CLIPS.value:
        yield "as recorded", Path(_CLIPS.value), "train"
        return
    rooms = _Rooms((_SIZE.value, _WIDTH.value or _SIZE.value), _FRAMES.value)
    for encoding in _ENCODINGS.value:
        out = folder / encoding
        recording.record(
            rooms, out, "train", _ROOMS.value, codecs=ENCODINGS[encoding], console=console
        )
        yield encoding, out, "train"


@dataclasses.dataclass(frozen=True)
class _Rooms:
    """Generated rooms, the middle of square pictures being cut to a size (H, W)."""

    size: tuple[int, int]
    frames: int
    name: ClassVar[str] = "procedural"

    @property
    def _squares(self) -> Source:
        return sources.make(self.name, size=max(self.size), frames=self.frames)

    def worlds(self, split: str) -> tuple[str, ...]:
        return self._squares.worlds(split)

    def clips(self, world: str, count: int, seed: int) -> Iterator[Clip]:
        top, left = ((max(self.size) - side) // 2 for side in self.size)
        rows, columns = slice(top, top + self.size[0]), slice(left, left + self.size[1])
        for clip in self._squares.clips(world, count, seed):
            assert clip.depth is not None and clip.mover_ids is not None
            yield dataclasses.replace(
                clip,
                video=clip.video[:, rows, columns],
                depth=clip.depth[:, rows, columns],
                mover_ids=clip.mover_ids[:, rows, columns],
                intrinsics=clip.intrinsics - np.array([0, 0, left, top], np.float32),
            )


def measure(clips: Path, split: str, workers: int) -> dict[str, Any]:
    """Reads batches of windows: how many a second, what each costs, and how long a step waits."""
    from data_pipelines.clip import REQUIRED_PARTS
    from data_pipelines.loading import ClipSource, Window, batches

    source = ClipSource(clips, split, REQUIRED_PARTS)
    size = sum(path.stat().st_size for path in source.paths) / len(source)
    with batches(
        source, Window(_FRAMES.value), batch_size=_BATCH.value, seed=0, workers=workers
    ) as stream:
        try:
            first = next(stream)
        except ValueError as error:
            raise ValueError(f"{clips}: --window_frames={_FRAMES.value}: {error}") from error
        decoded = sum(array.nbytes for array in first.values())
        start, worked, waited = time.perf_counter(), time.process_time(), 0.0
        for _ in range(_BATCHES.value):
            time.sleep(_STEP.value)
            asked = time.perf_counter()
            next(stream)
            waited += time.perf_counter() - asked
        seconds, worked = time.perf_counter() - start, time.process_time() - worked
    windows = _BATCHES.value * _BATCH.value
    rate = windows / seconds
    return {
        "workers": workers,
        "windows_per_s": rate,
        "frames_per_s": rate * _FRAMES.value,
        "mb_per_s": rate * decoded / _BATCH.value / 1e6,
        "clip_mb": size / 1e6,
        "core_s": None if workers else worked / windows,
        "waiting": waited / seconds if _STEP.value else None,
    }


def table(rows: list[dict[str, Any]]) -> Table:
    """A line per way of storing and number of processes."""
    result = Table(
        *("stored", "clip MB", "processes", "windows/s", "frames/s", "MB/s"),
        *("core s/window", "waiting"),
        title=f"windows of {_FRAMES.value} frames, batches of {_BATCH.value}",
    )  # fmt: skip
    for row in rows:
        result.add_row(
            row["encoding"],
            f"{row['clip_mb']:.2f}",
            str(row["workers"]),
            *(f"{row[name]:,.1f}" for name in ("windows_per_s", "frames_per_s", "mb_per_s")),
            "" if row["core_s"] is None else f"{row['core_s']:.3f}",
            "" if row["waiting"] is None else f"{row['waiting']:.1%}",
        )
    return result


def main() -> None:
    run(Console())
