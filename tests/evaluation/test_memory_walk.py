"""Walks to and fro along made-up clips."""

import dataclasses

import numpy as np
import pytest

from helpers import tiny_world
from helpers.tiny_world import CHANNELS, CHUNK, GRID, INTRINSICS, SIZE
from mirage_jax import memory, trajectories
from mirage_jax.evaluation import memory_walk
from mirage_jax.evaluation.stopwatch import Times

CELLS = GRID[0] * GRID[1]
FRAMES = 2 * CHUNK


def clip(seed):
    video = np.random.default_rng(seed).integers(0, 256, (FRAMES, *SIZE, 3), np.uint8)
    poses = trajectories.make("look_and_walk", FRAMES, angle=50, distance=0.5)
    return memory_walk.WalkedClip(video, INTRINSICS, poses.astype(np.float32))


def test_chunks_of_a_walk_share_a_frame_and_turn_before_the_last():
    numbers = [memory_walk.to_and_fro(8, 5, chunk).tolist() for chunk in range(4)]
    assert numbers == [[0, 1, 2, 3, 4], [4, 5, 6, 5, 4], [4, 3, 2, 1, 0], [0, 1, 2, 3, 4]]


def test_every_memory_is_walked_counted_and_timed(monkeypatch):
    """Times are made up here: the slots that each call reads."""

    def slots(calls, repeats):
        assert calls[0]().shape[1:3] == GRID and repeats == 5
        return [Times(float(call.args[0].capacity), 0.0) for call in calls]

    monkeypatch.setattr(memory_walk, "median_times", slots)
    model, chunks, walked = tiny_world.world_model(), 4, []
    outcome = memory_walk.measure(
        model, {"a": [clip(0)]}, chunks=chunks, repeats=5, advance=lambda: walked.append(1)
    )
    assert outcome["chunks"] == chunks and len(walked) == 3
    found = outcome["worlds"]["a"]
    every = CELLS * (1 + chunks)
    assert found["appended"]["capacity"] == every
    assert found["appended"]["after_chunks"][str(chunks)]["elements"] == every
    one = memory.create(1, CHANNELS)
    per_element = memory.nbytes(one.replace(valid=np.ones(1, bool)))
    for walk in found.values():
        assert list(walk["after_chunks"]) == ["1", "2", "4"]
        assert walk["written"] + walk["fused"] + walk["dropped"] == CELLS * chunks
        for row in walk["after_chunks"].values():
            assert row["elements"] == row["compact_read_ms"] <= row["read_ms"] == walk["capacity"]
            assert row["bytes"] == row["elements"] * per_element
            assert row["read_ratio"] == row["read_ms"] / row["compact_read_ms"]
        first, last = (walk["after_chunks"][mark]["elements"] for mark in ("2", "4"))
        assert walk["growth"] == pytest.approx(last / first - 1)
    assert found["appended"]["fused"] == found["fused"]["evicted"] == 0
    assert found["appended"]["aligned"] == 0 and found["appended"]["growth"] > 0.5
    held = found["fused"]["after_chunks"][str(chunks)]["elements"]
    assert found["fused"]["fused"] > 0 and held < every
    assert found["tight"]["capacity"] == max(int(held) // 2, CELLS)


def test_what_cannot_be_fused_is_refused():
    model = tiny_world.world_model()
    corner = model.replace(conditioner=dataclasses.replace(model.conditioner, cells="corner"))
    with pytest.raises(ValueError, match="found 'folded' with cells 'corner', expected one that"):
        memory_walk.measure(corner, {}, chunks=2)
    with pytest.raises(ValueError, match="chunks: found 1, expected at least 2"):
        memory_walk.measure(model, {}, chunks=1)
