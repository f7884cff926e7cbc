"""Which recordings have held-out clips: footage may have none, worlds always do."""

from __future__ import annotations

from collections.abc import Sequence

from ml_collections import ConfigDict
from rich.console import Console

from mirage_jax.cli.helpers.picture_shapes import is_footage
from mirage_jax.io.outputs import json_fields
from mirage_jax.io.workdir import CARD, Workdir


def with_held_out(workdir: Workdir, worlds: Sequence[str]) -> tuple[str, ...]:
    """Those of the recorded worlds whose held-out clips are there, or have to be.

    Held-out clips of footage are recorded before the others, so that a recording without them has
    none: nothing of it is held out, or its only scene is a single clip.

    Args:
      workdir: with the recordings.
      worlds: names, of which those that are not recorded are left out.
    """
    return tuple(
        world
        for world in worlds
        if workdir.is_recorded(world) and not (is_footage(world) and _trains_alone(workdir, world))
    )


def without_held_out(workdir: Workdir, worlds: Sequence[str]) -> tuple[str, ...]:
    """Those of the worlds that are recorded and have no held-out clips."""
    recorded = list(filter(workdir.is_recorded, worlds))
    scored = with_held_out(workdir, recorded)
    return tuple(world for world in recorded if world not in scored)


def _trains_alone(workdir: Workdir, world: str) -> bool:
    return set(json_fields(workdir.worlds(world) / CARD).get("splits", {})) == {"train"}


def say_what_is_not_evaluated(config: ConfigDict, workdir: Workdir, console: Console) -> None:
    """Says which recordings have no held-out clips, where there are any."""
    sheets = "; sample sheets show clips that are trained on"
    ending = "" if with_held_out(workdir, config.worlds) else sheets
    for world in without_held_out(workdir, config.worlds):
        console.print(
            f"{world}: no clip is held out, so nothing of it is evaluated{ending}",
            markup=False,
            soft_wrap=True,
        )
