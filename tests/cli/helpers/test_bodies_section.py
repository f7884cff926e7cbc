"""What the report has of bodies, from rollouts that are put in the place of a model's."""

import dataclasses

import numpy as np
import pytest
from rich.console import Console

from data_pipelines.clip import Clip
from data_pipelines.due_again import history_frames
from data_pipelines.loading import ClipSource
from data_pipelines.recording import record
from data_pipelines.sources.procedural import ProceduralSource
from helpers import paths, tiny_world
from mirage_jax.cli.helpers import bodies_section
from mirage_jax.cli.helpers.common import load_config
from mirage_jax.evaluation.permanence import rollouts, views
from mirage_jax.io.workdir import Workdir
from mirage_jax.memory.movers import MoverOptions
from mirage_jax.world.conditioners import Surfels

CLIPS = 6


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    found = Workdir(tmp_path_factory.mktemp("run"))
    source = ProceduralSource(size=32, frames=17, bodies=2, skip=6, eval_worlds=2)
    folder = found.worlds("procedural_bodies")
    record(source, folder, "eval", CLIPS, workers=0, progress=False, seed=5)
    return found


@pytest.fixture
def config():
    config = load_config(str(paths.EXPERIMENTS / "quickstart.py"))
    config.worlds = ("procedural", "procedural_bodies")
    config.evaluation.bodies = 5
    config.evaluation.videos = 2
    return config


@pytest.fixture
def stubbed(monkeypatch):
    """Rollouts that show the truth; where bodies are left out, nothing but black."""

    def half(clip: Clip):
        return clip.video[history_frames(clip) :]

    def made(model, clip, *, seed, true_maps):
        assert model.movers is not None and not true_maps
        return {name: half(clip) for name in ("reconstruction", "memory", "readout")}

    def again(model, world, clip, *, seed):
        assert model.movers is None and not model.conditioner.movers
        return {"memory": np.zeros_like(half(clip))}

    monkeypatch.setattr(rollouts, "videos_of", made)
    monkeypatch.setattr(rollouts, "start", lambda model, clip, *, told: None)
    monkeypatch.setattr(rollouts, "second_half", again)


def measure(config, workdir):
    told = Surfels(tiny_world.CHANNELS, tiny_world.STRIDE, movers=True)
    model = tiny_world.world_model(told=told).replace(movers=MoverOptions())
    walking = ("procedural_bodies",)
    return bodies_section.measure(model, walking, config, workdir, Console(quiet=True))


def test_bodies_are_scored_and_shown_as_the_truth_has_them(workdir, config, stubbed):
    found, films = measure(config, workdir)
    assert found["clips"] == 5 and found["views"] > 0
    assert found["methods"]["memory"]["present"]["value"] == 1.0
    assert found["methods"]["nothing_remembered"]["present"]["value"] == 0.0
    source = ClipSource(workdir.worlds("procedural_bodies"), "eval")
    clips = {clip.name: clip for clip in map(source.clip, range(CLIPS))}
    assert len(films) == 2
    for film in films:
        clip = clips[film["title"].rpartition(": ")[2]]
        assert film["history"] == 9 and film["fps"] == config.evaluation.fps
        panels = film["panels"]
        for label in ("ground truth", "with memory and bodies", "what the memory shows"):
            np.testing.assert_array_equal(panels[label], clip.video)
        np.testing.assert_array_equal(panels["bodies left out"][:9], clip.video[:9])
        assert not panels["bodies left out"][9:].any()
        gap = round(float(clip.timestamps[9] - clip.timestamps[8]) * clip.fps) - 1
        assert gap >= 6 and f"{gap} frames went by" in film["note"]


def test_bodies_behind_walls_are_shown_first(workdir, config, stubbed, monkeypatch):
    """Whatever the order of the clips, and whatever else is due in them."""
    kinds = iter((views.LOOKED_AWAY, views.LEFT, views.BEHIND, views.LEFT) * 20)
    judged = bodies_section.protocol.judged_views

    def told(*args):
        return [dataclasses.replace(view, kind=next(kinds)) for view in judged(*args)]

    monkeypatch.setattr(bodies_section.protocol, "judged_views", told)
    config.evaluation.videos = CLIPS
    _, films = measure(config, workdir)
    shown = [views.KINDS.index(film["title"].partition(",")[0]) for film in films]
    assert shown == sorted(shown) and len(set(shown)) > 1
