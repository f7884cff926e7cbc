"""A whole recording, from its plan to the report."""

import contextlib
import copy
import dataclasses
import errno
import io
import itertools
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from data_pipelines import clip_format
from data_pipelines.card import contact_sheet, read_card, write_card
from data_pipelines.clip import Clip
from data_pipelines.clip_codecs import Codec
from data_pipelines.filters import Filters
from data_pipelines.recording import entries, originals, planning, sharing
from data_pipelines.recording import shards as shard_files
from data_pipelines.recording.display import Display
from data_pipelines.recording.planning import Shard, plan
from data_pipelines.recording.shards import Recording, read_records
from data_pipelines.recording.workers import RecordingError, record_events
from data_pipelines.sources import Source
from mirage_jax.io.atomic import write_atomically
from mirage_jax.io.outputs import check_folder
from mirage_jax.io.process_memory import peak_mib

_SHEET_CLIPS = 6


@dataclasses.dataclass(frozen=True)
class Report:
    """What a recording has come to.

    Attributes:
      clips: clips in all shards of the split.
      requested: clips asked for; larger than `clips` if some worlds would not give enough.
      rejected: clips drawn and not kept, for any reason.
      reasons: how many for which reason: those of the source, the names of filters, and "invalid"
        for clips which `clip.validate` refused.
      examples: the messages of the first of them.
      shards: paths of all shards of the split, in order.
      resumed: how many of them an earlier run had finished.
      seconds: wall time of this run.
      missing: how many of all shards are still to come from other hosts; `clips` and what follows
        are then of this host's.
      peak_mib: most memory of this process, and of the worker that had most, MiB.
    """

    clips: int
    requested: int
    rejected: int
    reasons: dict[str, int]
    examples: tuple[str, ...]
    shards: tuple[Path, ...]
    resumed: int
    seconds: float
    missing: int = 0
    peak_mib: tuple[int, int] = (0, 0)


def check(
    source: Source,
    out_dir: str | os.PathLike[str],
    split: str,
    count: int | None,
    *,
    seed: int = 0,
    shard_clips: int = 64,
    codecs: Mapping[str, Codec] | None = None,
    filters: Filters | None = None,
) -> None:
    """Raises the ValueError of `record` for its arguments and its folder, recording nothing."""
    directory = Path(out_dir).absolute()
    originals.recall_survey(source, directory)
    shards = plan(source, split, count, seed=seed, shard_clips=shard_clips)
    check_folder(str(directory), directory)
    card = read_card(directory)
    request = _request(source, split, shards, seed, shard_clips, codecs, filters)
    _claim(card, request, directory, shards)


def record(
    source: Source,
    out_dir: str | os.PathLike[str],
    split: str,
    count: int | None,
    *,
    seed: int = 0,
    shard_clips: int = 64,
    workers: int | None = None,
    progress: bool = True,
    console: Console | None = None,
    codecs: Mapping[str, Codec] | None = None,
    filters: Filters | None = None,
    share: tuple[int, int] = sharing.WHOLE,
) -> Report:
    """Records `count` clips of `split` into `out_dir`, or finishes doing so.

    Writes `{split}-iiiii-of-nnnnn.array_record`, `dataset.json` and `{split}.png`.  Several splits
    of one source may share a folder.

    Args:
      source: what to record; picklable, see `sources.Source`.
      out_dir: folder of the dataset, created if need be.
      split: "train" or "eval", passed to `source.worlds`.
      count: clips to record, spread evenly over the worlds; None: all that a finite source has.
      seed: of the whole recording.
      shard_clips: largest number of clips per shard.
      workers: processes; default one per usable core, 0 = record in this process.
      progress: show a progress bar with the time left (plain lines where there is no terminal).
      console: where to show it, default standard error.
      codecs: how parts are stored, by name; default all raw, see `clip_format.to_bytes`.
      filters: that clips have to pass; their numbers go into the clips and the card. None measures
        nothing.
      share: (i, n): this is host i of n that record into one folder with equal arguments. Each
        records every n-th shard; who finishes last completes the card.

    Returns:
      A `Report`; refused clips are counted in it, replaced where the source can, and shown.

    Raises:
      ValueError: bad arguments, or `out_dir` holds this split recorded with other arguments,
        or unfinished in another format of clips or of footage that has changed since, or shards
        that were not recorded there.
      OSError: with `errno.ENOSPC` when the disk is full; finished shards are kept and valid.
      LockedError: another process records into `out_dir`, or the same share of it.
      RecordingError: the source failed or gave no valid clip at all, with its reason.
    """
    directory = Path(out_dir).absolute()
    originals.recall_survey(source, directory)
    shards = plan(source, split, count, seed=seed, shard_clips=shard_clips)
    if workers is None:
        # Linux knows which cores this process may use.
        usable = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
        workers = len(usable(0))
    if workers < 0:
        raise ValueError(f"found workers={workers}, expected 0 or more processes")
    sharing.check_share(share)

    request = _request(source, split, shards, seed, shard_clips, codecs, filters)
    check_folder(str(directory), directory)
    _claim(read_card(directory), request, directory, shards)  # refused before anything is made
    return _record(request, shards, directory, workers, progress, console, share)


