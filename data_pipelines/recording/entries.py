"""A split's entry in the dataset card: what was asked for, what each shard holds, and the sum."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines import clip_format
from data_pipelines.clip_codecs import Codec
from data_pipelines.filters import Filters
from data_pipelines.recording import originals
from data_pipelines.recording.notes import note_path, read_note
from data_pipelines.recording.planning import Shard
from data_pipelines.recording.shards import (
    EXAMPLES,
    checksum,
    count_records,
    describe,
    read_records,
)
from data_pipelines.sources import Source


@dataclasses.dataclass(frozen=True)
class Request:
    """What a split's recording was asked for; two with different requests are never mixed."""

    source: Source
    split: str
    count: int
    seed: int
    shard_clips: int
    codecs: Mapping[str, Codec]
    filters: Filters | None = None
    plan: Mapping[str, Any] | None = None
    """Of a finite source, see `planning.described`."""

    def described(self) -> dict[str, Any]:
        """As the card has it: plain JSON."""
        return {
            "source": self.source.name,
            "options": _options(self.source),
            "count": self.count,
            "seed": self.seed,
            "shard_clips": self.shard_clips,
            "codecs": {
                part: {"name": codec.name, **_options(codec)} for part, codec in self.codecs.items()
            },
            "filters": None if self.filters is None else _options(self.filters),
        }


def claim(card: dict[str, Any], request: Request, directory: Path) -> dict[str, Any]:
    """Returns the card's entry of the requested split, made if it is not there yet.

    It is made anew where the footage has changed before any shard was there.

    Raises:
      ValueError: the split was recorded with another request, or of other footage.
    """
    wanted, split = request.described(), request.split
    fresh = {**wanted, "clip_format": clip_format.FORMAT}
    entry = card["splits"].setdefault(split, dict(fresh))
    # Older cards have no codecs and no filters, the counter of dropped clips among the options, and
    # not those options that came later: they were recorded as these are by default.
    options = {name: value for name, value in entry["options"].items() if name != "rejected"}
    options = _defaults(request.source) | options
    root, before = wanted["options"].get("root"), options.get("root")
    if root != before and originals.knows(request.source, directory, split):
        options["root"] = root  # files say what was recorded, wherever they lie on this host
    known = {"codecs": {}, "filters": wanted["filters"], **entry, "options": options}
    _compare(known, wanted, ("source", "options"), f"{directory}: split {split!r}")
    now = {} if request.plan is None else request.plan
    before = entry.get("plan", now)
    replanned = before != now and before["sha256"] != now["sha256"]
    if replanned and not any(directory.glob(f"{split}-*.array_record")):
        entry.clear()
        entry.update(fresh)
        known, replanned = entry, False
    if replanned:
        _compare_worlds(before["worlds"], now["worlds"], f"{directory}: split {split!r}")
    _compare(known, wanted, tuple(wanted), f"{directory}: split {split!r}")
    if replanned:
        raise ValueError(
            f"{directory}: split {split!r}: found its clips in another order than they were "
            "recorded in, expected the same; record into another folder"
        )
    entry.setdefault("shards", {})
    if now:
        entry.setdefault("plan", dict(now))
    return entry


def _compare(
    known: Mapping[str, Any], wanted: Mapping[str, Any], keys: tuple[str, ...], where: str
) -> None:
    for key in keys:
        before, value = known.get(key), wanted[key]
        if before != value:
            if isinstance(before, dict) and isinstance(value, dict):
                names = [
                    name for name in {**before, **value} if before.get(name) != value.get(name)
                ]
                before, value = ({n: part.get(n) for n in names} for part in (before, value))
            raise ValueError(
                f"{where} was recorded with {key}={before!r}, found {key}={value!r}; expected the "
                "same arguments, or another folder"
            )


def _compare_worlds(before: Mapping[str, int], now: Mapping[str, int], where: str) -> None:
    changes = [f"scene {name} is new" for name in now if name not in before]
    changes += [f"scene {name} is gone" for name in before if name not in now]
    changes += [
        f"scene {name}: found {now[name]} clips, expected {count}"
        for name, count in before.items()
        if now.get(name, count) != count
    ]
    if changes:
        others = f", and {len(changes) - 3} other changes" if len(changes) > 3 else ""
        raise ValueError(
            f"{where}: footage has changed since it was recorded: "
            f"{', '.join(changes[:3])}{others}; expected the same scenes: bring them back, or "
            "record into another folder"
        )


def prepare_for_more(
    entry: dict[str, Any], request: Request, done: set[int], directory: Path
) -> None:
    """Prepares the entry for more clips.

    Raises:
      ValueError: if they would mix formats, or filtered clips with unfiltered ones, with those of
        the shards that are `done`.
    """
    split = request.split
    if not done:
        entry["clip_format"] = clip_format.FORMAT
    found = entry.get("clip_format")
    if found != clip_format.FORMAT:
        raise ValueError(
            f"{directory}: found an unfinished split {split!r} of {found} clips, expected "
            f"{clip_format.FORMAT}: record it into another folder, or remove it here first"
        )
    filtering = request.filters is not None and request.filters.apply
    if done and filtering and "filters" not in entry:
        raise ValueError(
            f"{directory}: found an unfinished split {split!r} of which {len(done)} shards were "
            "recorded without filters, expected one way for all: add --config.filters.apply=false, "
            "or record into another folder"
        )
    entry.setdefault("filters", request.described()["filters"])


