"""The flag `--source` of commands that read what others have made, and no field of a config."""

from __future__ import annotations

from absl import flags

from mirage_jax.cli.helpers.flag_types import PathNames

SOURCE = flags.DEFINE(
    PathNames(),
    "source",
    [],
    "What to read, PATH,...: `mirage convert` merges several weights; `mirage evaluate` scores "
    "footage that comes back, in place of the held-out worlds, one by one.",
)
