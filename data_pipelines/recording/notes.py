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
    found = content.get("format")
    if found != _FORMAT:
        raise _damaged(path, shard, "format", found, _FORMAT)
    entry = content.get("entry")
    if not isinstance(entry, dict) or type(entry.get("clips")) is not int:
        raise _damaged(path, shard, "entry", entry, "an object with a number of clips")
    for name in ("bytes", "seconds", "peak_mib"):
        if type(content.get(name)) not in (int, float):
            raise _damaged(path, shard, name, content.get(name), "a number")
    if content.get("bytes") != shard.stat().st_size:
        return None
    return Note(content["entry"], float(content["seconds"]), int(content["peak_mib"]))


def _damaged(path: Path, shard: Path, field: str, found: Any, expected: str) -> ValueError:
    return ValueError(
        f"{path}: {field}: found {found!r}, expected {expected}; remove it, and what was refused "
        f"of {shard.name} is no longer known"
    )
