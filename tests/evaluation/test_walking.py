"""What is counted of a walk, on walks that are made up."""

import types

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from helpers import tiny_world
from mirage_jax import Session, SessionOptions
from mirage_jax.cli.helpers import bench_explore
from mirage_jax.evaluation import walking
from mirage_jax.world.options import MemoryOptions
from mirage_jax.world.session_parts import Step


class Scripted(tiny_world.stand_in(Session)):
    """Chunks that take a millisecond more each; every second one shows one frame twice."""

    model = types.SimpleNamespace(chunk_frames=5, size=(2, 2))

    def __init__(self, full_after):
        self.steps, self.full_after = 0, full_after
        self.picture = np.zeros((2, 2, 3), np.uint8)

    @property
    def world(self):
        valid = jnp.full(3, self.steps >= self.full_after)
        return types.SimpleNamespace(bank=types.SimpleNamespace(valid=valid))

    def step(self, held):
        assert held == walking.PATTERN[self.steps % len(walking.PATTERN)] or self.steps >= 5
        self.steps += 1
        first = 4 * self.steps
        numbers = [first, first + 1, first + 2, first + 2 + self.steps % 2]
        video = np.stack([np.full((2, 2, 3), number, np.uint8) for number in numbers])
        stages = {"read": 0.001, "total": 0.001 * self.steps}
        return Step(video, np.zeros((4, 4, 4)), {}, stages, False, True, self.steps)

    def statistics(self):
        names = ("elements", "capacity", "evicted", "undo_bytes", "undoable")
        return dict.fromkeys(names, self.steps)


def test_a_walk_is_summed_up(capsys):
    done = []
    session = Scripted(full_after=5)
    found = walking.measure(session, chunks=40, fill=30, advance=lambda: done.append(1))
    assert found["filled_by"] == 5 and len(done) == 45 == session.steps
    totals = np.arange(6, 46)  # milliseconds
    assert found["distinct"] == 140 / 160  # of two chunks seven frames differ from the one before
    assert found["frames_per_second"] == pytest.approx(1e3 * 140 / totals.sum())
    assert found["ledger"]["total"]["median_ms"] == pytest.approx(np.median(totals))
    assert found["ledger"]["read"]["p95_ms"] == pytest.approx(1.0)
    early, late = np.median(totals[10:23]), np.median(totals[-13:])
    assert found["growth"] == pytest.approx(late / early)
    # Of a key pressed just as a chunk begins, and just before it ends.
    key = found["key_to_picture_ms"]
    assert np.median(totals[1:]) < key["median_ms"] < np.median(totals[1:] + totals[:-1])
    found["start_seconds"] = {"to_first_picture": 4.25, "cache": "cold"}
    found["together"] = {"walkers": 3, "frames_per_second": 7.5, "step_ms": 40.0}
    found["denoise_steps_ms"] = [1.5, 2.0]
    bench_explore._print(found, Console(width=200))
    out = capsys.readouterr().out
    for text in (
        "4.2 s (cold cache)",
        "(88 % distinct)",
        "45 of 45 elements",
        "3 walkers together",
        "timed apart: 1.5, 2.0 ms",
    ):
        assert text in out
    with pytest.raises(ValueError, match="chunks: found 19, expected at least 20"):
        walking.measure(session, chunks=19)


@pytest.mark.long
def test_walks_of_sessions_and_of_many_are_timed():
    model = tiny_world.world_model(memory=MemoryOptions(capacity=30))
    options = SessionOptions(walls=False)
    session = Session(model, np.zeros((*tiny_world.SIZE, 3), np.uint8), options=options)
    session.step("w")
    found = walking.measure(session, chunks=20, fill=2)
    assert found["compiled"] == 0 and found["filled_by"] == 2
    stages = {name: row["median_ms"] for name, row in found["ledger"].items()}
    total = stages.pop("total")
    assert 0.5 * total < sum(stages.values()) < 1.5 * total
    assert found["memory"]["frames"] == 1 + 4 * 23
    starts = [session.world] * 2
    together = walking.measure_together(model, starts, chunks=2, options=options)
    assert together["frames_per_second"] == pytest.approx(8e3 / together["step_ms"])
