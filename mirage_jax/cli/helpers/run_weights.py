"""Whose weights a command runs: those of a work directory, or the ones that ship."""

from __future__ import annotations

from pathlib import Path

from absl import flags
from rich.console import Console

from mirage_jax.cli.helpers import common
from mirage_jax.io.workdir import Workdir
from mirage_jax.world import shipped


def trained_or_shipped(workdir: Workdir, console: Console) -> Workdir:
    """`workdir`, or the shipped weights where the default one holds none.

    Args:
      workdir: of the command.
      console: told when shipped weights are taken without having been asked for.
    """
    if shipped.folder_of(_asked()) == shipped.DEMO:
        return Workdir(shipped.DEMO)
    if flags.FLAGS["workdir"].present or workdir.root.joinpath("model").exists():
        return workdir
    console.print(
        f"[dim]nothing is trained in {_asked()}: the weights that ship are used (--workdir)[/]",
        soft_wrap=True,
    )
    return Workdir(shipped.DEMO)


def workdir() -> Workdir:
    """Where the command keeps what it compiles; for shipped weights that is runs/demo."""
    if shipped.folder_of(_asked()) != shipped.DEMO:
        return Workdir(common.workdir())
    path = Path("runs") / shipped.NAME
    path.mkdir(parents=True, exist_ok=True)
    return Workdir(path.resolve())


def _asked() -> str:
    return str(flags.FLAGS["workdir"].value)
