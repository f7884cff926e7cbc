"""What Orbax checkpoints of any kind share here: the error of damaged ones, and quiet reading."""

from __future__ import annotations

import contextlib
import errno
import logging
import warnings
from collections.abc import Iterator


class DamagedCheckpoint(ValueError):
    """The bytes of a checkpoint are not those that were saved."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences the screens of tracebacks that Orbax's background tasks log about a damaged file."""
    loggers = [logging.getLogger(name) for name in ("asyncio", "absl")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def reason_of(error: BaseException) -> str:
    """One line: the first cause that helps a person."""
    seen: BaseException | None = error
    text = f"{type(error).__name__}: {error}"
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno == errno.ENOSPC:
            return "no space left on the device"
        if "No space left" in str(seen) or "RESOURCE_EXHAUSTED" in str(seen):
            return "no space left on the device"
        text = f"{type(seen).__name__}: {seen}"
        seen = seen.__cause__ or seen.__context__
    return " ".join(text.split())[:200]
