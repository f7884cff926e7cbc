"""Writing ArrayRecord files so that what goes wrong is an OSError, as of Python's own files."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from array_record.python import array_record_module

_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG)


@contextlib.contextmanager
def record_writer(path: Path, options: str) -> Iterator[Any]:
    """Yields an ArrayRecordWriter, which is closed when the block ends.

    Args:
      path: of the file.
      options: of the writer, such as "group_size:1".

    Raises:
      OSError: naming the file, if it cannot be written; EIO where the library does not say why.
    """
    writer = None
    try:
        writer = array_record_module.ArrayRecordWriter(os.fspath(path), options)
        yield writer
        writer.close()
    except RuntimeError as error:
        # The library knows no other error, and says in words what the system said.
        text = str(error)
        code = next((code for code in _ERRORS if os.strerror(code) in text), errno.EIO)
        if code == errno.EIO and os.fspath(path) not in text:
            raise
        raise OSError(code, os.strerror(code), os.fspath(path)) from error
    finally:
        if writer is not None:
            with contextlib.suppress(RuntimeError):  # closed already, or failed before
                writer.close()
