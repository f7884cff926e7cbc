"""Which clips go into which shard of a recording, from its arguments alone."""

import dataclasses
import zlib

import numpy as np

from data_pipelines.sources import Source


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
            groups[-1].append(Job(world, size, derived_seed(seed, world, part)))
            room -= size
    return [
        Shard(index, f"{split}-{index:05d}-of-{len(groups):05d}.array_record", tuple(jobs))
        for index, jobs in enumerate(groups)
    ]


def derived_seed(seed: int, world: str, *parts: int) -> int:
    """Returns the seed of a part of a world's clips, 31 bits."""
    entropy = [seed, zlib.crc32(world.encode()), *parts]
    return int(np.random.SeedSequence(entropy).generate_state(1)[0] >> 1)
