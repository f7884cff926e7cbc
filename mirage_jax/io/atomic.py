"""Files that appear under their name whole or not at all.

They are written under another name beside the final one, which they take at the end in one step
(`os.replace`): a reader never sees half a file, and an error leaves the older one as it was. That
name is each writer's own, so that of several at once the last to finish has the file, whole. What
a killed process has left goes when the file is next written.
"""

import contextlib
import errno
import functools
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_OF_A_DISK = (*_DISK_FULL, errno.EIO, errno.EROFS, errno.EFBIG, errno.ESTALE)
_ABANDONED = 86_400.0  # seconds without a write after which a writer on another host is gone


def partial_path(path: str | os.PathLike[str]) -> Path:
    """Returns the hidden name beside `path`, with the same suffix, that `replacing` yields here.

    It says which thread of which process on which host writes there.
    """
    path = Path(path)
    writer = f"{_host()}-{os.getpid()}-{threading.get_ident()}"
    return path.with_name(f".{path.stem}.partial-{writer}{path.suffix}")


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], *, sync: bool = False) -> Iterator[Path]:
    """Yields a temporary path beside `path` to write a file or a folder to.

    It takes the place of `path` when the block ends, and is removed when the block raises. The
    suffix is that of `path`, for writers that go by it. A folder can only take the place of an
    empty folder or of none.

    Args:
      path: the final name; its folder must exist.
      sync: wait until the file's data are on the disk before it gets its name, so that not even a
        power cut leaves a name without its data.

    Raises:
      OSError: the temporary path cannot be written, or the disk is full or fails; names `path`.
        Other errors of the block pass as they are.
    """
    path = Path(path)
    partial = partial_path(path)
    with _named(path, partial):
        _remove(partial)
        _remove_abandoned(path)
        try:
            yield partial
            if sync:
                _sync(partial)
            os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is the one to report
                _remove(partial)
            raise


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of a disk that name no file, as those of writing to an open one, name `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno not in _OF_A_DISK:
            raise
        raise OSError(error.errno, error.strerror or str(error), os.fspath(path)) from error


@contextlib.contextmanager
def _named(path: Path, partial: Path) -> Iterator[None]:
    """Errors about the temporary path, those of a full disk and `naming`'s name the final one."""
    try:
        with naming(path):
            yield
    except OSError as error:
        ours = error.filename is not None and os.fspath(error.filename) == os.fspath(partial)
        if not ours and error.errno not in _DISK_FULL:
            raise
        raise OSError(error.errno, error.strerror or str(error), os.fspath(path)) from error


def write_atomically(
    path: str | os.PathLike[str], data: bytes | str, *, sync: bool = False
) -> None:
    """Writes `data`, text as UTF-8, to `path`; arguments and errors as for `replacing`."""
    with replacing(path, sync=sync) as partial:
        partial.write_bytes(data.encode() if isinstance(data, str) else data)


def write_together(files: Mapping[Path, bytes | str]) -> None:
    """Writes files that belong together: none takes its name before all are written.

    Args:
      files: what they hold, text as UTF-8, in the order in which they take their names.

    Raises:
      OSError: as `replacing`, naming one of them; none has then been replaced, unless it was the
        taking of a name that failed.
    """
    with contextlib.ExitStack() as stack:
        for path in reversed(list(files)):  # the last to be entered is left first
            data = files[path]
            partial = stack.enter_context(replacing(path))
            partial.write_bytes(data.encode() if isinstance(data, str) else data)


def read_unchanged(path: Path, read: Callable[[], T]) -> T:
    """What `read` gives of a file, read anew where another process replaced the file meanwhile.

    For readers that open a file more than once, and would find parts of two in it.
    """
    while True:
        version = _version(path)
        try:
            found = read()
        except (ValueError, OSError):
            if _version(path) == version:
                raise
            continue
        if _version(path) == version:
            return found


def _version(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except FileNotFoundError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


@functools.cache
def _host() -> str:
    """Where numbers of processes mean the same: a host, or a container on one."""
    name = re.sub(r"[^A-Za-z0-9]", "", socket.gethostname())[:20] or "host"
    with contextlib.suppress(OSError):
        name += f"n{os.stat('/proc/self/ns/pid').st_ino}"
    return name


def _remove_abandoned(path: Path) -> None:
    """Removes what writers of `path` that are no longer there have left."""
    # A block may itself write its file by `replacing`: then one name is inside the other.
    name = re.compile(
        rf"\.+{re.escape(path.stem)}(?:\.partial-(\w+)-(\d+)-\d+)+{re.escape(path.suffix)}"
    )
    entries = list(path.parent.iterdir()) if path.parent.is_dir() else []
    for entry in entries:
        if (found := name.match(entry.name)) and _is_gone(found[1], int(found[2]), entry):
            with contextlib.suppress(OSError):  # another writer removes it, or nobody can
                _remove(entry)


def _is_gone(host: str, process: int, left: Path) -> bool:
    """Whether nobody writes to a temporary path any more."""
    if host != _host():
        with contextlib.suppress(OSError):
            return time.time() - left.stat().st_mtime > _ABANDONED
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:  # of another user
        return False
    return False


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
