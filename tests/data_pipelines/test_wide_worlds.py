"""Worlds in pictures that are not square: the middle of square ones of the same lens."""

import numpy as np
import pytest

from data_pipelines import sources
from data_pipelines.clip import validate
from data_pipelines.sources.counterfactual import replay
from data_pipelines.sources.labmaze import LabmazeSource
from data_pipelines.sources.rendered import field_of_view, lens

FRAMES = 10
RENDERED, REASON = LabmazeSource.available()


def clip_of(name, height, width, **options):
    source = sources.make(name, size=height, width=width, frames=FRAMES, **options)
    [clip] = source.clips(source.worlds("train")[1], 1, seed=3)
    validate(clip)
    assert clip.video.shape == (FRAMES, height, width or height, 3)
    return clip


@pytest.mark.parametrize(("height", "width"), [(24, 40), (40, 24)])
@pytest.mark.parametrize("options", [{}, {"bodies": 1}])
def test_rooms_are_the_middle_of_square_ones_to_the_bit(height, width, options):
    whole = clip_of("procedural", 40, 0, **options)
    part = clip_of("procedural", height, width, **options)
    rows, columns = (slice((40 - side) // 2, (40 + side) // 2) for side in (height, width))
    if options:  # where bodies walk depends on what is seen
        assert (part.mover_ids > 0).any()
        return
    np.testing.assert_array_equal(part.cam2world, whole.cam2world)
    for field in ("video", "depth", "mover_ids"):
        np.testing.assert_array_equal(getattr(part, field), getattr(whole, field)[:, rows, columns])
    moved = np.float32([0, 0, columns.start, rows.start])
    np.testing.assert_array_equal(part.intrinsics, whole.intrinsics - moved)


@pytest.mark.skipif(not RENDERED, reason=REASON)
def test_mazes_are_the_middle_of_square_ones(height=24, width=40):
    whole, part = (
        clip_of("labmaze", 40, 0, living=0.0),
        clip_of("labmaze", height, width, living=0.0),
    )
    rows, columns = (slice((40 - side) // 2, (40 + side) // 2) for side in (height, width))
    np.testing.assert_array_equal(part.cam2world, whole.cam2world)
    same = whole.video[:, rows, columns]
    assert np.abs(part.video.astype(int) - same).mean() < 1.0
    assert np.abs(whole.video[:, : same.shape[1], : same.shape[2]].astype(int) - same).mean() > 5.0
    depth = whole.depth[:, rows, columns]
    both = np.isfinite(depth) & np.isfinite(part.depth)
    assert np.median(np.abs(part.depth[both] / depth[both] - 1)) < 1e-4


@pytest.mark.parametrize(
    ("name", "options", "height", "width"),
    [
        ("freedoom", {}, 24, 40),
        ("freedoom", {}, 40, 24),
        ("miniworld", {"bodies": 2}, 24, 40),
    ],
)
def test_of_other_worlds_the_middle_of_what_is_drawn_is_taken(name, options, height, width):
    available, reason = sources.source_class(name).available()
    if not available:
        pytest.skip(reason)
    whole, part = clip_of(name, 40, 0, **options), clip_of(name, height, width, **options)
    rows, columns = (slice((40 - side) // 2, (40 + side) // 2) for side in (height, width))
    np.testing.assert_array_equal(part.cam2world, whole.cam2world)
    for field in ("video", "depth", "mover_ids"):
        np.testing.assert_array_equal(getattr(part, field), getattr(whole, field)[:, rows, columns])
    centre = np.float32([columns.start, rows.start])
    np.testing.assert_array_equal(part.intrinsics[:, 2:], whole.intrinsics[:, 2:] - centre)
    if options:
        seen = [[(ids == number).any() for number in part.bodies.ids] for ids in part.mover_ids]
        np.testing.assert_array_equal(part.bodies.visible, seen)


@pytest.mark.parametrize("name", ["procedural", "labmaze"])
@pytest.mark.parametrize(("height", "width"), [(24, 40), (40, 24)])
def test_frames_with_bodies_are_rendered_again_as_they_were_recorded(name, height, width):
    if name == "labmaze" and not RENDERED:
        pytest.skip(REASON)
    clip = clip_of(name, height, width, bodies=1)
    frame = int((clip.mover_ids > 0).sum((1, 2)).argmax())
    with replay(clip) as scene:
        again, gone = scene.render(frame), scene.render(frame, without=[1])
    np.testing.assert_array_equal(again.picture, clip.video[frame])
    np.testing.assert_array_equal(again.mover_ids, clip.mover_ids[frame])
    assert (gone.mover_ids == 0).all() and (gone.picture != again.picture).any()


def test_the_longer_side_has_the_field_of_view():
    assert field_of_view(50, 50, 80.0) == (80.0, 80.0)
    down, across = field_of_view(704, 1280, 90.0)
    fx, fy, cx, cy = lens(704, 1280, 90.0)
    assert (fx, fy, cx, cy) == (640, 640, 640, 352) and across == 90.0
    assert down == pytest.approx(np.rad2deg(2 * np.arctan(352 / 640)))
    assert field_of_view(1280, 704, 90.0) == (across, down)
