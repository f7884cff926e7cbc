"""mirage bench loader: how fast recorded clips are read, cut to windows and batched.

    mirage bench loader --recording=runs/quickstart/worlds/freedoom
    mirage bench loader --room_pixels=128 --window_frames=33 --loader_workers=0,2

Without --recording it records generated rooms, once for each way of storing them. Prints a table
and writes bench_loader.json (--json=FILE): windows, frames and decoded megabytes a second by worker
count, from the first batch on, so that the start of processes does not count.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import flags
from rich.console import Console
from rich.table import Table

from data_pipelines.clip_codecs import ENCODINGS
from mirage_jax.cli.helpers.bench_networks import json_path
from mirage_jax.cli.helpers.flag_types import Integer, Numbers, PathName
from mirage_jax.io import outputs
from mirage_jax.io.json_files import write_json

_CLIPS = flags.DEFINE(PathName(), "recording", "", "Folder of recorded clips; '' records rooms.")
_SIZE = flags.DEFINE(
    Integer(least=8), "room_pixels", 128, "Pixels of the rooms' pictures, without clips."
)
_FRAMES = flags.DEFINE(Integer(least=1), "window_frames", 33, "Frames of a window.")
_BATCH = flags.DEFINE(Integer(least=1), "batch_windows", 8, "Windows of a batch.")
_BATCHES = flags.DEFINE(Integer(least=1), "timed_batches", 12, "Batches to time.")
_WORKERS = flags.DEFINE(
    Numbers(Integer(least=0)), "loader_workers", [0, 1, 2], "Loader processes; 0 = threads."
)

_ROOMS = 16


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
    from data_pipelines import recording, sources

    if _CLIPS.value:
        yield "as recorded", Path(_CLIPS.value), "train"
        return
    source = sources.make("procedural", size=_SIZE.value, frames=_FRAMES.value)
    for encoding, codecs in ENCODINGS.items():
        out = folder / encoding
        recording.record(source, out, "train", _ROOMS, codecs=codecs, console=console)
        yield encoding, out, "train"


def measure(clips: Path, split: str, workers: int) -> dict[str, Any]:
    """Reads batches of windows and returns how many a second, and what a clip takes on the disk."""
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
        start = time.perf_counter()
        for _ in range(_BATCHES.value):
            next(stream)
        seconds = time.perf_counter() - start
    rate = _BATCHES.value * _BATCH.value / seconds
    return {
        "workers": workers,
        "windows_per_s": rate,
        "frames_per_s": rate * _FRAMES.value,
        "mb_per_s": rate * decoded / _BATCH.value / 1e6,
        "clip_mb": size / 1e6,
    }


def table(rows: list[dict[str, Any]]) -> Table:
    """A line per way of storing and number of processes."""
    result = Table(
        "stored", "clip MB", "processes", "windows/s", "frames/s", "MB/s",
        title=f"windows of {_FRAMES.value} frames, batches of {_BATCH.value}",
    )  # fmt: skip
    for row in rows:
        result.add_row(
            row["encoding"],
            f"{row['clip_mb']:.2f}",
            str(row["workers"]),
            *(f"{row[name]:,.1f}" for name in ("windows_per_s", "frames_per_s", "mb_per_s")),
        )
    return result


def main() -> None:
    run(Console())
