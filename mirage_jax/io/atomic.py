"""Files that appear under their name whole or not at all.

They are written under another name beside the final one, which they take at the end in one step
(`os.replace`): a reader never sees half a file, and an error leaves the older one as it was.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def partial_path(path: str | os.PathLike[str]) -> Path:
    """Returns the hidden name beside `path` that `replacing` yields, with the same suffix."""
    path = Path(path)
    return path.with_name(f".{path.stem}.partial{path.suffix}")


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
      OSError: the temporary path cannot be written, or the disk is full; names `path`. Other errors
        of the block pass as they are.
    """
    path = Path(path)
    partial = partial_path(path)
    with _named(path, partial):
        _remove(partial)  # of a process that was killed
        try:
            yield partial
            if sync:
                _sync(partial)
            os.replace(partial, path)
        finally:
            _remove(partial)


@contextlib.contextmanager
def _named(path: Path, partial: Path) -> Iterator[None]:
    """Errors about the temporary path, and those of a full disk, name the final one."""
    try:
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


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