def _request(
    source: Source,
    split: str,
    shards: list[Shard],
    seed: int,
    shard_clips: int,
    codecs: Mapping[str, Codec] | None,
    filters: Filters | None,
) -> entries.Request:
    return entries.Request(
        source,
        split,
        sum(shard.count for shard in shards),
        seed,
        shard_clips,
        dict(codecs or {}),
        filters,
        planning.described(source, split, shards),
    )


def _record(
    request: entries.Request,
    shards: list[Shard],
    directory: Path,
    workers: int,
    progress: bool,
    console: Console | None,
    share: tuple[int, int],
) -> Report:
    start = time.monotonic()
    source, split = request.source, request.split
    own = sharing.own_shards(shards, share)
    task = f"recording {source.name} {split}"
    if share != sharing.WHOLE:
        task += f", share {share[0]}/{share[1]}"
    with contextlib.ExitStack() as stack:
        stack.enter_context(_full_disk_said(directory, shards))
        with sharing.changing_card(directory, task):
            sharing.hold_share(stack, directory, share, task)
            done = _begin(request, shards, own, directory, console)
        stack.callback(shard_files.remove_leftovers, directory, own)
        todo = [shard for shard in own if shard.index not in done]
        recording = Recording(source, directory, request.codecs, request.filters)
        total = sum(shard.count for shard in own)
        with (
            contextlib.closing(record_events(recording, todo, workers)) as events,
            Display(f"recording {directory.name} {split}", total, progress, console) as display,
        ):
            display.begin(sum(shards[index].count for index in done))
            for event in events:
                display.show(event)
        with sharing.changing_card(directory, task):
            summary, peaks, missing = _finish(request, shards, own, directory)
    return Report(
        clips=summary["clips"],
        requested=sum(shard.count for shard in (own if missing else shards)),
        rejected=summary["rejected"],
        reasons=summary["reasons"],
        examples=tuple(summary["examples"]),
        shards=tuple(directory / shard.file for shard in (own if missing else shards)),
        resumed=len(done),
        seconds=time.monotonic() - start,
        missing=missing,
        peak_mib=(peak_mib(), peaks.get("worker", 0)),
    )


