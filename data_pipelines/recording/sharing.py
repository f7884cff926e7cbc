"""Several hosts on one recording: which shards each records, and who may change the card.

Host i of n records shards i, i + n, i + 2 n and so on, under a lock of its own for as long as it
takes. The card is changed under another, which is held for moments and waited for.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_pipelines.recording.planning import Shard
from mirage_jax.io.lock import LockedError, locked

WHOLE = (0, 1)
"""The share of a host that records alone."""

_PATIENCE = 600.0  # seconds for others to finish with the card


def check_share(share: tuple[int, int]) -> None:
    """Raises ValueError unless the share is (i, n) with 0 <= i < n."""
    number, count = share
    if not 0 <= number < count:
        raise ValueError(f"share: found {number}/{count}, expected I/N with 0 <= I < N")


def own_shards(shards: Sequence[Shard], share: tuple[int, int]) -> list[Shard]:
    """Those that a host records."""
    return list(shards[share[0] :: share[1]])


@contextlib.contextmanager
def changing_card(directory: Path, task: str) -> Iterator[None]:
    """Holds the card of a folder, waiting for those who have it.

    Raises:
      LockedError: if they do not let go of it in ten minutes.
    """
    end = time.monotonic() + _PATIENCE
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(directory / "card.lock", task))
                break
            except LockedError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)
        yield


def hold_share(
    stack: contextlib.ExitStack, directory: Path, share: tuple[int, int], task: str
) -> None:
    """Holds a share of the shards until the stack ends; to be called by who holds the card.

    Raises:
      LockedError: if another process records the share, or shares of another number of hosts.
    """
    own = directory / _lock_name(share)
    for path in sorted({directory / "lock", *directory.glob("lock-*-of-*")}):
        alike = share[1] > 1 and path.name.endswith(f"-of-{share[1]}")
        if path != own and not alike and path.exists():
            with locked(path, task):  # whose process is dead, or this raises
                pass
    stack.enter_context(locked(own, task))


def _lock_name(share: tuple[int, int]) -> str:
    return "lock" if share == WHOLE else f"lock-{share[0]}-of-{share[1]}"
