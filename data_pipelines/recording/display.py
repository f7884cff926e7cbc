"""What a recording shows while it runs."""

import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from data_pipelines.recording.shards import Event


class Display:
    """A rich progress bar, or a plain line every ten seconds where there is no terminal."""

    def __init__(self, title: str, total: int, enabled: bool, console: Console | None):
        self._console = console or Console(stderr=True)
        self._title = title
        self._total = total
        self._enabled = enabled
        self._clips = self._before = self._rejected = 0
        self._start = self._told = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("clips, {task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not (enabled and self._console.is_terminal),
        )
        self._task = self._bar.add_task(title, total=total, rate="starting")

    def __enter__(self) -> "Display":
        self._bar.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._bar.stop()
        if self._enabled and kind is None:
            self._console.print(self._line(), highlight=False)

    def begin(self, clips: int) -> None:
        """Counts what an earlier run recorded."""
        self._clips = self._before = clips
        self._bar.update(self._task, completed=clips)

    def show(self, event: Event) -> None:
        if event.kind == "rejected":
            self._rejected += 1
            if self._enabled and event.value and self._rejected <= 3:
                self._console.print(f"rejected: {event.value}", markup=False, highlight=False)
        elif event.kind == "clip":
            self._clips += 1
        self._bar.update(self._task, completed=self._clips, rate=self._rate())
        now = time.monotonic()
        if self._enabled and not self._console.is_terminal and now - self._told > 10:
            self._told = now
            self._console.print(self._line(), highlight=False)

    def _speed(self) -> float:
        return (self._clips - self._before) / max(time.monotonic() - self._start, 1e-3)

    def _rate(self) -> str:
        if self._clips == self._before and not self._rejected:
            return f"{self._before} from an earlier run"
        return f"{self._speed():.1f}/s, {self._rejected} rejected"

    def _line(self) -> str:
        left = (self._total - self._clips) / self._speed() if self._clips > self._before else 0
        tail = f", about {left:.0f} s left" if left > 0 else ""
        return f"{self._title}: {self._clips}/{self._total} clips, {self._rate()}{tail}"