@contextlib.contextmanager
def _full_disk_said(directory: Path, shards: list[Shard]) -> Iterator[None]:
    """A disk that is full says what is kept."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        kept = len(_there(shards, directory))
        raise OSError(
            errno.ENOSPC,
            f"no space left in {directory} ({error.strerror or error}); the {kept} finished of "
            f"{len(shards)} shards are kept, the same command goes on from there",
        ) from error


def _begin(
    request: entries.Request,
    shards: list[Shard],
    own: list[Shard],
    directory: Path,
    console: Console | None,
) -> set[int]:
    """Enters the split into the card; returns the numbers of own shards that are there."""
    card, split = read_card(directory), request.split
    entry = _claim(card, request, directory, shards)
    shard_files.remove_leftovers(directory, own)
    there = _there(shards, directory)
    done = {shard.index for shard in own} & there
    entries.recount(copy.deepcopy(entry), own, done, directory)  # checked; entered at the end
    for shard in own:
        if shard.index not in done:  # removed since: it is recorded anew
            entry["shards"].pop(shard.file, None)
    if len(done) < len(own):
        entries.prepare_for_more(entry, request, there, directory)
    mixes = bool(there) and len(done) < len(own)
    originals.check_files(
        request.source, directory, split, there=bool(there), mixes=mixes, console=console
    )
    write_card(directory, card)
    return done


def _finish(
    request: entries.Request, shards: list[Shard], own: list[Shard], directory: Path
) -> tuple[dict[str, Any], dict[str, int], int]:
    """Completes the card where all shards are there.

    Returns:
      What is summed up of all shards, or of own ones where others are missing; the peaks of memory;
      the number of those that are missing.
    """
    source, split = request.source, request.split
    card = read_card(directory)
    entry = _claim(card, request, directory, shards)
    there = _there(shards, directory)
    missing = len(shards) - len(there)
    if missing:
        entries.recount(entry, own, there, directory)
        entry["shards"] = {shard.file: entry["shards"][shard.file] for shard in own}
        return entries.summarise(entry, directory), entry.get("peak_mib", {}), missing
    new = entries.recount(entry, shards, there, directory)
    summary = entries.summarise(entry, directory)
    if new:
        peaks = entry.setdefault("peak_mib", {})
        peaks["recorder"] = max(peaks.get("recorder", 0), peak_mib())
        left_out: dict[str, int] = getattr(source, "left_out", dict)()
        if left_out:
            entry["frames_left_out"] = left_out
    write_card(directory, card)
    entries.remove_notes(shards, directory)
    if summary["clips"] == 0:
        why = f"rejected {summary['reasons']}, {summary['examples'][:2]}"
        raise RecordingError(f"source {source.name!r} gave no clip for {split!r}: {why}")
    sheet = directory / f"{split}.png"
    if new or not sheet.exists():
        counts = [entry["shards"][shard.file]["clips"] for shard in shards]
        _write_sheet(sheet, tuple(directory / shard.file for shard in shards), counts)
    return summary, entry.get("peak_mib", {}), 0


def _there(shards: list[Shard], directory: Path) -> set[int]:
    """Numbers of the shards that are there."""
    return {shard.index for shard in shards if (directory / shard.file).exists()}


def _claim(
    card: dict[str, Any], request: entries.Request, directory: Path, shards: list[Shard]
) -> dict[str, Any]:
    """`entries.claim`, if nothing else is in the way."""
    known = request.split in card["splits"]
    entry = entries.claim(card, request, directory)
    shard_files.refuse_foreign(directory, request.split, shards, known=known)
    return entry


def _write_sheet(path: Path, shards: tuple[Path, ...], counts: list[int]) -> None:
    buffer = io.BytesIO()
    contact_sheet(_shown_clips(shards, counts)).save(buffer, "PNG")
    write_atomically(path, buffer.getvalue())


def _shown_clips(shards: tuple[Path, ...], counts: list[int]) -> Iterator[Clip]:
    """Clips spread over all shards, one in memory at a time."""
    ends = np.cumsum(counts)
    for number in np.unique(np.linspace(0, ends[-1] - 1, _SHEET_CLIPS).astype(int)):
        shard = int(np.searchsorted(ends, number, side="right"))
        first = int(ends[shard]) - counts[shard]
        record = next(itertools.islice(read_records(shards[shard], int(number) - first), 1))
        yield clip_format.from_bytes(record)
