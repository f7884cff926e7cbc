"""Flags of commands that several hosts run together, and how their processes find each other."""

from __future__ import annotations

from absl import flags

from mirage_jax.cli.helpers.flag_types import Integer
from mirage_jax.io.workdir import Workdir
from mirage_jax.parallel import processes

_COORDINATOR = flags.DEFINE_string(
    "coordinator",
    "",
    "host:port of process 0 of a run on several hosts; 'auto' insists on finding it in the "
    "environment, which is searched anyway where a launcher says that there are several.",
)
_PROCESSES = flags.DEFINE(
    Integer(least=0), "processes", 0, "How many processes; with --coordinator. 0 = not said."
)
_PROCESS = flags.DEFINE(
    Integer(least=-1), "process", -1, "Which of them this is, from 0; -1 = not said."
)
_CONNECT_SECONDS = flags.DEFINE(
    Integer(least=1), "connect_seconds", 300, "How long processes wait for each other at the start."
)


def connect(workdir: Workdir) -> None:
    """Connects this process with the others that the flags or the environment speak of."""
    processes.initialize(
        _COORDINATOR.value,
        processes=_PROCESSES.value,
        process=_PROCESS.value,
        timeout=_CONNECT_SECONDS.value,
        folder=workdir.root / "processes",
    )
