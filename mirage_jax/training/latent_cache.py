"""Encoded clips on disk: what the geometry head and the denoiser train on with a frozen encoder."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordReader
from safetensors import SafetensorError
from safetensors.numpy import load, save

from mirage_jax.io.atomic import replacing, write_atomically
from mirage_jax.io.file_identity import IDENTITY, file_identity
from mirage_jax.io.lock import LockedError, locked
from mirage_jax.io.process_memory import peak_mib
from mirage_jax.io.records import record_writer
from mirage_jax.io.strict_json import parse_object
from mirage_jax.world.latent_clip import FIELDS, OPTIONAL_FIELDS, LatentClip, fields_of

_HALF = ("chunks", "tokens", "rgb_chunks", "rgb_hits", "preceding", "bodies", "moving")
"""Stored as float16: far finer than the noise the denoiser is trained with."""


FILE_CLIPS = 256
"""Clips of a file at most, where a cache has several."""

_PART = r"-(\d{5})-of-(\d{5})"


def planned_files(path: Path, clips: int, file_clips: int = FILE_CLIPS) -> list[Path]:
    """Files of the cache called `path`, each of `file_clips` clips but the last."""
    count = -(-clips // file_clips)
    return [path] if count <= 1 else _named_parts(path, count)


def _named_parts(path: Path, count: int) -> list[Path]:
    return [path.with_stem(f"{path.stem}-{n:05d}-of-{count:05d}") for n in range(count)]


def cache_files(path: Path) -> list[Path]:
    """Files that the cache called `path` has now: that file, or all of its parts.

    Raises:
      ValueError: naming a part that is missing. Where there is none at all, `path` is returned.
    """
    found = _parts(path)
    if path.exists() or not found:
        return [path]
    count = int(found[0].stem[-5:])
    wanted = _named_parts(path, count)
    if found != wanted:
        missing = [f"missing {file.name}" for file in wanted if file not in found]
        others = [f"{file.name} is not of them" for file in found if file not in wanted]
        raise ValueError(
            f"{path.parent}: found {len(found)} of {count} parts of {path.name} "
            f"({(missing + others)[0]}); run `mirage encode` again"
        )
    return found


def _parts(path: Path) -> list[Path]:
    # The whole name: "a-train" is not the cache that "a-train-5-00000-of-00002" is a part of.
    name = re.compile(re.escape(path.stem) + _PART)
    files = path.parent.glob(f"*{path.suffix}")
    return sorted(file for file in files if name.fullmatch(file.stem))


def _check_parts(files: list[Path]) -> None:
    """Raises ValueError, naming the first one, unless all files of a cache were made as its parts.

    Between the parts of one that is being made anew, a file may be of what it was made from before.
    """
    whole = {name: value for name, value in made_from(files[0]).items() if name != "part"}
    for number, file in enumerate(files):
        found, expected = made_from(file), part_key(whole, number, len(files))
        names = sorted(found.keys() | expected.keys())
        changed = ", ".join(name for name in names if found.get(name) != expected.get(name))
        if changed or not whole:
            raise ValueError(
                f"{file}: found {f'another {changed}' if found else 'no word on what it is'}, "
                f"expected part {number + 1} of {len(files)} of one cache, as {files[0].name} is; "
                f"{_MADE_ANEW}"
            )


def remove_others(path: Path, planned: Iterable[Path]) -> None:
    """Removes files of the cache called `path` that are none of those planned, keys first."""
    for file in {path, *_parts(path)} - set(planned):
        forget_key(file)
        file.unlink(missing_ok=True)


def part_key(key: Mapping[str, Any], number: int, files: int) -> dict[str, Any]:
    """The key of one of a cache's files."""
    return {**key, "part": [number, files]} if files > 1 else dict(key)


def stale_files(path: Path, key: Mapping[str, Any]) -> str:
    """Why the cache called `path` must be made anew, in one file or several; "" if it need not."""
    try:
        files = cache_files(path)
    except ValueError as error:
        return str(error)
    keys = (part_key(key, n, len(files)) for n in range(len(files)))
    return next(filter(None, map(stale, files, keys)), "")


