"""Returns by how their history is written, against the protocol's own and against clips by hand."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from helpers import tiny_world
from helpers.tiny_world import CHUNK
from mirage_jax.evaluation import depth_quality, image_metrics, memory_quality, protocol
from mirage_jax.evaluation.memory_quality import Case

FRAMES, CLIPS, SEED = 2 * CHUNK - 1, 2, 4
CASES = (
    Case("appended", fused=False),
    Case("wrong", fused=False, wrong=True),
    Case("head", fused=False, predicted=True),
    Case("little room", fused=True, room=0.25),
)


@pytest.fixture(scope="module")
def held_out():
    return tiny_world.held_out(CLIPS, FRAMES)


@pytest.fixture(scope="module")
def found(held_out):
    calls = []
    model = tiny_world.world_model()
    measured = memory_quality.measure(
        model,
        held_out,
        cases=CASES,
        seed=SEED,
        batch_size=CLIPS,
        advance=lambda: calls.append(1),
    )
    assert len(calls) == len(CASES) and measured["clips"] == CLIPS
    return measured["cases"]


def test_appended_in_ample_room_is_the_protocol(held_out, found):
    model = tiny_world.world_model()
    appends = dataclasses.replace(model.memory, fuse_histories=False)
    run = jax.jit(protocol.returning_chunk)
    method = functools.partial(run, model.replace(memory=appends))
    video = protocol.in_batches(method, held_out.clips, CLIPS, SEED)
    last = protocol.REVISITED_FRAMES
    expected = image_metrics.psnr(held_out.video[:, -last:], video[:, -last:]).mean()
    assert found["appended"]["psnr"] == pytest.approx(expected, abs=1e-4)
    assert found["appended"]["change"] == 0


def test_the_heads_depth_is_that_of_a_history_with_it(held_out, found):
    model = tiny_world.world_model()
    depth = depth_quality.head_depth(model, held_out.clips).remembered
    clips = dataclasses.replace(held_out.clips, depth=depth)
    appends = model.replace(memory=dataclasses.replace(model.memory, fuse_histories=False))
    run = functools.partial(jax.jit(protocol.returning_chunk), appends)
    video = protocol.in_batches(run, clips, CLIPS, SEED)
    last = protocol.REVISITED_FRAMES
    expected = image_metrics.psnr(held_out.video[:, -last:], video[:, -last:]).mean()
    assert found["head"]["psnr"] == pytest.approx(expected, abs=1e-4)
    assert found["head"]["psnr"] != found["appended"]["psnr"]


def test_changes_are_paired_and_room_is_in_elements(held_out, found):
    cells = memory_quality.history_cells(held_out.clips)
    # The keyframes of the first chunk.
    assert cells == (1 + (CHUNK - 1) // 4) * np.prod(held_out.clips.depth.shape[2:])
    assert found["appended"]["elements"] == cells
    assert found["little room"]["elements"] == round(cells / 4)
    for case in found.values():
        change = case["psnr"] - found["appended"]["psnr"]
        assert case["change"] == pytest.approx(change, abs=1e-4)
    assert found["wrong"]["psnr"] != found["appended"]["psnr"]
    assert found["little room"]["psnr"] != found["appended"]["psnr"]


def test_a_tenth_of_the_depths_is_scaled(held_out):
    many = jax.tree.map(lambda leaf: np.repeat(leaf, 500, axis=0), held_out.clips)
    ratio = np.asarray(memory_quality.with_wrong_depth(many, 0).depth) / many.depth
    by_frame = ratio.reshape(*ratio.shape[:2], -1).round(3)
    assert (by_frame == by_frame[..., :1]).all()
    assert {*np.unique(by_frame)} == {1, np.float32(1.3)}
    assert abs((by_frame[..., 0] > 1).mean() - 0.1) < 0.02


def test_the_table_has_a_row_for_each_case(found):
    head, *rows = memory_quality.table({"maze": {"cases": found}, "town": {"cases": found}})
    assert [row[0] for row in rows] == [case.name for case in CASES]
    assert all(len(row) == len(head) == 7 for row in rows)
