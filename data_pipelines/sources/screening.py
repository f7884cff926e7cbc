"""Which recorded clips are worth keeping, and how many were not."""

import collections
import logging
import zlib
from collections.abc import Callable, Iterator

import numpy as np

from data_pipelines.clip import Clip
from data_pipelines.sources import paths
from data_pipelines.sources.warp_check import revisit_coverage

NEAREST = 0.6  # metres: the least median depth of a frame
DARKEST = 24.0  # of 255: the least mean brightness of a frame
FLATTEST = 6.0  # of 255: the least contrast (standard deviation) of a frame
MOST_UNKNOWN = 0.3  # share of a frame's pixels without depth
LEAST_REVISITED = 0.5  # share of the last frames that the first half saw


def why_rejected(clip: Clip) -> str | None:
    """The reason to drop a clip, or None: "near", "dark", "flat", "unknown" or "not revisited".

    A view with a wall at the nose, hardly any light or a single colour shows nothing to remember.
    ValueError for a clip without depth.
    """
    grey = clip.video.mean(-1, dtype=np.float32).reshape(len(clip.video), -1)
    depth = clip.require("depth").reshape(clip.frames, -1)
    if (np.median(depth, axis=1) < NEAREST).any():
        return "near" if (depth == 0).mean(1).max() <= MOST_UNKNOWN else "unknown"
    if (grey.mean(1) < DARKEST).any():
        return "dark"
    if (grey.std(1) < FLATTEST).any():
        return "flat"
    if (depth == 0).mean(1).max() > MOST_UNKNOWN:
        return "unknown"
    if revisit_coverage(clip) < LEAST_REVISITED:
        return "not revisited"
    return None


def collect(
    record: Callable[[int, str], Clip | str],
    world: str,
    count: int,
    seed: int,
    rejected: collections.Counter,
) -> Iterator[Clip]:
    """Yield `count` clips of a world, easy and parallax returns in turn.

    `record(clip_seed, kind)` gives a clip or the reason why there is none, which `rejected`
    counts, as it does the clips that are not worth keeping. Fewer clips come, with a warning, where
    ten times as many attempts do not suffice.
    """
    made, attempt = 0, 0
    while made < count and attempt < 10 * count + 20:
        entropy = np.random.SeedSequence([zlib.crc32(world.encode()), seed, attempt])
        attempt += 1
        clip = record(int(entropy.generate_state(1)[0]), paths.KINDS[made % len(paths.KINDS)])
        reason = clip if isinstance(clip, str) else why_rejected(clip)
        if isinstance(clip, str) or reason is not None:
            rejected[reason] += 1
            continue
        made += 1
        yield clip
    if made < count:
        logging.warning("%s: %d of %d clips after %d attempts", world, made, count, attempt)