def _options(thing: Any) -> dict[str, Any]:
    """The fields that a dataclass was made with, or all attributes of another object."""
    options = vars(thing)
    if dataclasses.is_dataclass(thing):
        names = [field.name for field in dataclasses.fields(thing) if field.init]
        options = {name: getattr(thing, name) for name in names}
    return {key: _plain(value) for key, value in options.items()}


def _defaults(source: Source) -> dict[str, Any]:
    """Values of the options that have some."""
    if not dataclasses.is_dataclass(source):
        return {}
    fields = [field for field in dataclasses.fields(source) if field.init]
    known = {field.name: field.default for field in fields}
    return {k: _plain(v) for k, v in known.items() if v is not dataclasses.MISSING}


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def recount(entry: dict[str, Any], shards: Sequence[Shard], done: set[int], directory: Path) -> int:
    """Makes the card's entries of some shards those of the files that are there.

    Of a shard that the card does not know its note says what was recorded, see `notes`.

    Args:
      entry: of the split; those of other shards stay as they are.
      shards: that are looked at.
      done: numbers of those that are there.
      directory: of the dataset.

    Returns:
      How many of them the card did not know.

    Raises:
      ValueError: a file that the card does not know holds clips of another format; one that it
        knows is damaged or has another number of clips.
    """
    found, new = dict(entry["shards"]), 0
    for shard in shards:
        part = found.pop(shard.file, None)
        if shard.index not in done:
            continue
        path = directory / shard.file
        if part is None:
            new += 1
            note = read_note(path)
            part = _read_shard(path, entry["clip_format"]) if note is None else note.entry
            if note is not None:
                entry["seconds"] = round(entry.get("seconds", 0) + note.seconds, 1)
                peaks = entry.setdefault("peak_mib", {})
                peaks["worker"] = max(peaks.get("worker", 0), note.peak_mib)
        clips = count_records(path)
        if clips != part["clips"]:
            raise ValueError(
                f"{path}: found {clips} clips, expected {part['clips']}; remove the file, and the "
                "same command records it anew"
            )
        found[shard.file] = part
    entry["shards"] = {file: found[file] for file in sorted(found)}
    return new


def remove_notes(shards: Sequence[Shard], directory: Path) -> None:
    """Removes the notes of shards that the card knows."""
    for shard in shards:
        note_path(directory / shard.file).unlink(missing_ok=True)


def _read_shard(path: Path, expected: str) -> dict[str, Any]:
    headers = [clip_format.read_header(data) for data in read_records(path)]
    for header in headers:
        if header["format"] != expected:
            raise ValueError(f"{path}: found {header['format']} clips, expected {expected}")
    return {**describe(headers, {}, []), "sha256": checksum(path)}


def _merged(parts: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Least, mean and most of each measure over all shards."""
    merged = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        found = [part[name] for part in parts if name in part]
        clips = sum(part["clips"] for part in found)
        merged[name] = {
            "clips": clips,
            "least": min(part["least"] for part in found),
            "mean": round(sum(part["mean"] * part["clips"] for part in found) / clips, 4),
            "most": max(part["most"] for part in found),
        }
    return merged


_COUNTED = ("worlds", "trajectories", "reasons", "licences", "picture_sizes")


def summarise(entry: dict[str, Any], directory: Path) -> dict[str, Any]:
    """Adds up the shards' entries into the split's, and returns the sums."""
    parts = [entry["shards"][file] for file in sorted(entry["shards"])]
    summary: dict[str, Any] = {
        "clips": sum(part["clips"] for part in parts),
        "examples": [text for part in parts for text in part["examples"]][:EXAMPLES],
        "bytes": sum((directory / file).stat().st_size for file in entry["shards"]),
    }
    for key in _COUNTED:
        total: collections.Counter = collections.Counter()
        for part in parts:
            total.update(part.get(key, {}))  # older cards have fewer
        summary[key] = dict(total)
    summary["measures"] = _merged([part.get("measures", {}) for part in parts])
    seconds = sum(part.get("seconds_of_video", 0.0) for part in parts)
    summary["hours"] = round(seconds / 3600, 4)
    summary["rejected"] = sum(summary["reasons"].values())
    full = [file for file in sorted(entry["shards"]) if entry["shards"][file]["clips"]]
    if full:
        header = clip_format.read_header(next(read_records(directory / full[0])))
        summary |= dict(zip(("frames", "height", "width"), header["shape"], strict=True))
        summary |= {"fps": header["fps"], "gamma": header["gamma"]}
    entry.update(summary)
    return summary
