"""A few clips of Freedoom: the geometry predicts the pictures, and reserved maps stay closed."""

import dataclasses
import pickle

import numpy as np
import pytest

from data_pipelines.clip import validate
from data_pipelines.sources import make
from data_pipelines.sources.vizdoom import FreedoomSource, wad_path
from data_pipelines.sources.warp_check import revisit_coverage
from helpers.warps import psnrs

pytest.importorskip("vizdoom", reason="vizdoom, which ships the Freedoom maps, is not installed")

RESERVED = [f"freedoom2/MAP{number}" for number in range(20, 33)]
RESERVED += [f"freedoom1/E4M{number}" for number in range(1, 10)]


@pytest.fixture(scope="module")
def clips():
    return list(FreedoomSource(living=0.0).clips("freedoom2/MAP07", 6, seed=0))


def test_clips_are_valid_and_alternate(clips):
    for clip in clips:
        validate(clip)
        assert clip.video.shape == (33, 64, 64, 3)
    assert [clip.trajectory for clip in clips] == ["easy", "parallax"] * 3
    assert len({clip.name for clip in clips}) == 6
    assert all((clip.intrinsics == clips[0].intrinsics).all() for clip in clips)


def test_geometry_predicts_the_next_views(clips):
    warped, unwarped = psnrs(clips, [(0, 4), (14, 16), (16, 22)])
    assert warped > 28 and warped > unwarped + 7


def test_geometry_predicts_the_revisit(clips):
    parallax = [clip for clip in clips if clip.trajectory == "parallax"]
    warped, unwarped = psnrs(parallax, [(0, 32)])
    assert warped > unwarped + 5
    assert min(revisit_coverage(clip) for clip in clips) >= 0.5


def test_half_a_pixel_off_is_noticed(clips):
    def shifted(clip, t):
        intrinsics = clip.intrinsics.copy()
        intrinsics[t, 2] += 0.5
        return dataclasses.replace(clip, intrinsics=intrinsics)

    right, _ = psnrs(clips, [(14, 16)])
    wrong, _ = psnrs([shifted(clip, 16) for clip in clips], [(14, 16)])
    assert right > wrong + 1


def test_time_stands_still_unless_living(clips):
    for clip in clips[::2]:  # these end at the first pose
        np.testing.assert_allclose(clip.cam2world[-1], clip.cam2world[0], atol=0.02)
        difference = clip.video[-1].astype(float) - clip.video[0]
        assert np.mean(difference**2) < 255**2 / 10**2.8


def test_monsters_carry_ids_and_stand_before_the_walls():
    source = FreedoomSource(living=1.0)
    made = list(source.clips("freedoom2/MAP02", 3, seed=1))
    ids = [set(np.unique(clip.mover_ids)) - {0} for clip in made]
    assert any(ids)
    for clip in made:
        validate(clip)
        moving = clip.mover_ids > 0
        assert moving.mean() < 0.5
        assert (clip.depth[moving] > 0).all() and np.isfinite(clip.depth[moving]).all()


def test_equal_requests_give_equal_clips(clips):
    again = next(FreedoomSource(living=0.0).clips("freedoom2/MAP07", 1, seed=0))
    np.testing.assert_array_equal(again.video, clips[0].video)
    np.testing.assert_array_equal(again.depth, clips[0].depth)
    other = next(FreedoomSource(living=0.0).clips("freedoom2/MAP07", 1, seed=1))
    assert other.name != again.name and (other.video != again.video).any()


def test_other_sizes(clips):
    clip = validate(next(FreedoomSource(size=40, frames=17).clips("freedoom1/E1M1", 1, seed=0)))
    assert clip.video.shape == (17, 40, 40, 3)
    np.testing.assert_allclose(clip.intrinsics[0] / 40, clips[0].intrinsics[0] / 64, atol=0.02)


@pytest.mark.parametrize("world", [*RESERVED, "freedoom2/map25", "freedoom1/e4m2"])
def test_reserved_worlds_are_refused(world):
    with pytest.raises(ValueError, match="reserved"):
        FreedoomSource().check_world(world)
    with pytest.raises(ValueError, match="reserved"):
        FreedoomSource().clips(world, 1, seed=0)


def test_worlds_exist_and_splits_are_disjoint():
    from data_pipelines.sources.doom_map import map_names

    source = make("freedoom")
    train, held_out = (set(source.worlds(split)) for split in ("train", "eval"))
    assert not train & held_out and not (train | held_out) & set(RESERVED)
    assert len(train) >= 20 and len(held_out) >= 8
    present = {f"{wad}/{m}" for wad in ("freedoom1", "freedoom2") for m in map_names(wad_path(wad))}
    assert train | held_out <= present
    with pytest.raises(ValueError, match="'test'"):
        source.worlds("test")
    with pytest.raises(ValueError, match="doom2/MAP01"):
        source.clips("doom2/MAP01", 1, seed=0)


def test_source_travels_to_workers_and_refuses_nonsense():
    source = FreedoomSource(size=32)
    assert pickle.loads(pickle.dumps(source)) == source
    with pytest.raises(ValueError, match="size 2, expected 8 to 768"):
        FreedoomSource(size=2)
    with pytest.raises(ValueError, match=r"living 3\.0, expected 0 to 1"):
        FreedoomSource(living=3.0)
