"""Balls that roll exactly, and errors with known answers."""

import json
import sys

import numpy as np
import pytest
from absl.testing import flagsaver

from data_pipelines.sources.procedural import BALL_RADIUS, make_room
from mirage_jax.cli.helpers import bench_movers, common
from mirage_jax.evaluation import hidden_movers

WORLD = "procedural/eval-001"


def test_a_ball_keeps_its_speed_and_stays_out_of_walls():
    room = make_room(WORLD)
    start = room.ball[0, :2]  # there is room for a ball
    centres, bounces = hidden_movers.rolling(room, start, np.array([0.9, 0.7]), 0.4, 200)
    low, high = room.boxes[:, 0, :2], room.boxes[:, 1, :2]
    gaps = np.linalg.norm(centres[:, None, :2] - np.clip(centres[:, None, :2], low, high), axis=-1)
    assert gaps.min() > BALL_RADIUS - 0.02
    assert (centres[:, :2] > BALL_RADIUS - 0.02).all()
    assert (centres[:, :2] < room.extent[:2] - BALL_RADIUS + 0.02).all()
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    speed = np.hypot(0.9, 0.7) / hidden_movers.FPS
    assert steps.max() < speed * 1.001 and np.median(steps) > 0.999 * speed
    assert bounces[-1] >= 2 and (np.diff(bounces) >= 0).all()
    straight = centres[: int(np.flatnonzero(bounces)[0])]
    turns = np.diff(np.unwrap(np.arctan2(*np.diff(straight[:, :2], axis=0).T[::-1])))
    np.testing.assert_allclose(turns, 0.4 / hidden_movers.FPS, atol=1e-6)


def test_errors_of_known_places():
    centres = np.zeros((60, 3))
    centres[:, 0] = 0.1 * np.arange(60)
    scene = hidden_movers.Scene(make_room(WORLD), np.zeros(3), 0.0, centres, np.zeros(60, int))
    hidden = (4, 16, 40)
    ends = centres[[hidden_movers.WATCHED - 1 + n for n in hidden]]
    placed = {
        "exact": ends + np.array([0, 0, 9.0]),  # heights do not count
        "frozen": np.tile(centres[hidden_movers.WATCHED - 1], (3, 1)),
        "half way": (ends + centres[hidden_movers.WATCHED - 1]) / 2,
    }
    found = hidden_movers.state_errors(scene, placed, hidden)
    for name, expected in (("exact", 0.0), ("frozen", 1.0), ("half way", 0.5)):
        np.testing.assert_allclose(found[name], expected, atol=1e-9)


@pytest.mark.long
def test_bench_movers_finds_hidden_balls_better_than_frozen_ones(monkeypatch, capsys, tmp_path):
    flags = ["--rooms=8", "--balls=3", "--hidden_frames=16", "--depth_errors=0"]
    monkeypatch.setattr(sys, "argv", ["mirage bench", *flags])
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as leave:
        argv = ["mirage bench", *flags, f"--json={tmp_path / 'errors.json'}"]
        common.run(bench_movers.main, bench_movers.__name__, argv, config=False)
    assert not leave.value.code
    found = json.loads((tmp_path / "errors.json").read_text())
    medians = {name: row["16"]["median"] for name, row in found["errors"]["0.0"].items()}
    assert medians["ours"] < 0.5 < 0.8 < medians["frozen"]
    assert f"{medians['ours']:.2f}" in capsys.readouterr().out


def test_a_ball_that_is_not_found_is_refused(monkeypatch):
    scene = hidden_movers.make_scene(WORLD, 0, turn_rate=0.0, frames=40)
    monkeypatch.setattr(hidden_movers, "LEAST_PIXELS", hidden_movers.SIZE**2)
    with pytest.raises(ValueError, match="ball: found in 0 of 5 frames, expected one that"):
        hidden_movers.follow(scene, (16,), every=4, depth_error=0.0, rng=np.random.default_rng(0))
