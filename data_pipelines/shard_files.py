"""The ArrayRecord files of a split: which there are, and whether one can be opened."""

import os
from pathlib import Path

from array_record.python.array_record_data_source import ArrayRecordDataSource


def find_shards(directory: Path, split: str) -> tuple[Path, ...]:
    """All of them, in order.

    Raises:
      ValueError: naming the folder, if there are none, or some are missing.
    """
    paths = sorted(directory.glob(f"{split}-*-of-*.array_record"))
    if not paths:
        there = sorted({path.name.split("-")[0] for path in directory.glob("[!.]*.array_record")})
        found = f"splits {there}" if there else "no shards"
        raise ValueError(f"{directory}: found {found}, expected {split}-*.array_record")
    total = int(paths[0].stem.rsplit("-", 1)[1])
    wanted = [directory / f"{split}-{i:05d}-of-{total:05d}.array_record" for i in range(total)]
    if paths != wanted:
        missing = [path.name for path in wanted if path not in paths]
        raise ValueError(
            f"{directory}: found {len(paths)} {split} shards, expected {total} "
            f"(missing {', '.join(missing[:3])}): finish recording with the same command"
        )
    return tuple(paths)


def is_damaged(path: Path) -> bool:
    """Whether a file is no ArrayRecord file, or not all of one."""
    try:
        ArrayRecordDataSource([os.fspath(path)])
    except RuntimeError:
        return True
    return False
