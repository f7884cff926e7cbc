"""One writer at a time in a folder, over processes, hosts and network file systems.

The lock is `flock` on a file. The system releases it with the process that holds it, however that
ends, so a run that was killed leaves nothing to clear away. Linux passes `flock` on to the server
for NFS (since 2.6.12), where it holds between hosts; on mounts with `nolock` or `local_lock`, on
Lustre with `localflock` and on most object stores it holds on one host only, or not at all. So the
file also says who holds it, and its time is renewed every few seconds: where the lock of another
host can be had, its file is watched for a while, and only one that stays as it is has no owner.
Nothing is compared with this host's clock but ages of many minutes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mirage_jax.io.atomic import naming

RENEWED_EVERY = 10.0
"""Seconds between signs of life of an owner."""

_WATCHED = 35.0  # three signs, and what network file systems take to show them
_LONG_DEAD = 900.0  # seconds without a sign, however wrong the clocks

_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class LockedError(OSError):
    """Another process is at work in a folder."""


@contextlib.contextmanager
def locked(path: str | os.PathLike[str], task: str, *, active: bool = True) -> Iterator[None]:
    """Holds the lock file `path`, made if needed, for the time of the block.

    Those who only read what is beside it need no lock.

    Args:
      path: of the lock file; it is removed at the end.
      task: what is done under it, for the message to others.
      active: False on all processes of a run but the first: nothing is done.

    Raises:
      LockedError: if another process holds it, naming that and since when: at once, or for one on
        another host that `flock` does not tell of, at its next sign of life. (A dead one there is
        waited for 35 s.)
      OSError: if the file cannot be written.
    """
    if not active:
        yield
        return
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = _Lock(path, task)
    renewing = threading.Thread(target=lock.renew, daemon=True)
    renewing.start()
    try:
        yield
    finally:
        lock.done.set()
        renewing.join()
        lock.release()


class _Lock:
    def __init__(self, path: Path, task: str) -> None:
        self.path = path
        self.done = threading.Event()
        self._own = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            "task": task,
        }
        self._enforced = True
        self.descriptor = -1
        while not _same_file(self.descriptor, path):  # its owner may end, and remove it, meanwhile
            self.close()
            self.descriptor = self._open()
            try:
                self._take_over()
            except BaseException:
                self.close()
                raise
        _held.add(self)

    def _open(self) -> int:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                os.close(descriptor)
                if error.errno in (errno.EAGAIN, errno.EACCES):
                    raise self._refusal(_read(self.path)) from error
                raise
            self._enforced = False
        return descriptor

    def _take_over(self) -> None:
        """Makes the file this process's, unless its owner lives where `flock` does not tell."""
        owner = _read(self.path)
        here = self._enforced and owner.get("host") == self._own["host"]  # then it is dead
        if owner and not here and _lives(self.path):
            raise self._refusal(owner)
        with naming(self.path):
            os.ftruncate(self.descriptor, 0)
            os.pwrite(self.descriptor, (json.dumps(self._own) + "\n").encode(), 0)

    def _refusal(self, owner: dict[str, Any]) -> LockedError:
        who = "another process"
        if owner:
            who = (
                f"process {owner['process']} on {owner['host']} since {owner['since']} "
                f"({owner['task']})"
            )
        return LockedError(
            f"{self.path.parent}: {who} is at work here, expected nobody beside "
            f"{self._own['task']!r}; wait for it, end it, or choose another folder. The lock "
            f"({self.path.name}) ends with its process"
        )

    def renew(self) -> None:
        while not self.done.wait(RENEWED_EVERY):
            # A sign that is late by one does no harm, and the run has not failed for it.
            with contextlib.suppress(OSError):
                os.utime(self.descriptor)

    def release(self) -> None:
        # The name first: who opens it now makes a file of its own.
        with contextlib.suppress(FileNotFoundError):
            if _read(self.path) == self._own:
                self.path.unlink()
        self.close()

    def close(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


_held: weakref.WeakSet[_Lock] = weakref.WeakSet()


def _close_in_child() -> None:
    """A process that was forked off must not hold the lock on when its parent is dead."""
    for lock in list(_held):
        lock.close()


os.register_at_fork(after_in_child=_close_in_child)


def _read(path: Path) -> dict[str, Any]:
    """Who the file says holds it; nobody, if it says nothing that can be read."""
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    known = isinstance(owner, dict) and {"host", "process", "since", "task"} <= owner.keys()
    return owner if known else {}


def _lives(path: Path) -> bool:
    """Watches a lock file for signs of life of its owner on another host."""
    first = now = _modified(path)
    if time.time() - first / 1e9 > _LONG_DEAD:
        return False
    end = time.monotonic() + _WATCHED
    while now == first and time.monotonic() < end:
        time.sleep(min(1.0, RENEWED_EVERY / 4))
        now = _modified(path)
    return now not in (first, 0)


def _modified(path: Path) -> int:
    """When a file was last written to, in nanoseconds; 0 if there is none."""
    # Opened anew, for NFS then asks its server and not its cache.
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return 0


def _same_file(descriptor: int, path: Path) -> bool:
    if descriptor < 0:
        return False
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
