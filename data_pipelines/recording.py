"""Records any source of worlds into ArrayRecord shards with a dataset card.

The work is planned first: a list of shards, each with its worlds, counts and seeds, which depends
on the arguments alone.  A shard is therefore the same whichever process records it and whenever,
which is what makes a recording resumable: finished shards are skipped.  A shard appears under its
name only when complete (temporary file, fsync, rename).
"""

import collections
import contextlib
import dataclasses
import errno
import io
import itertools
import multiprocessing
import os
import queue
import shutil
import signal
import sys
import tempfile
import time
import traceback
import types
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from array_record.python import array_record_module
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from data_pipelines import clip as clip_format
from data_pipelines.card import contact_sheet, read_card, write_atomically, write_card
from data_pipelines.clip import Clip
from data_pipelines.sources import Source

# Group size 1 gives cheap random access.  Measured on 33x64x64 Freedoom clips, zstd:3 on the plain
# record (278 kB of 1.5 MB, > 1000 reads/s) beat byte-shuffled and delta-coded depth in both.
WRITER_OPTIONS = "group_size:1,zstd:3"
READER_OPTIONS = "readahead_buffer_size:0"
_ATTEMPTS = 2
_SPARE_BYTES = 32 << 20
_EXAMPLES = 20
_SHEET_CLIPS = 6
_PATIENCE = 10  # seconds for a worker to close its engine


@dataclasses.dataclass(frozen=True)
class Job:
    """`count` clips of one world."""

    world: str
    count: int
    seed: int


@dataclasses.dataclass(frozen=True)
class Shard:
    """One ArrayRecord file and what goes into it."""

    index: int
    file: str
    jobs: tuple[Job, ...]

    @property
    def count(self) -> int:
        return sum(job.count for job in self.jobs)


@dataclasses.dataclass(frozen=True)
class Report:
    """What a recording has come to.

    Attributes:
      clips: clips in all shards of the split.
      requested: clips asked for; larger than `clips` if some worlds would not give enough.
      rejected: clips drawn and not kept, for any reason.
      reasons: how many for which reason: those of the source, and "invalid" for clips which
        `clip.validate` refused.
      examples: the messages of the first invalid clips.
      shards: paths of all shards of the split, in order.
      resumed: how many of them an earlier run had finished.
      seconds: wall time of this run.
    """

    clips: int
    requested: int
    rejected: int
    reasons: dict[str, int]
    examples: tuple[str, ...]
    shards: tuple[Path, ...]
    resumed: int
    seconds: float


class RecordingError(OSError):
    """The source, or a process that recorded it, failed; finished shards are kept."""


class _Event(NamedTuple):
    kind: str  # "clip", "rejected", "done" or "failed"
    shard: int
    value: Any = None


