"""Which clips go into which shard of a recording, from its arguments alone."""

import dataclasses
import hashlib
import itertools
import json
import zlib
from typing import Any

import numpy as np

from data_pipelines.sources import FiniteSource, Source


@dataclasses.dataclass(frozen=True)
class Job:
    """`count` clips of one world; those of a `FiniteSource` by number, for which no seed is."""

    world: str
    count: int
    seed: int
    clips: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Shard:
    """One ArrayRecord file and what goes into it."""

    index: int
    file: str
    jobs: tuple[Job, ...]

    @property
    def count(self) -> int:
        return sum(job.count for job in self.jobs)


def plan(
    source: Source, split: str, count: int | None, *, seed: int, shard_clips: int
) -> list[Shard]:
    """Divides `count` clips evenly over the worlds of `split`, and the worlds over shards.

    A world's clips stay together (starting an engine costs more than a clip) unless they exceed
    `shard_clips`. Of a `FiniteSource` these are evenly spaced ones of all that it has; None is for
    all of them.

    Raises:
      ValueError: `count` or `shard_clips` below 1, a split without worlds, or no count for a source
        that makes its clips.
    """
    if (count is not None and count < 1) or shard_clips < 1:
        raise ValueError(f"found count={count}, shard_clips={shard_clips}; expected 1 or more")
    if isinstance(source, FiniteSource):
        return _plan_finite(source, split, count, shard_clips)
    if count is None:
        raise ValueError(f"source {source.name!r}: found no count of clips, expected a number")
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
            groups[-1].append(Job(world, size, derived_seed(seed, world, part)))
            room -= size
    return _shards(split, groups)


def _plan_finite(
    source: FiniteSource, split: str, count: int | None, shard_clips: int
) -> list[Shard]:
    available = [
        (world, index)
        for world, clips in source.clip_counts(split).items()
        for index in range(clips)
    ]
    if not available:
        raise ValueError(f"source {source.name!r} has no clips in split {split!r}")
    if count is not None and count < len(available):
        available = [available[i * len(available) // count] for i in range(count)]
    groups = []
    for start in range(0, len(available), shard_clips):
        jobs = []
        for world, part in itertools.groupby(
            available[start : start + shard_clips], lambda c: c[0]
        ):
            clips = tuple(index for _, index in part)
            jobs.append(Job(world, len(clips), 0, clips))
        groups.append(jobs)
    return _shards(split, groups)


def described(source: Source, split: str, shards: list[Shard]) -> dict[str, Any] | None:
    """What a plan depends on and a digest of it, as JSON; None for clips that are made from seeds.

    Of a `FiniteSource` the same arguments give another plan once it has other worlds or clips.
    """
    if not isinstance(source, FiniteSource):
        return None
    jobs = [[[job.world, job.clips] for job in shard.jobs] for shard in shards]
    digest = hashlib.sha256(json.dumps(jobs).encode()).hexdigest()
    return {"worlds": source.clip_counts(split), "sha256": digest}


def _shards(split: str, groups: list[list[Job]]) -> list[Shard]:
    return [
        Shard(index, f"{split}-{index:05d}-of-{len(groups):05d}.array_record", tuple(jobs))
        for index, jobs in enumerate(groups)
    ]


def derived_seed(seed: int, world: str, *parts: int) -> int:
    """Returns the seed of a part of a world's clips, 31 bits."""
    entropy = [seed, zlib.crc32(world.encode()), *parts]
    return int(np.random.SeedSequence(entropy).generate_state(1)[0] >> 1)
