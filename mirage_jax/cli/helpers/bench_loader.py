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

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import flags
from rich.console import Console
from rich.table import Table

from data_pipelines import recording, sources
from data_pipelines.clip_codecs import ENCODINGS
from mirage_jax.cli.helpers import json_flag
from mirage_jax.cli.helpers.flag_types import Integer, Numbers, PathName, Real
from mirage_jax.io import outputs
from mirage_jax.io.json_files import write_json

FLAG_MODULES = (json_flag.__name__,)

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
_CHUNK = flags.DEFINE(
    Integer(least=0),
    "window_chunk",
    0,
    "Frames of the chunk of windows that come back, 1 + 4 n; 0 = windows without a break.",
)
_BATCH = flags.DEFINE(Integer(least=1), "batch_windows", 8, "Windows of a batch.")
_BATCHES = flags.DEFINE(Integer(least=1), "timed_batches", 12, "Batches to time.")
_WORKERS = flags.DEFINE(
    Numbers(Integer(least=0)), "loader_workers", [0, 1, 2], "Loader processes; 0 = threads."
)
_STEP = flags.DEFINE(
    Real(least=0), "step_seconds", 0.0, "Of a step that stands in for training; 0 = none."
)

_SKY = 200.0  # metres, as the configs say


def run(console: Console) -> None:
    path = json_flag.json_path("loader")
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
    shape = {"size": _SIZE.value, "width": _WIDTH.value}
    rooms = sources.make("procedural", **shape, frames=_FRAMES.value)
    for encoding in _ENCODINGS.value:
        out = folder / encoding
        recording.record(
            rooms, out, "train", _ROOMS.value, codecs=ENCODINGS[encoding], console=console
        )
        yield encoding, out, "train"


def measure(clips: Path, split: str, workers: int) -> dict[str, Any]:
    """Reads batches of windows: how many a second, what each costs, and how long a step waits.

    What is read, chosen and made of it is what training from video has its loader do.
    """
    from data_pipelines.loading import ClipSource, batches
    from mirage_jax.training.clip_encoding import OPTIONAL_FIELDS, REQUIRED_FIELDS, EncoderInputs

    source = ClipSource(clips, split, REQUIRED_FIELDS, optional=OPTIONAL_FIELDS)
    size = sum(path.stat().st_size for path in source.paths) / len(source)
    # Clips without depth have zeros in its place here, no network: that is not the loader's work.
    inputs = EncoderInputs(_SKY, estimates=True, windows=(_window(),))
    with batches(source, inputs, batch_size=_BATCH.value, seed=0, workers=workers) as stream:
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


def _window() -> Any:
    """Windows that come back, where they have room for a history; else any of that length."""
    from data_pipelines.loading import Window
    from data_pipelines.return_windows import ReturnWindow

    if _CHUNK.value == 0:
        return Window(_FRAMES.value)
    return ReturnWindow(_FRAMES.value, _CHUNK.value)


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
