"""Generated maps: what the map's own lines say agrees, one can walk there, pictures fit depth."""

import itertools
import pickle

import numpy as np
import pytest

from data_pipelines.clip import validate
from data_pipelines.sources import doom_map
from data_pipelines.sources.freedoom_generated import FreedoomGeneratedSource
from data_pipelines.sources.generated_maps.layout import SIDE, make_layout
from data_pipelines.sources.generated_maps.lumps import map_lumps
from data_pipelines.sources.generated_maps.themes import CRATES, SKY, THEMES
from data_pipelines.sources.vizdoom import wad_path
from helpers.warps import psnrs

ANIMATED = (  # id Software's list of walls and flats that change by themselves
    *("BLODGR", "SLADRIP", "BLODRIP", "FIREWALL", "FIREWAL", "GSTFONT", "FIRELAV", "FIREMAG"),
    *("FIREBLU", "ROCKRED", "BFALL", "SFALL", "WFALL", "DBRAIN", "NUKAGE", "FWATER", "SWATER"),
    *("LAVA", "BLOOD", "RROCK05", "RROCK06", "RROCK07", "RROCK08", "SLIME"),
)


def built(number):
    rng = np.random.default_rng(number)
    lumps = map_lumps(make_layout(rng), rng)
    return doom_map.build_map("MAP01", lumps, "test"), lumps


@pytest.fixture(scope="module")
def maps():
    return [built(number)[0] for number in range(12)]


def test_equal_numbers_give_equal_maps():
    assert built(3)[1] == built(3)[1] != built(4)[1]


def test_sectors_are_closed_and_no_line_is_twice(maps):
    for made in maps:
        ends = [frozenset(pair) for pair in made.line_vertices.tolist()]
        assert len(set(ends)) == len(ends) and all(len(pair) == 2 for pair in ends)
        touches = np.zeros((len(made.floor), len(made.vertices)), int)
        for side in (made.front, made.back):
            for end in made.line_vertices.T:
                np.add.at(touches, (side[side >= 0], end[side >= 0]), 1)
        assert (touches % 2 == 0).all()  # around a sector every corner is entered and left


def test_lines_say_what_lies_to_their_right_and_left(maps):
    """Against the sector found by counting the lines between a place and the east."""
    for made in maps:
        grid = doom_map.navigation_grid(made)
        start, end = np.moveaxis(made.vertices[made.line_vertices], 1, 0)
        along = end - start
        right = np.stack([along[:, 1], -along[:, 0]], 1)
        # The cells of that search are 16 units wide, so that it is right a cell from a line.
        offset = 24 * right / np.linalg.norm(right, axis=1, keepdims=True)
        middle = (start + end) / 2
        assert np.mean(grid.sector_at(middle + offset) == made.front) > 0.99
        assert np.mean(grid.sector_at(middle - offset) == made.back) > 0.99


def test_one_can_walk_through_most_of_a_map(maps):
    from scipy import ndimage

    shares = []
    for made in maps:
        free = doom_map.navigation_grid(made).free
        sizes = np.bincount(ndimage.label(free)[0].ravel())[1:]
        shares.append(sizes.max() / sizes.sum())
        assert sizes.max() * (doom_map.CELL / 32) ** 2 > 300  # square metres
    assert np.median(shares) > 0.98 and min(shares) > 0.5


def test_maps_have_steps_doors_lights_and_open_skies(maps):
    for made in maps:
        assert len(np.unique(made.floor)) >= 8 and len(np.unique(made.light)) >= 5
        assert (made.back < 0).sum() > 4 * SIDE
    assert any((made.ceiling == made.floor).any() for made in maps)  # shut doors
    assert sum(made.sky.any() for made in maps) > 2
    turned = [np.unique(made.vertices[:, 0]).size > 2 * SIDE for made in maps]
    assert any(turned) and not all(turned)  # some bent, some straight


def test_textures_are_those_of_freedoom_and_stand_still():
    pytest.importorskip("vizdoom")
    data = wad_path("freedoom2").read_bytes()

    def known(name):
        return name.encode().ljust(8, b"\0") in data

    walls = [side for side, _ in CRATES] + ["DOORTRAK"]
    flats = [top for _, top in CRATES] + [SKY]
    for theme in THEMES:
        walls += theme.walls + theme.accents + theme.risers + theme.doors + theme.pillars
        flats += theme.floors + theme.ceilings + theme.lamps
    assert [name for name in walls + flats if not known(name)] == []
    assert not known("NOTHERE1")
    pairs = itertools.product(walls + flats, ANIMATED)
    assert [name for name, animated in pairs if name.startswith(animated)] == []


def test_worlds_are_numbers_and_splits_are_disjoint():
    source = FreedoomGeneratedSource(maps=3, eval_maps=2)
    assert source.worlds("train") == ("train-000000", "train-000001", "train-000002")
    assert source.worlds("eval") == ("eval-000000", "eval-000001")
    assert pickle.loads(pickle.dumps(source)) == source
    for wrong in ("train-1", "freedoom2/MAP01", "test-000000"):
        with pytest.raises(ValueError, match="expected train-NNNNNN"):
            source.clips(wrong, 1, seed=0)


@pytest.fixture(scope="module")
def clips():
    pytest.importorskip("vizdoom")
    return list(FreedoomGeneratedSource(living=0.0).clips("train-000003", 4, seed=0))


def test_geometry_predicts_the_next_views_and_the_revisit(clips):
    for clip in clips:
        validate(clip)
        assert clip.source == "freedoom_generated" and clip.world == "train-000003"
    warped, unwarped = psnrs(clips, [(0, 4), (14, 16), (16, 22)])
    assert warped > 26 and warped > unwarped + 7
    warped, unwarped = psnrs([c for c in clips if c.trajectory == "parallax"], [(0, 32)])
    assert warped > unwarped + 5


def test_equal_requests_give_equal_clips(clips):
    again = next(FreedoomGeneratedSource(living=0.0).clips("train-000003", 1, seed=0))
    np.testing.assert_array_equal(again.video, clips[0].video)
    np.testing.assert_array_equal(again.depth, clips[0].depth)
    other = next(FreedoomGeneratedSource(living=0.0).clips("eval-000003", 1, seed=0))
    assert (other.video != again.video).any()


def test_monsters_carry_ids():
    pytest.importorskip("vizdoom")
    made = FreedoomGeneratedSource(living=1.0).clips("train-000003", 3, seed=1)
    assert any((clip.mover_ids > 0).any() for clip in made)
