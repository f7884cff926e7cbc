"""Encoded clips on disk: what the geometry head and the denoiser train on with a frozen encoder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter
from safetensors.numpy import load, save

from mirage_jax.io.atomic import replacing, write_atomically
from mirage_jax.world.latent_clip import FIELDS, LatentClip

_HALF = ("chunks", "tokens", "rgb_chunks", "rgb_hits", "preceding")
"""Stored as float16: far finer than the noise the denoiser is trained with."""


def write_cache(path: Path, clips: Iterable[LatentClip]) -> int:
    """Writes batches of clips (numpy leaves, leading dimension) to one ArrayRecord file.

    The file appears under its name only when it is complete, and without the key (`write_key`) of
    the one it replaces. Returns the number of clips.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with replacing(path) as partial:
        writer = ArrayRecordWriter(os.fspath(partial), "group_size:1,uncompressed")
        try:
            for batch in clips:
                for index in range(len(batch.chunks)):
                    writer.write(_to_bytes(batch, index))
                    count += 1
        finally:
            writer.close()
        _key_file(path).unlink(missing_ok=True)
    return count


def write_key(path: Path, key: Mapping[str, Any]) -> None:
    """Says beside a finished cache, in `<name>.json`, what it was made from."""
    write_atomically(_key_file(path), json.dumps(key, indent=1, sort_keys=True) + "\n")


def stale(path: Path, key: Mapping[str, Any]) -> str:
    """Why a cache must be made anew to be one of `key`; "" if it is one.

    Args:
      path: the cache.
      key: what decides what is in it, JSON-serialisable; see `write_key`.
    """
    if not path.exists():
        return "there is none yet"
    try:
        found = json.loads(_key_file(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return "it does not say what it was made from"
    expected = json.loads(json.dumps(key))
    names = sorted(found.keys() | expected.keys())
    changed = ", ".join(name for name in names if found.get(name) != expected.get(name))
    return changed and f"made with another {changed}"


def _key_file(path: Path) -> Path:
    return path.with_suffix(".json")


def _to_bytes(batch: LatentClip, index: int) -> bytes:
    record = {}
    for name in FIELDS:
        dtype = np.float16 if name in _HALF else np.float32
        record[name] = np.ascontiguousarray(getattr(batch, name)[index], dtype)
    return save(record)


class LatentSource:
    """Random access to cached clips, over several files (one per world)."""

    def __init__(self, paths: Iterable[Path]):
        self.paths = [os.fspath(path) for path in paths]
        missing = [path for path in self.paths if not os.path.exists(path)]
        if missing:
            raise ValueError(
                f"{missing[0]}: no such latent cache; run `mirage train` from the start"
            )
        self._records = ArrayRecordDataSource(self.paths)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = load(self._records[index])
        missing = [name for name in FIELDS if name not in record]
        if missing:
            raise ValueError(
                f"{', '.join(self.paths)}: field {missing[0]!r}: found none in clip {index}, "
                "expected one; run `mirage train --stage=cache`"
            )
        return {name: np.asarray(record[name], np.float32) for name in FIELDS}

    def __repr__(self) -> str:
        return f"LatentSource({self.paths}, {len(self)} clips)"
