"""The flag `--json` of `mirage bench`: where its numbers are written."""

from __future__ import annotations

from pathlib import Path

from absl import flags

from mirage_jax.cli.helpers.flag_types import PathName

_JSON = flags.DEFINE(PathName(), "json", "", "File to write (default: bench_SUBJECT.json).")


def json_path(subject: str) -> Path:
    """The file of timings that --json names, or bench_SUBJECT.json."""
    return Path(_JSON.value or f"bench_{subject}.json")
