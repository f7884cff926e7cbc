"""Bodies in the report: whether they are there when they are due again, and films of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from rich.console import Console
from rich.progress import track

from data_pipelines import due_again
from data_pipelines.clip import Clip
from mirage_jax.cli.helpers import permanence
from mirage_jax.evaluation.permanence import protocol, rollouts, views
from mirage_jax.io.workdir import Workdir
from mirage_jax.training.held_out import spread_over
from mirage_jax.world import WorldModel
from mirage_jax.world.bodies import without_bodies
from mirage_jax.world.conditioners import Surfels


def measure(
    model: WorldModel,
    worlds: Sequence[str],
    config: ConfigDict,
    workdir: Workdir,
    console: Console,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Scores `evaluation.bodies` of the held-out clips with bodies, and shows some of them.

    Which are shown does not depend on what the model makes of them: bodies that a wall hid come
    first, then those that left the view, then those that the camera turned away from.

    Args:
      model: that keeps bodies.
      worlds: in whose clips bodies walk.
      config: of the experiment.
      workdir: with recorded clips.
      console: for the progress.

    Returns:
      What `permanence.json` has of more clips, and videos for `report.write_report`.
    """
    recorded = permanence.recorded(worlds, workdir)
    chosen = [recorded[i].clip() for i in spread_over(len(recorded), config.evaluation.bodies)]
    clips = sorted(chosen, key=lambda clip: (clip.source, clip.world))
    made: dict[str, dict[str, np.ndarray]] = {}
    due: dict[str, views.JudgedView] = {}

    def generated(clip: Clip) -> dict[str, np.ndarray]:
        made[clip.name] = rollouts.videos_of(model, clip, seed=config.seed, true_maps=False)
        return made[clip.name]

    def keep(clip: Clip, view: views.JudgedView, _: Any) -> None:
        known = due.setdefault(clip.name, view)
        due[clip.name] = min(known, view, key=_rank)

    clips_with_videos = (
        (clip, generated(clip)) for clip in track(clips, "scoring bodies", console=console)
    )
    found = protocol.score_clips(clips_with_videos, each=keep)
    shown = sorted((clip for clip in clips if clip.name in due), key=lambda c: _rank(due[c.name]))
    films = [
        _film(model, clip, due[clip.name], made[clip.name], config)
        for clip in shown[: config.evaluation.videos]
    ]
    return found.summarise(config.seed), films


def _rank(view: views.JudgedView) -> int:
    return views.KINDS.index(view.kind)


def _film(
    model: WorldModel,
    clip: Clip,
    view: views.JudgedView,
    made: dict[str, np.ndarray],
    config: ConfigDict,
) -> dict[str, Any]:
    """All frames of a clip, those after the given ones by the model with and without its bodies."""
    given = due_again.history_frames(clip)
    numbers = due_again.frame_numbers(clip)
    left_out = int(numbers[given] - numbers[given - 1] - 1)
    panels = {"ground truth": clip.video[given:], "with memory and bodies": made["memory"]}
    if isinstance(model.conditioner, Surfels):
        bare = without_bodies(model)
        world = rollouts.start(bare, clip, told=False)
        again = rollouts.second_half(bare, world, clip, seed=config.seed)
        panels["bodies left out"] = again["memory"]
    panels["what the memory shows"] = made["readout"]
    return {
        "title": f"{view.kind}, due in frame {view.frame}: {clip.name}",
        "panels": {
            label: np.concatenate([clip.video[:given], video]) for label, video in panels.items()
        },
        "fps": config.evaluation.fps,
        "history": given,
        "note": f"Last seen in frame {view.last_seen}. While the camera waited after frame "
        f"{given - 1}, {left_out} frames went by that nobody saw.",
    }
