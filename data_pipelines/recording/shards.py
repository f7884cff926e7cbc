"""One shard of a recording: an ArrayRecord file of valid clips, written whole or not at all."""

import collections
import contextlib
import dataclasses
import errno
import hashlib
import itertools
import os
import shutil
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from array_record.python import array_record_module

from data_pipelines import clip_format
from data_pipelines.clip import Clip, validate
from data_pipelines.clip_codecs import Codec
from data_pipelines.clip_measures import measure
from data_pipelines.filters import Filters
from data_pipelines.recording.notes import Note, write_note
from data_pipelines.recording.planning import Shard, derived_seed
from data_pipelines.sources import FiniteSource, Source
from mirage_jax.io.atomic import replacing
from mirage_jax.io.process_memory import peak_mib
from mirage_jax.io.records import record_writer

# Group size 1 gives cheap random access.  Measured on 33x64x64 Freedoom clips, zstd:3 on the plain
# record (278 kB of 1.5 MB, > 1000 reads/s) beat byte-shuffled and delta-coded depth in both.
WRITER_OPTIONS = "group_size:1,zstd:3"
READER_OPTIONS = "readahead_buffer_size:0"
MEASURES = "measures"
"""Where the provenance of a clip has what was measured in it."""
EXAMPLES = 20  # messages of refused clips that are kept
_ATTEMPTS = 2
_SPARE_BYTES = 32 << 20


class Event(NamedTuple):
    """What happened in shard number `shard`; "done" comes when it has its name and its note."""

    kind: str  # "clip", "rejected", "done" or "failed"
    shard: int
    value: Any = None


class Recording(NamedTuple):
    """What every process of a recording needs to know.

    Attributes:
      source: of the clips.
      directory: of the shards.
      codecs: by name of the part, see `clip_format.to_bytes`.
      filters: that clips have to pass; None measures nothing.
    """

    source: Source
    directory: Path
    codecs: Mapping[str, Codec]
    filters: Filters | None = None


class _LeftOut(ValueError):
    """A valid clip that a filter leaves out."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


def _reason(error: ValueError, otherwise: str) -> str:
    """The filter's, not the `reason` that a UnicodeDecodeError has."""
    return error.reason if isinstance(error, _LeftOut) else otherwise


def record_shard(recording: Recording, shard: Shard) -> Generator[Event, None, None]:
    """Records one shard, saying how it goes; leaves a note of it, see `notes`."""
    metas: list[dict[str, Any]] = []
    reasons: collections.Counter = collections.Counter()
    examples: list[str] = []
    start, path = time.monotonic(), recording.directory / shard.file
    with replacing(path, sync=True) as temporary:
        with record_writer(temporary, WRITER_OPTIONS) as writer:
            for data, clip, reason, message in _stored_clips(recording, shard):
                if clip is None:
                    reasons[reason] += 1
                    if message:
                        examples.append(message)
                    yield Event("rejected", shard.index, message)
                    continue
                _require_space(recording.directory, len(data))
                writer.write(data)
                metas.append(clip_format.read_header(data))
                yield Event("clip", shard.index)
        entry = {**describe(metas, dict(reasons), examples), "sha256": checksum(temporary)}
        note = Note(entry, round(time.monotonic() - start, 2), peak_mib())
        write_note(path, note, temporary.stat().st_size)
    yield Event("done", shard.index)