def plan(source: Source, split: str, count: int, *, seed: int, shard_clips: int) -> list[Shard]:
    """Divides `count` clips evenly over the worlds of `split`, and the worlds over shards.

    A world's clips stay together (starting an engine costs more than a clip) unless they exceed
    `shard_clips`.

    Raises:
      ValueError: `count` or `shard_clips` below 1, or a split without worlds.
    """
    if count < 1 or shard_clips < 1:
        raise ValueError(f"found count={count}, shard_clips={shard_clips}; expected 1 or more")
    worlds = source.worlds(split)
    if not worlds:
        raise ValueError(f"source {source.name!r} has no worlds in split {split!r}")
    bounds = [index * count // len(worlds) for index in range(len(worlds) + 1)]
    groups: list[list[Job]] = []
    room = 0
    for world, first, last in zip(worlds, bounds, bounds[1:], strict=False):
        for part, start in enumerate(range(first, last, shard_clips)):
            size = min(shard_clips, last - start)
            if size > room:
                groups.append([])
                room = shard_clips
            groups[-1].append(Job(world, size, _seed(seed, world, part)))
            room -= size
    return [
        Shard(index, f"{split}-{index:05d}-of-{len(groups):05d}.array_record", tuple(jobs))
        for index, jobs in enumerate(groups)
    ]


def _seed(seed: int, world: str, *parts: int) -> int:
    entropy = [seed, zlib.crc32(world.encode()), *parts]
    return int(np.random.SeedSequence(entropy).generate_state(1)[0] >> 1)


def record(
    source: Source,
    out_dir: str | os.PathLike[str],
    split: str,
    count: int,
    *,
    seed: int = 0,
    shard_clips: int = 64,
    workers: int | None = None,
    progress: bool = True,
    console: Console | None = None,
) -> Report:
    """Records `count` clips of `split` into `out_dir`, or finishes doing so.

    Writes `{split}-iiiii-of-nnnnn.array_record`, `dataset.json` and `{split}.png`.  Several splits
    of one source may share a folder.

    Args:
      source: what to record; picklable, see `sources.Source`.
      out_dir: folder of the dataset, created if need be.
      split: "train" or "eval", passed to `source.worlds`.
      count: clips to record, spread evenly over the worlds.
      seed: of the whole recording.
      shard_clips: largest number of clips per shard.
      workers: processes; default one per usable core, 0 = record in this process.
      progress: show a progress bar with the time left (plain lines where there is no terminal).
      console: where to show it, default standard error.

    Returns:
      A `Report`; refused clips are counted in it, replaced where the source can, and shown.

    Raises:
      ValueError: bad arguments, or `out_dir` holds this split recorded with other arguments.
      OSError: with `errno.ENOSPC` when the disk is full; finished shards are kept and valid.
      RecordingError: the source failed or gave no valid clip at all, with its reason.
    """
    start = time.monotonic()
    directory = Path(out_dir).absolute()
    shards = plan(source, split, count, seed=seed, shard_clips=shard_clips)
    if workers is None:
        # Linux knows which cores this process may use.
        usable = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
        workers = len(usable(0))
    if workers < 0:
        raise ValueError(f"found workers={workers}, expected 0 or more processes")

    card = read_card(directory)
    entry = _entry(card, source, split, count, seed, shard_clips, directory)
    directory.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(directory, split)
    done = {shard.index for shard in shards if (directory / shard.file).exists()}
    _recount(entry, shards, done, directory)
    todo = [shard for shard in shards if shard.index not in done]

    try:
        write_card(directory, card)
        with (
            contextlib.closing(_events(source, todo, directory, workers)) as events,
            _Display(f"recording {source.name} {split}", count, progress, console) as display,
        ):
            display.begin(sum(shards[index].count for index in done))
            for event in events:
                display.show(event)
                if event.kind == "done":
                    entry["shards"][shards[event.shard].file] = event.value
                    write_card(directory, card)
        summary = _summarise(entry, directory)
        if todo:
            entry["seconds"] = round(entry.get("seconds", 0) + time.monotonic() - start, 1)
        write_card(directory, card)
        if summary["clips"] == 0:
            why = f"rejected {summary['reasons']}, {summary['examples'][:2]}"
            raise RecordingError(f"source {source.name!r} gave no clip for {split!r}: {why}")
        paths = tuple(directory / shard.file for shard in shards)
        if todo or not (directory / f"{split}.png").exists():
            counts = [entry["shards"][shard.file]["clips"] for shard in shards]
            _write_sheet(directory / f"{split}.png", paths, counts)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        kept = sum((directory / shard.file).exists() for shard in shards)
        raise OSError(
            errno.ENOSPC,
            f"no space left in {directory} ({error.strerror or error}); the {kept} finished of "
            f"{len(shards)} shards are kept, the same command goes on from there",
        ) from error
    finally:
        _remove_leftovers(directory, split)
    return Report(
        clips=summary["clips"],
        requested=count,
        rejected=summary["rejected"],
        reasons=summary["reasons"],
        examples=tuple(summary["examples"]),
        shards=paths,
        resumed=len(done),
        seconds=time.monotonic() - start,
    )


def _entry(
    card: dict[str, Any],
    source: Source,
    split: str,
    count: int,
    seed: int,
    shard_clips: int,
    directory: Path,
) -> dict[str, Any]:
    """Returns the card's entry of this split, refusing to mix two recordings in one folder."""
    options = vars(source)
    if dataclasses.is_dataclass(source):
        names = [field.name for field in dataclasses.fields(source) if field.init]
        options = {name: getattr(source, name) for name in names}
    wanted = {
        "source": source.name,
        "options": {key: _plain(value) for key, value in options.items()},
        "count": count,
        "seed": seed,
        "shard_clips": shard_clips,
    }
    entry = card["splits"].setdefault(split, {**wanted, "clip_format": clip_format.FORMAT})
    for key, value in wanted.items():
        if entry.get(key) != value:
            raise ValueError(
                f"{directory}: split {split!r} was recorded with {key}={entry.get(key)!r}, found "
                f"{key}={value!r}; expected the same arguments, or another folder"
            )
    entry.setdefault("shards", {})
    return entry


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _recount(entry: dict[str, Any], shards: list[Shard], done: set[int], directory: Path) -> None:
    """Makes the card's shard entries those of the files that are there."""
    known = entry["shards"]
    entry["shards"] = {}
    for shard in shards:
        if shard.index not in done:
            continue
        # A run may have been killed between the rename of a shard and the card.
        entry["shards"][shard.file] = known.get(shard.file) or _describe(
            [
                clip_format.decode(data, ("world", "trajectory"))
                for data in read_records(directory / shard.file)
            ],
            {},
            [],
        )


def _describe(
    metas: list[dict[str, Any]], reasons: dict[str, int], examples: list[str]
) -> dict[str, Any]:
    return {
        "clips": len(metas),
        "worlds": dict(collections.Counter(meta["world"] for meta in metas)),
        "trajectories": dict(collections.Counter(meta["trajectory"] for meta in metas)),
        "reasons": reasons,
        "examples": examples[:_EXAMPLES],
    }


def _summarise(entry: dict[str, Any], directory: Path) -> dict[str, Any]:
    parts = [entry["shards"][file] for file in sorted(entry["shards"])]
    summary: dict[str, Any] = {
        "clips": sum(part["clips"] for part in parts),
        "examples": [text for part in parts for text in part["examples"]][:_EXAMPLES],
        "bytes": sum((directory / file).stat().st_size for file in entry["shards"]),
    }
    for key in ("worlds", "trajectories", "reasons"):
        total: collections.Counter = collections.Counter()
        for part in parts:
            total.update(part[key])
        summary[key] = dict(total)
    summary["rejected"] = sum(summary["reasons"].values())
    full = [file for file in sorted(entry["shards"]) if entry["shards"][file]["clips"]]
    if full:
        clip = clip_format.from_bytes(next(read_records(directory / full[0])))
        summary |= {"frames": clip.frames, "height": clip.size[0], "width": clip.size[1]}
        summary |= {"fps": clip.fps, "gamma": clip.gamma}
    entry.update(summary)
    return summary


def read_records(path: str | os.PathLike[str], start: int = 0) -> Iterator[bytes]:
    """Yields the raw records of one shard in order, from record `start` on.

    Raises:
      ValueError: the file is not an ArrayRecord file.
    """
    try:
        reader = array_record_module.ArrayRecordReader(os.fspath(path), READER_OPTIONS)
    except RuntimeError as error:
        raise ValueError(f"{path}: not an ArrayRecord file ({error})") from error
    with contextlib.closing(reader):
        for index in range(start, reader.num_records()):
            yield reader.read([index])[0]


def _write_sheet(path: Path, shards: tuple[Path, ...], counts: list[int]) -> None:
    ends = np.cumsum(counts)
    clips = []
    for number in np.unique(np.linspace(0, ends[-1] - 1, _SHEET_CLIPS).astype(int)):
        shard = int(np.searchsorted(ends, number, side="right"))
        first = int(ends[shard]) - counts[shard]
        record = next(itertools.islice(read_records(shards[shard], int(number) - first), 1))
        clips.append(clip_format.from_bytes(record))
    buffer = io.BytesIO()
    contact_sheet(clips).save(buffer, "PNG")
    write_atomically(path, buffer.getvalue())


def _remove_leftovers(directory: Path, split: str) -> None:
    for path in directory.glob(f".{split}-*.tmp"):
        path.unlink(missing_ok=True)


def _record_shard(source: Source, shard: Shard, directory: Path) -> Generator[_Event, None, None]:
    """Records one shard, saying how it goes; the last event is "done" with the shard's entry."""
    path = directory / shard.file
    temporary = directory / f".{shard.file}.tmp"
    metas: list[dict[str, Any]] = []
    reasons: collections.Counter = collections.Counter()
    examples: list[str] = []
    try:
        with _writer(temporary) as writer:
            for clip, reason, message in _valid_clips(source, shard):
                if clip is None:
                    reasons[reason] += 1
                    if message:
                        examples.append(message)
                    yield _Event("rejected", shard.index, message)
                    continue
                data = clip_format.to_bytes(clip)
                _require_space(directory, len(data))
                writer.write(data)
                metas.append({"world": clip.world, "trajectory": clip.trajectory})
                yield _Event("clip", shard.index)
        _sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    yield _Event("done", shard.index, _describe(metas, dict(reasons), examples))


def _valid_clips(source: Source, shard: Shard) -> Iterator[tuple[Clip | None, str, str]]:
    """Yields (clip, "", ""), or (None, reason, message), asking anew for what is missing."""
    shape: tuple[int, ...] | None = None
    for job in shard.jobs:
        missing = job.count
        for attempt in range(_ATTEMPTS):
            seed = job.seed if attempt == 0 else _seed(job.seed, job.world, attempt)
            told = collections.Counter(getattr(source, "rejected", {}))
            for clip in itertools.islice(source.clips(job.world, missing, seed), missing):
                try:
                    clip_format.validate(clip)
                    shape = shape or clip.video.shape
                    if clip.video.shape != shape:
                        raise ValueError(
                            f"clip {clip.name!r}, video: found {list(clip.video.shape)}, expected "
                            f"{list(shape)} like the clips before it"
                        )
                except ValueError as error:
                    yield None, "invalid", str(error)
                    continue
                missing -= 1
                yield clip, "", ""
            now = collections.Counter(getattr(source, "rejected", {}))
            for reason in (now - told).elements():
                yield None, reason, ""
            if missing == 0:
                break


@contextlib.contextmanager
def _writer(path: Path) -> Iterator[Any]:
    """An ArrayRecordWriter that reports a full disk as OSError, as Python's own files do."""
    try:
        writer = array_record_module.ArrayRecordWriter(os.fspath(path), WRITER_OPTIONS)
        try:
            yield writer
        finally:
            writer.close()
    except RuntimeError as error:
        if any(os.strerror(code) in str(error) for code in (errno.ENOSPC, errno.EDQUOT)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(path)) from error
        raise


def _require_space(directory: Path, needed: int) -> None:
    # The writer buffers and reports a full disk only on closing, minutes of rendering later.
    free = shutil.disk_usage(directory).free
    if free < needed + _SPARE_BYTES:
        raise OSError(errno.ENOSPC, f"{free >> 20} MiB free, {_SPARE_BYTES >> 20} MiB kept spare")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _events(
    source: Source, shards: list[Shard], directory: Path, workers: int
) -> Generator[_Event, None, None]:
    if workers == 0 or not shards:
        for shard in shards:
            try:
                yield from _record_shard(source, shard, directory)
            except RuntimeError as error:  # how sources say that they cannot go on
                raise RecordingError(f"{_where(shard)}: {error}") from error
    else:
        yield from _parallel_events(source, shards, directory, min(workers, len(shards)))


def _parallel_events(
    source: Source, shards: list[Shard], directory: Path, workers: int
) -> Generator[_Event, None, None]:
    context = multiprocessing.get_context("spawn")
    tasks: Any = context.Queue()
    events: Any = context.Queue()
    for shard in [*shards, *[None] * workers]:
        tasks.put(shard)
    with tempfile.TemporaryDirectory(prefix="recording-") as scratch:
        processes = [
            context.Process(
                target=_work,
                args=(source, directory, Path(scratch) / str(number), tasks, events),
                daemon=True,
            )
            for number in range(workers)
        ]
        try:
            with _hidden_main(source):
                for process in processes:
                    process.start()
            remaining = len(shards)
            while remaining:
                try:
                    event = events.get(timeout=0.5)
                except queue.Empty:
                    _check_alive(processes)
                    continue
                if event.kind == "failed":
                    _raise_failure(*event.value)
                remaining -= event.kind == "done"
                yield event
            for process in processes:
                process.join()
        finally:
            for process in processes:
                if process.is_alive():
                    process.terminate()
            for process in processes:
                if process.pid is not None:
                    process.join(_PATIENCE)
                    process.kill()
                    process.join()
            tasks.cancel_join_thread()


@contextlib.contextmanager
def _hidden_main(source: Source) -> Iterator[None]:
    """Keeps spawned workers from importing the program that called us, and with it jax.

    multiprocessing imports the parent's `__main__` in every child, so that objects defined there
    can be unpickled; only a source that is itself defined there needs it.
    """
    main = sys.modules["__main__"]
    if type(source).__module__ == "__main__":
        yield
        return
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _check_alive(processes: list[Any]) -> None:
    codes = [process.exitcode for process in processes]
    died = [code for code in codes if code not in (None, 0)]
    if died or None not in codes:
        raise RecordingError(
            f"recording workers ended early with exit codes {codes} (negative: killed by that "
            "signal); finished shards are kept, the same command goes on from there"
        )


def _raise_failure(number: int | None, message: str, trace: str) -> None:
    error: Exception
    if number is not None:
        error = OSError(number, message)
    else:
        error = RecordingError(message)
    error.add_note(f"In the recording worker:\n{trace}")
    raise error


def _work(source: Source, directory: Path, scratch: Path, tasks: Any, events: Any) -> None:
    """The body of a worker process."""
    # Engines drop files where they start; two in one folder race for them.
    scratch.mkdir()
    os.chdir(scratch)
    # Leave through the `with` blocks of the source, which stop its engine.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    parent = multiprocessing.parent_process()
    shard: Shard | None = None
    try:
        while (shard := tasks.get()) is not None:
            for event in _record_shard(source, shard, directory):
                events.put(event)
                if parent is not None and not parent.is_alive():
                    return
    except KeyboardInterrupt:
        pass  # The parent got it too and stops the recording.
    except OSError as error:
        number = error.errno if error.errno == errno.ENOSPC else None
        message = error.strerror or str(error) if number else f"{_where(shard)}: {error}"
        events.put(_Event("failed", -1, (number, message, traceback.format_exc())))
    except Exception as error:
        # The boundary between processes: whatever the source raised is told to the parent.
        message = f"{_where(shard)}: {type(error).__name__}: {error}"
        events.put(_Event("failed", -1, (None, message, traceback.format_exc())))


def _where(shard: Shard | None) -> str:
    return f"recording {shard.file}" if shard else "starting a recording worker"


class _Display:
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

    def __enter__(self) -> "_Display":
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

    def show(self, event: _Event) -> None:
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
        if self._clips == self._before:
            return f"{self._before} from an earlier run"
        return f"{self._speed():.1f}/s, {self._rejected} rejected"

    def _line(self) -> str:
        left = (self._total - self._clips) / self._speed() if self._clips > self._before else 0
        tail = f", about {left:.0f} s left" if left > 0 else ""
        return f"{self._title}: {self._clips}/{self._total} clips, {self._rate()}{tail}"
