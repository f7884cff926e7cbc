"""Where metrics go: metrics.jsonl, TensorBoard beside it, a line on the screen.

Numbers are means over the interval since the last line. The sums of an unfinished interval are part
of a checkpoint, so that a resumed run writes the same lines as an unbroken one; wall-clock numbers,
which can not be the same, are kept apart under `time/`.
"""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from mirage_jax.io.atomic import naming, replacing, write_atomically

TIME = "time/"
"""Prefix of the fields that depend on the machine and not on the run."""


class Mean:
    """Running means of named scalars."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Any]) -> None:
        """Adds one observation of each name."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value)
            self._counts[name] = self._counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        """The means so far; starts anew."""
        means = {name: total / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means

    def state(self) -> dict[str, list]:
        """JSON-serialisable state; Python writes floats so that they read back exactly."""
        return {name: [total, self._counts[name]] for name, total in self._sums.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from `state()`."""
        self._sums = {name: float(total) for name, (total, _) in state.items()}
        self._counts = {name: int(count) for name, (_, count) in state.items()}


class MetricsWriter:
    """Appends scalars to metrics.jsonl and TensorBoard; pictures to samples/ and TensorBoard,
    videos to samples/.

    Lines and events after `start_step` were written by a run that went on beyond the checkpoint
    this one starts from; they are removed (JSONL) or marked as purged (TensorBoard).

    Args:
      workdir: folder of the run.
      start_step: step this run goes on from.
      active: False on all processes but the first: nothing is written.
      extra: another board with the methods of this class, such as `WandbBoard`.
    """

    def __init__(
        self, workdir: Path, *, start_step: int = 0, active: bool = True, extra: Any = None
    ) -> None:
        self._workdir = workdir
        self._active = active
        self._extra = extra
        if active:
            workdir.mkdir(parents=True, exist_ok=True)
            self._open(start_step)

    def _open(self, start_step: int) -> None:
        from tensorboardX import SummaryWriter  # imports protobuf, slow, and only needed here

        path = self._workdir / "metrics.jsonl"
        _keep_until(path, start_step)
        self._file = path.open("a", encoding="utf-8")
        with naming(self._workdir / "tensorboard"):
            self._board = SummaryWriter(
                str(self._workdir / "tensorboard"), purge_step=start_step + 1
            )

    def rewind(self, step: int) -> None:
        """Removes what was written after a step that the run rolled back to."""
        if self._active:
            self._file.close()
            self._board.close()
            self._open(step)

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """One line {"step": ..., name: value, ...}."""
        if not self._active:
            return
        with naming(self._workdir / "metrics.jsonl"):
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        if self._extra is not None:
            self._extra.scalars(step, values)

    def picture(self, step: int, picture: np.ndarray) -> Path | None:
        """Writes `samples/step_00001000.png`; returns its path.

        Raises:
          ValueError: if `picture` is not uint8 [height, width, 3].
        """
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3:
            raise ValueError(
                f"samples: sheet: found {picture.dtype} {picture.shape}, expected uint8 (H, W, 3)"
            )
        if not self._active:
            return None
        path = self._sample_path(step, "png")
        with replacing(path) as partial:
            Image.fromarray(picture).save(partial, format="png")
        with naming(self._workdir / "tensorboard"):
            self._board.add_image("samples", picture, step, dataformats="HWC")
            self._board.flush()
        if self._extra is not None:
            self._extra.picture(step, picture)
        return path

    def video(self, step: int, frames: np.ndarray, fps: float) -> Path | None:
        """Writes `samples/step_00001000.mp4` of uint8 [T, H, W, 3]; returns its path."""
        if not self._active:
            return None
        from mirage_jax.io.video import write_video  # loads FFmpeg, and is only needed here

        return write_video(self._sample_path(step, "mp4"), frames, fps)

    def _sample_path(self, step: int, suffix: str) -> Path:
        folder = self._workdir / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"step_{step:08d}.{suffix}"

    def close(self) -> None:
        """Flushes and closes all."""
        if self._active:
            with naming(self._workdir):
                self._file.close()
                self._board.close()
            if self._extra is not None:
                self._extra.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last line that a killed process left truncated is left out.

    Raises:
      ValueError: if any other line is not JSON with a `step`.
    """
    lines = path.read_bytes().splitlines(keepends=True)
    records = []
    for number, line in enumerate(lines, 1):
        try:
            # Losses may be NaN, as Python writes them.
            record = json.loads(line)
            whole = isinstance(record, dict) and type(record.get("step")) is int
            complete = line.endswith(b"\n") and whole
        except (ValueError, RecursionError):
            complete = False
        if complete:
            records.append(record)
        elif number < len(lines):
            found = line[:60].decode(errors="replace")
            raise ValueError(f"{path}:{number}: found {found!r}, expected a JSON object")
    return records


def _keep_until(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = [record for record in read_metrics(path) if record["step"] <= step]
    write_atomically(path, "".join(json.dumps(record) + "\n" for record in kept))


class ProgressLine:
    """The live line of a run: share done, ETA, step time, loss. Without a terminal, plain lines.

    Args:
      name: what is trained.
      steps: steps of the whole run.
      start: step it goes on from.
      console: where to draw; the default writes to standard output.
      active: False draws nothing.

    Attributes:
      rates: of (seconds of a step, those spent waiting for data), the end of the line.
    """

    def __init__(
        self, name: str, steps: int, *, start: int = 0, console: Console | None = None, active=True
    ) -> None:
        self.console = console or Console(quiet=not active)
        self._name, self._steps, self._start = name, steps, start
        self._live = active and self.console.is_terminal
        self._updates = self._losses = 0
        self._seconds = self._waited = self._loss = 0.0
        self.rates: Callable[[float, float], str] = lambda seconds, waited: ""
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("{task.completed}/{task.total}  {task.fields[status]}"),
            console=self.console,
            disable=not self._live,
        )
        self._line = self._progress.add_task(name, total=steps, completed=start, status="compiling")
        self._progress.start()

    def update(self, step: int, *, loss: float | None, seconds: float, waited: float = 0.0) -> None:
        """After every step.

        Args:
          step: its number.
          loss: None where the step was skipped.
          seconds: what it took.
          waited: the part of them spent waiting for data.
        """
        # A mean at first, then smoothed over about twenty. The first step of a process is not
        # typical in time and is forgotten.
        if loss is not None:
            self._losses += 1
            self._loss += max(1 / self._losses, 0.05) * (loss - self._loss)
        self._updates += 1
        weight = max(1 / max(self._updates - 1, 1), 0.05)
        self._seconds += weight * (seconds - self._seconds)
        self._waited += weight * (waited - self._waited)
        self._progress.update(self._line, completed=step, status=self._status(step))

    def report(self, step: int) -> None:
        """At every logged step: a plain line, unless the live one is visible."""
        if not self._live:
            share = 100 * step / self._steps
            self.say(f"{self._name}  {step}/{self._steps}  {share:.0f}%  {self._status(step)}")

    def say(self, text: str) -> None:
        """Prints a line above the live one."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Leaves the last state of the line on the screen."""
        self._progress.stop()

    def _status(self, step: int) -> str:
        eta = format_seconds(self._seconds * (self._steps - step))
        parts = [f"loss {self._loss:.4g}", f"{format_step_time(self._seconds)}/step", f"ETA {eta}"]
        parts.append(self.rates(self._seconds, self._waited))
        return "  ".join(filter(None, parts))


class Phases:
    """Wall seconds by phase (compile, data, step, save, ...), each second counted once."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._started = self._last = time.monotonic()

    def end(self, name: str) -> float:
        """Books the time since the phase before ended for this one; returns it in seconds."""
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        return seconds

    @property
    def elapsed(self) -> float:
        """Seconds since this was made."""
        return time.monotonic() - self._started

    def summary(self) -> str:
        """`compile 3.1 s, step 41.0 s, ...`, longest first."""
        parts = sorted(self.seconds.items(), key=lambda item: -item[1])
        return ", ".join(f"{name} {seconds:.1f} s" for name, seconds in parts)


def format_seconds(seconds: float) -> str:
    """1:02:03."""
    whole = round(max(seconds, 0.0))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def format_step_time(seconds: float) -> str:
    """Milliseconds below ten seconds."""
    return f"{1000 * seconds:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"