def checksum(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stored_clips(
    recording: Recording, shard: Shard
) -> Iterator[tuple[bytes, Clip | None, str, str]]:
    """Yields (bytes, clip, "", "") for each valid clip, or (b"", None, reason, message).

    Asks anew for what is missing, but of a finite source.
    """
    source = recording.source
    shape: tuple[int, ...] | None = None
    for job in shard.jobs:
        if isinstance(source, FiniteSource):
            for number in job.clips:
                try:
                    clip = source.clip(job.world, number)
                    data, shape = _encoded(recording, clip, shape)
                except ValueError as error:
                    yield b"", None, _reason(error, "unreadable"), str(error)
                    continue
                yield data, clip, "", ""
            continue
        missing = job.count
        for attempt in range(_ATTEMPTS):
            seed = job.seed if attempt == 0 else derived_seed(job.seed, job.world, attempt)
            told = collections.Counter(getattr(source, "rejected", {}))
            for clip in itertools.islice(source.clips(job.world, missing, seed), missing):
                try:
                    data, shape = _encoded(recording, clip, shape)
                except ValueError as error:
                    yield b"", None, _reason(error, "invalid"), str(error)
                    continue
                missing -= 1
                yield data, clip, "", ""
            now = collections.Counter(getattr(source, "rejected", {}))
            for reason in (now - told).elements():
                yield b"", None, reason, ""
            if missing == 0:
                break


def _encoded(
    recording: Recording, clip: Clip, shape: tuple[int, ...] | None
) -> tuple[bytes, tuple[int, ...]]:
    """A valid clip as bytes, and the shape that clips of the recording have."""
    validate(clip)
    if shape is not None and clip.video.shape != shape:
        raise ValueError(
            f"clip {clip.name!r}, video: found {list(clip.video.shape)}, expected {list(shape)} "
            "like the clips before it"
        )
    if recording.filters is not None:
        clip = _measured(clip, recording.filters)
    return clip_format.to_bytes(clip, recording.codecs), clip.video.shape


def _measured(clip: Clip, filters: Filters) -> Clip:
    """The clip with its measures in the provenance."""
    measures = measure(clip)
    why = filters.why_rejected(measures)
    if why is not None:
        reason, message = why
        raise _LeftOut(reason, f"clip {clip.name!r}, {message}")
    known = {k: round(v, 4) for k, v in dataclasses.asdict(measures).items() if v is not None}
    return dataclasses.replace(clip, provenance={**(clip.provenance or {}), MEASURES: known})


def _require_space(directory: Path, needed: int) -> None:
    # The writer buffers and reports a full disk only on closing, minutes of rendering later.
    free = shutil.disk_usage(directory).free
    if free < needed + _SPARE_BYTES:
        raise OSError(errno.ENOSPC, f"{free >> 20} MiB free, {_SPARE_BYTES >> 20} MiB kept spare")


def read_records(path: str | os.PathLike[str], start: int = 0) -> Iterator[bytes]:
    """Yields the raw records of one shard in order, from record `start` on.

    Raises:
      ValueError: the file is no ArrayRecord file, or damaged.
    """
    with _reader(path) as reader:
        for index in range(start, reader.num_records()):
            yield reader.read([index])[0]


def count_records(path: str | os.PathLike[str]) -> int:
    """How many records one shard has; ValueError if it is truncated or no ArrayRecord file."""
    with _reader(path) as reader:
        return reader.num_records()


@contextlib.contextmanager
def _reader(path: str | os.PathLike[str]) -> Iterator[Any]:
    try:
        reader = array_record_module.ArrayRecordReader(os.fspath(path), READER_OPTIONS)
        # Of a truncated file some builds of it complain only on closing.
        with contextlib.closing(reader):
            yield reader
    except RuntimeError as error:
        raise ValueError(
            f"{path}: not an ArrayRecord file, or not all of one ({error}); if it stays so, remove "
            "it, and `mirage record` makes it anew"
        ) from error


def refuse_foreign(directory: Path, split: str, shards: list[Shard], *, known: bool) -> None:
    """Raises ValueError for files of a split that no recording in this folder has made.

    Args:
      directory: of the dataset.
      split: whose files are looked at.
      shards: all that a recording makes.
      known: whether the card has the split; it is written before the first shard is.
    """
    planned = {shard.file for shard in shards}
    found = sorted(directory.glob(f"{split}-*.array_record"))
    sheet = directory / f"{split}.png"
    if not known and not found and sheet.exists():
        found = [sheet]
    for path in found:
        if path.name not in planned or not (known or _holds_clips(path)):
            raise ValueError(
                f"{path}: found a file that was not recorded here, expected none; move it away, or "
                "record into another folder"
            )


def _holds_clips(path: Path) -> bool:
    """Whether a shard was recorded, whatever became of its card."""
    try:
        first = next(read_records(path), None)
        return first is None or bool(clip_format.read_header(first))
    except ValueError:
        return False


def remove_leftovers(directory: Path, shards: Iterable[Shard]) -> None:
    """Removes what killed processes left of shards that they did not finish."""
    unfinished = {Path(shard.file).stem for shard in shards}
    for path in directory.glob(".*.partial-*"):
        if path.name[1:].partition(".partial-")[0] in unfinished:
            path.unlink(missing_ok=True)


def describe(
    metas: list[dict[str, Any]], reasons: dict[str, int], examples: list[str]
) -> dict[str, Any]:
    """Returns a shard's entry in the card: how many clips of what, and how many were refused."""
    return {
        "clips": len(metas),
        "worlds": dict(collections.Counter(meta["world"] for meta in metas)),
        "trajectories": dict(collections.Counter(meta["trajectory"] for meta in metas)),
        "licences": dict(collections.Counter(meta.get("licence", "not stated") for meta in metas)),
        "picture_sizes": dict(collections.Counter(_taken_at(meta) for meta in metas)),
        "seconds_of_video": round(sum(meta["shape"][0] / meta["fps"] for meta in metas), 3),
        "measures": _ranges(metas),
        "reasons": reasons,
        "examples": examples[:EXAMPLES],
    }


def _ranges(metas: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """How many clips each measure is known of, with its least, mean and most."""
    values: dict[str, list[float]] = collections.defaultdict(list)
    for meta in metas:
        for name, value in (meta.get("provenance") or {}).get(MEASURES, {}).items():
            values[name].append(value)
    return {
        name: {
            "clips": len(found),
            "least": min(found),
            "mean": round(sum(found) / len(found), 4),
            "most": max(found),
        }
        for name, found in values.items()
    }


def _taken_at(header: dict[str, Any]) -> str:
    """Height x width of the pictures that a clip was made of, or its own."""
    height, width = (header.get("provenance") or {}).get("picture_size", header["shape"][1:])
    return f"{height}x{width}"
