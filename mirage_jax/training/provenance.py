"""What a run was made with: the commit of the code, and what a config has changed since."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict


def git_revision(folder: str | Path) -> str:
    """Commit of the working tree that `folder` lies in, `+changes` where it is not clean."""
    try:
        run = dict(cwd=folder, capture_output=True, text=True, timeout=10, check=True)
        commit = subprocess.run(["git", "rev-parse", "HEAD"], **run).stdout.strip()  # type: ignore[call-overload]
        status = ["git", "status", "--porcelain", "--untracked-files=no"]
        changes = subprocess.run(status, **run).stdout.strip()  # type: ignore[call-overload]
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return commit + ("+changes" if changes else "")


def changed_fields(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """A line for each field of a config that differs from the one in a checkpoint.

    Args:
      before: as JSON gave it back.
      after: JSON-serialisable.
    """
    old = flatten_dict(before, sep=".")
    new = flatten_dict(json.loads(json.dumps(after)), sep=".")
    return [
        f"{name}: {old.get(name, 'absent')!r} in the checkpoint, now {new.get(name, 'absent')!r}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
