"""A note beside every shard, of what the card will say of it.

It is written before the shard gets its name, and removed when the card has it: nothing of it is
lost with a process that is killed between, and hosts need not write the card for each shard.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from mirage_jax.io.atomic import write_atomically
from mirage_jax.io.strict_json import read_object

_FORMAT = "mirage-shard-1"


class Note(NamedTuple):
    """What is known of a shard.

    Attributes:
      entry: in the card.
      seconds: that recording it took.
      peak_mib: of memory of the process that did.
    """

    entry: dict[str, Any]
    seconds: float
    peak_mib: int


def note_path(shard: Path) -> Path:
    """Of the note of a shard."""
    return shard.with_suffix(".json")


def write_note(shard: Path, note: Note, size: int) -> None:
    """Writes the note of a shard that will have `size` bytes."""
    content = {"format": _FORMAT, "bytes": size, **note._asdict()}
    write_atomically(note_path(shard), json.dumps(content, indent=1, ensure_ascii=False))


def read_note(shard: Path) -> Note | None:
    """The note of a shard; None where there is none, or it is of another file.

    Raises:
      ValueError: naming the note, if it is damaged.
    """
    path = note_path(shard)
    if not path.exists():
        return None
    content = read_object(path)
    entry, numbers = (
        content.get("entry"),
        [content.get(n) for n in ("bytes", "seconds", "peak_mib")],
    )
    good = isinstance(entry, dict) and type(entry.get("clips")) is int
    good &= all(type(n) in (int, float) for n in numbers)
    if content.get("format") != _FORMAT or not good:
        raise ValueError(
            f"{path}: found format {content.get('format')!r}, expected {_FORMAT} with the entry of "
            f"{shard.name}; remove it, and what was refused of the shard is no longer known"
        )
    if content.get("bytes") != shard.stat().st_size:
        return None
    return Note(content["entry"], float(content["seconds"]), int(content["peak_mib"]))