def make_stale_files(
    path: Path,
    key: Mapping[str, Any],
    clips: int,
    make: Callable[[Path, range], Mapping[int, str]],
    *,
    file_clips: int,
    share: tuple[int, int],
    purpose: str,
    say: Callable[[str], None],
) -> None:
    """Makes those files of a cache that are not of the key; of all that are, nothing is done.

    Args:
      path: the cache.
      key: of `stale_files`.
      clips: recorded clips, of which each file has some.
      make: writes a file, of the clips of these numbers; returns why some are not in it.
      file_clips: clips of a file at most.
      share: (i, n): of its files the i-th of each n is made here.
      purpose: of the lock that is held meanwhile.
      say: called with a line of text.

    Raises:
      LockedError: if another process is making one of these files.
    """
    files = planned_files(path, clips, file_clips)
    if share[0] == 0:
        remove_others(path, files)
    for number in range(share[0], len(files), share[1]):
        file, own = files[number], part_key(key, number, len(files))
        lock = file.with_suffix(".lock")
        if not stale(file, own):
            if lock.exists():  # whose process was killed when all was done
                with contextlib.suppress(LockedError), locked(lock, purpose):
                    pass
            continue
        with locked(lock, purpose):
            # Again: another process may just have made it.
            if reason := stale(file, own):
                say(f"{file}: {reason}")
                first = number * file_clips
                skipped = make(file, range(first, min(first + file_clips, clips)))
                write_key(file, own, skipped)


