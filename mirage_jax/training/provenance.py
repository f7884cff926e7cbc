"""What a run was made with: the commit of the code, and what a config has changed since."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict

from mirage_jax.io.atomic import write_atomically

_NOTES = {
    ".batch_size": "; batches are counted, so some clips are passed over or seen again: for a run "
    "that sees them in order, init_from=THIS RUN in another folder"
}
"""What a change brings with it, by how the name of the field ends."""


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
        + next((note for end, note in _NOTES.items() if name.endswith(end)), "")
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def write_description(
    workdir: Path, placement: Mapping[str, list[str]], config: Mapping[str, Any] | None
) -> None:
    """Writes parameters.txt, where each parameter lies, and config.json.

    Args:
      workdir: folder of the run.
      placement: lines of a table by the line above it, see `parallel.specs.described`.
      config: JSON-serialisable; None or empty: not written.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join("\n".join([line, *rows]) for line, rows in placement.items())
    write_atomically(workdir / "parameters.txt", text + "\n")
    if config:
        write_atomically(workdir / "config.json", json.dumps(config, indent=2) + "\n")
