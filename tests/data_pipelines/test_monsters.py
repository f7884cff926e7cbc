"""Freedoom's monsters as bodies: their states fit the pixels that show them."""

from types import SimpleNamespace

import numpy as np
import pytest

from data_pipelines.clip import validate
from data_pipelines.due_again import due_again, frame_numbers
from data_pipelines.sources import make, monsters

METRES = (1 / 32, 1.2 / 32)


def thing(number, name="DoomImp", x=0.0, y=0.0, feet=0.0, angle=0.0, category="Monster"):
    return SimpleNamespace(
        id=number, name=name, category=category, position_x=x, position_y=y, position_z=feet,
        angle=angle,
    )  # fmt: skip


def test_states_are_those_of_the_engine_in_metres():
    """One that walks and turns, one that comes late and is never seen, one that dies, a barrel."""
    objects = [
        [thing(4, x=32.0 * t, angle=350.0 + 10 * t), thing(9, category="Other")] for t in range(4)
    ]
    objects[0].append(thing(6, "Demon", y=64.0, feet=32.0))
    objects[1].append(thing(6, "Demon", y=64.0, feet=32.0))
    objects[3].append(thing(7, "Zombieman"))
    ids = np.zeros((4, 2, 2), np.int32)
    ids[1:, 0, 0], ids[0, 1, 1], ids[2, 0, 1] = 5, 7, 10
    times = np.array([0.0, 0.5, 1.0, 1.5])
    found = monsters.to_bodies([monsters.states(o) for o in objects], ids, times, METRES)
    assert found.ids.tolist() == [5, 7] and found.kinds == ("DoomImp", "Demon")
    np.testing.assert_allclose(found.body2world[:, 0, 0, 3], [0.0, 1.0, 2.0, 3.0])
    np.testing.assert_allclose(found.velocity[:, 0], np.tile([2.0, 0.0, 0.0], (4, 1)))
    np.testing.assert_allclose(found.angular_velocity[:, 0, 2], np.deg2rad(20.0))
    np.testing.assert_allclose(found.body2world[1, 0, :3, 0], [1.0, 0.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(found.extent[0], [1.25, 1.25, 2.1])
    np.testing.assert_allclose(found.body2world[:, 1, :3, 3], np.tile([0.0, 2.0, 2.25], (4, 1)))
    assert found.present.tolist() == [[True, True], [True, True], [True, False], [True, False]]
    assert found.visible.tolist() == [[False, True], [True, False], [True, False], [True, False]]


def test_clips_without_monsters_have_no_bodies():
    found = monsters.to_bodies([{}] * 3, np.zeros((3, 2, 2), np.int32), np.arange(3.0), METRES)
    assert found.ids.shape == (0,) and found.body2world.shape == (3, 0, 4, 4)
    assert found.visible.shape == (3, 0)


def test_pixels_show_monsters_where_their_states_have_them():
    pytest.importorskip("vizdoom", reason="vizdoom, which ships the maps, is not installed")
    source = make("freedoom", bodies=1, due=1.0, skip=6, skip_spread=10)
    clips = list(source.clips("freedoom1/E3M4", 2, seed=0))
    assert len(clips) == 2
    for clip in map(validate, clips):
        assert due_again(clip)
        numbers = frame_numbers(clip)
        assert 6 < numbers[17] - numbers[16] <= 17 and (np.diff(numbers[:17]) == 1).all()
        for body, number in enumerate(clip.bodies.ids):
            for frame in np.flatnonzero((clip.mover_ids == number).sum((1, 2)) >= 40):
                rows, columns = np.nonzero(clip.mover_ids[frame] == number)
                state = clip.bodies.body2world[frame, body, :3, 3]
                pose = clip.cam2world[frame]
                x, _, z = pose[:3, :3].T @ (state - pose[:3, 3])
                fx, _, cx, _ = clip.intrinsics[frame]
                width = fx * clip.bodies.extent[body, 0] / z
                # Sprites are as deep as their middle, and may be wider than what collides.
                assert abs(np.median(clip.depth[frame][rows, columns]) - z) < 0.1
                assert abs(columns.mean() + 0.5 - (cx + fx * x / z)) < 1.0 + width
