"""A few clips of textured mazes; skipped, with the reason, where nothing can be rendered."""

import numpy as np
import pytest

from data_pipelines.clip import validate
from data_pipelines.sources.labmaze import EVAL_WORLDS, TRAIN_WORLDS, LabmazeSource
from data_pipelines.sources.warp_check import revisit_coverage
from helpers.warps import psnrs


@pytest.fixture(scope="module")
def renders():
    available, reason = LabmazeSource.available()
    if not available:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def clips(renders):
    return list(LabmazeSource(living=0.0).clips(TRAIN_WORLDS[1], 4, seed=0))


def test_clips_are_valid_and_alternate(clips):
    for clip in clips:
        validate(clip)
        assert clip.video.shape == (33, 64, 64, 3)
        assert (clip.mover_ids == 0).all()
    assert [clip.trajectory for clip in clips] == ["easy", "parallax"] * 2
    assert np.isinf(np.stack([clip.depth for clip in clips])).any()  # sky


def test_geometry_predicts_the_other_views(clips):
    near, near_unwarped = psnrs(clips, [(0, 4), (14, 16), (16, 22)])
    assert near > 29 and near > near_unwarped + 8
    back, back_unwarped = psnrs([clips[1], clips[3]], [(0, 32)])
    assert back > back_unwarped + 6
    assert min(revisit_coverage(clip) for clip in clips) >= 0.5


def test_easy_returns_show_the_first_picture_again(clips):
    for clip in clips[::2]:
        np.testing.assert_allclose(clip.cam2world[-1], clip.cam2world[0], atol=1e-9)
        np.testing.assert_array_equal(clip.video[-1], clip.video[0])
        np.testing.assert_array_equal(clip.depth[-1], clip.depth[0])


def test_movers_move_in_world_space_and_hide_nothing_else(renders):
    made = list(LabmazeSource(living=1.0).clips(TRAIN_WORLDS[1], 4, seed=0))
    travelled = []
    for clip in made:
        validate(clip)
        assert clip.mover_ids.mean() < 1.0
        for number in set(np.unique(clip.mover_ids)) - {0}:
            places = []
            for t in np.flatnonzero((clip.mover_ids == number).sum((1, 2)) >= 6):
                rows, columns = np.nonzero(clip.mover_ids[t] == number)
                z = clip.depth[t, rows, columns].mean()
                fx, fy, cx, cy = clip.intrinsics[t]
                ray = [(columns.mean() + 0.5 - cx) / fx, (rows.mean() + 0.5 - cy) / fy, 1.0]
                places.append((clip.cam2world[t] @ [*(np.array(ray) * z), 1.0])[:3])
            if len(places) > 4:
                travelled.append(np.ptp(np.array(places), axis=0).max())
    assert max(travelled) > 0.3
    warped, unwarped = psnrs(made, [(0, 4), (14, 16)])  # the static part still fits
    assert warped > unwarped + 8


def test_equal_requests_give_equal_clips(clips):
    again = next(LabmazeSource(living=0.0).clips(TRAIN_WORLDS[1], 1, seed=0))
    np.testing.assert_array_equal(again.video, clips[0].video)
    np.testing.assert_array_equal(again.depth, clips[0].depth)


def test_held_out_mazes_and_a_held_out_style():
    source = LabmazeSource()
    assert source.worlds("train") == TRAIN_WORLDS and source.worlds("eval") == EVAL_WORLDS
    assert not {w.split("-")[1] for w in TRAIN_WORLDS} & {w.split("-")[1] for w in EVAL_WORLDS}
    assert not any("style_05" in world for world in TRAIN_WORLDS)
    assert any("style_05" in world for world in EVAL_WORLDS)
    with pytest.raises(ValueError, match="'val'"):
        source.worlds("val")
    with pytest.raises(ValueError, match="style_09"):
        source.clips("labmaze/style_09-0000", 1, seed=0)
    with pytest.raises(ValueError, match="size 1"):
        LabmazeSource(size=1)
