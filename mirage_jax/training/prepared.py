"""Batches with something done to each of them, when it is drawn or by a thread beforehand."""

from __future__ import annotations

import inspect
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

_LONGEST_WAIT = 5.0  # seconds for a draw that is under way when the batches are closed


class Prepared:
    """Batches with something done to each of them when it is drawn.

    Attributes:
      examples: a batch of every shape, as drawn; none where all are of one.
      computes: whether drawing one runs programs on the devices.
    """

    def __init__(
        self,
        batches: Any,
        prepare: Callable[[Any], Any] = lambda batch: batch,
        examples: Iterable[Any] = (),
        *,
        computes: bool = False,
    ):
        self._batches, self._prepare, self.examples = batches, prepare, examples
        self.computes = computes

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self._prepare(next(self._batches))

    def close(self) -> None:
        """Closes the batches where they can be."""
        getattr(self._batches, "close", lambda: None)()


class Prefetched:
    """An iterator of the same batches, the next of which is made while the last one is used.

    One batch waits at most, so that the position of the batches is never far ahead. What drawing
    raises is raised where the batch would have been given.

    Args:
      batches: closed by `close()` where they can be.
      prepare: what is done to each, by the thread: nothing that other processes must do in the
        same order, such as a program that they share.

    Attributes:
      examples: those of the batches, as drawn.
    """

    def __init__(self, batches: Iterable[Any], prepare: Callable[[Any], Any] = lambda batch: batch):
        self._batches, self._prepare = iter(batches), prepare
        self.examples = getattr(self._batches, "examples", ())
        self._waiting: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        self._wanted = threading.Semaphore(1)
        self._closed = False
        # Not the interpreter's to wait for: a draw may hang.
        self._thread = threading.Thread(target=self._draw, name="prefetch", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._closed:
            raise StopIteration
        batch, error = self._waiting.get()
        if error is not None:
            self._closed = True
            raise error
        self._wanted.release()
        return batch

    def close(self) -> None:
        """Ends the thread and closes the batches."""
        self._closed = True
        self._wanted.release()
        self._thread.join(_LONGEST_WAIT)
        if self._thread.is_alive() and inspect.isgenerator(self._batches):
            return  # one that is at work cannot be closed
        getattr(self._batches, "close", lambda: None)()

    def _draw(self) -> None:
        while True:
            self._wanted.acquire()
            if self._closed:
                return
            try:
                made = self._prepare(next(self._batches))
            except BaseException as error:
                self._waiting.put((None, error))
                return
            self._waiting.put((made, None))


def placed(batches: Iterable[Any], place: Callable[[Any], Any]) -> Prefetched | Prepared:
    """Batches on the devices: ahead, by a thread, but where drawing them `computes` there."""
    drawn = iter(batches)
    if getattr(drawn, "computes", False):
        return Prepared(drawn, place, getattr(drawn, "examples", ()))
    return Prefetched(drawn, place)