def write_cache(path: Path, clips: Iterable[LatentClip]) -> int:
    """Writes batches of clips (numpy leaves, leading dimension) to one ArrayRecord file.

    The file appears under its name only when it is complete, and without the key (`write_key`) of
    the one it replaces. Returns the number of clips.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with replacing(path) as partial:
        with record_writer(partial, "group_size:1,uncompressed") as writer:
            for batch in clips:
                for index in range(len(batch.chunks)):
                    writer.write(_to_bytes(batch, index))
                    count += 1
        forget_key(path)
    return count


def forget_key(path: Path) -> None:
    """Removes what is said of a file that is about to be replaced."""
    _key_file(path).unlink(missing_ok=True)


def write_key(path: Path, key: Mapping[str, Any], skipped: Mapping[int, str] | None = None) -> None:
    """Says beside a finished cache, in `<name>.json`, what it was made from and what file it is.

    And the most memory that this process has had, MiB.

    Args:
      path: the cache, or one of its files.
      key: what decides what is in it, JSON-serialisable.
      skipped: why recorded clips are not in it that belong there, by their number.
    """
    reader = ArrayRecordReader(os.fspath(path))
    try:
        records = reader.num_records()
    finally:
        reader.close()
    content = {
        "made_from": dict(key),
        "file": {"records": records, **file_identity(path)},
        "skipped": {str(number): reason for number, reason in (skipped or {}).items()},
        "peak_mib": peak_mib(),
    }
    write_atomically(_key_file(path), json.dumps(content, indent=1, sort_keys=True) + "\n")


def stale(path: Path, key: Mapping[str, Any]) -> str:
    """Why a cache must be made anew to be one of `key`; "" if it is one.

    A truncated, empty or exchanged file is not one; neither is one whose key file, of before 0.2,
    does not say how to tell.

    Args:
      path: the cache.
      key: what decides what is in it, JSON-serialisable; see `write_key`.
    """
    if not path.exists():
        return "there is none yet"
    content, found = _read_key(path), made_from(path)
    if not found:
        return "it does not say what it was made from"
    expected = json.loads(json.dumps(key))
    names = sorted(found.keys() | expected.keys())
    changed = ", ".join(name for name in names if found.get(name) != expected.get(name))
    return f"made with another {changed}" if changed else _other_file(path, content)


def skipped_clips(path: Path) -> dict[int, str]:
    """Why recorded clips are not in the cache called `path`, by their number, of all its files."""
    found: dict[int, str] = {}
    for file in cache_files(path):
        skipped = _read_key(file).get("skipped", {})
        found |= {int(number): reason for number, reason in skipped.items()}
    return found


def made_from(path: Path) -> dict[str, Any]:
    """What the key beside a file says that it was made from; {} where it does not."""
    found = _read_key(path).get("made_from")
    return found if isinstance(found, dict) else {}


def values_of(path: Path, name: str) -> set[Any]:
    """What the keys of all files that the cache called `path` has say of `name`, if text."""
    found = (made_from(file).get(name) for file in (path, *_parts(path)))
    return {value for value in found if isinstance(value, str)}


def _read_key(path: Path) -> dict[str, Any]:
    """The content of the key file, {} where there is none or it is of another form."""
    try:
        content = parse_object(_key_file(path).read_bytes())
        file = content.get("file")
        known = isinstance(file, dict) and all(type(file.get(n)) is int for n in IDENTITY)
        skipped = content.get("skipped", {})  # of before there were any
        known &= isinstance(skipped, dict) and all(map(str.isdecimal, skipped))
    except (FileNotFoundError, ValueError):
        return {}
    return content if known else {}


def _names_encoder(content: Mapping[str, Any]) -> bool:
    made_from = content.get("made_from")
    return isinstance(made_from, dict) and isinstance(made_from.get("encoder"), str)


def _other_file(path: Path, content: Mapping[str, Any]) -> str:
    """Why a file is not the one its key was written for; "" if it is."""
    written = content["file"]
    if path.stat().st_size != written["bytes"]:
        return f"found {path.stat().st_size:,} bytes, expected {written['bytes']:,}"
    # Last, since it reads.
    if file_identity(path) != {name: written[name] for name in IDENTITY}:
        return "it is another file than was written"
    return ""


def _key_file(path: Path) -> Path:
    return path.with_suffix(".json")


def _to_bytes(batch: LatentClip, index: int) -> bytes:
    record = {}
    for name, values in fields_of(batch).items():
        dtype = np.float16 if name in _HALF else np.float32
        record[name] = np.ascontiguousarray(values[index], dtype)
    return save(record)


class LatentSource:
    """Random access to cached clips, of several caches (one per world) of one or more files.

    Raises:
      ValueError: naming the file that is missing, empty, damaged or not the one that was written.
        So does reading a clip.
    """

    def __init__(self, paths: Iterable[Path]):
        caches = [cache_files(path) for path in paths]
        self.paths = [os.fspath(file) for files in caches for file in files]
        encoders: set[str] = set()
        for path in map(Path, self.paths):
            if not path.exists():
                raise ValueError(f"{path}: no such latent cache; run `mirage train` from the start")
            content = _read_key(path)
            if reason := content and _other_file(path, content):
                raise ValueError(f"{path}: {reason}; {_MADE_ANEW}")
            encoders |= {content["made_from"]["encoder"]} if _names_encoder(content) else set()
            if len(encoders) > 1:
                raise ValueError(
                    f"{path}: found latents of another encoder than in {self.paths[0]}; "
                    f"{_MADE_ANEW}"
                )
        for files in caches:
            if len(files) > 1:
                _check_parts(files)
        try:
            self._records = ArrayRecordDataSource(self.paths)
            empty = not len(self._records)
        except RuntimeError as error:
            raise ValueError(
                f"{', '.join(self.paths)}: damaged latent cache ({error}); {_MADE_ANEW}"
            ) from error
        if empty:
            raise ValueError(f"{', '.join(self.paths)}: found no clips; {_MADE_ANEW}")
        self._shapes = self._first_shapes()

    def __len__(self) -> int:
        return len(self._records)

    def _first_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes by field of the first clip that is whole, which all others have to have too."""
        for index in range(len(self)):
            try:
                record = self._record(index)
            except ValueError:
                continue
            if set(FIELDS) <= record.keys():
                fields = (*FIELDS, *OPTIONAL_FIELDS)
                return {name: record[name].shape for name in fields if name in record}
        return {}

    def _record(self, index: int) -> dict[str, np.ndarray]:
        try:
            return load(self._records[index])
        # The last: of a type that numpy does not have.
        except (RuntimeError, SafetensorError, KeyError) as error:
            raise ValueError(
                f"{', '.join(self.paths)}: clip {index} cannot be read ({error}); if it stays so, "
                "remove the file and run `mirage train --stage=cache`"
            ) from error

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self._record(index)
        optional = [name for name in OPTIONAL_FIELDS if name in self._shapes]
        for name in set(OPTIONAL_FIELDS).intersection(record).difference(optional):
            self._refuse(index, name, "one", "none, as the clips before")
        names = (*FIELDS, *optional)
        for name in names:
            if name not in record:
                self._refuse(index, name, "none", "one")
            found, dtype = record[name], np.dtype(np.float16 if name in _HALF else np.float32)
            shape = self._shapes.get(name, found.shape)
            if (found.dtype, found.shape) != (dtype, shape):
                self._refuse(index, name, f"{found.dtype} {found.shape}", f"{dtype} {shape}")
            if not np.isfinite(found).all():
                self._refuse(index, name, "NaN or infinity", "finite numbers")
        return {name: np.asarray(record[name], np.float32) for name in names}

    def skipped(self) -> dict[int, str]:
        """Why recorded clips are not here, by their number; of one cache alone."""
        return {n: why for path in self.paths for n, why in skipped_clips(Path(path)).items()}

    def title(self, index: int) -> str:
        """Names a clip by files and number."""
        return f"{', '.join(self.paths)}: clip {index}"

    def _refuse(self, index: int, name: str, found: str, expected: str) -> NoReturn:
        raise ValueError(
            f"{', '.join(self.paths)}: field {name!r}: found {found} in clip {index}, expected "
            f"{expected}; {_MADE_ANEW}"
        )

    def __repr__(self) -> str:
        return f"LatentSource({self.paths}, {len(self)} clips)"


_MADE_ANEW = "run `mirage train --stage=cache`, with the --memory of this run"
