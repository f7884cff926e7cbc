"""Clips with walking bodies and their counterfactuals, cast by hand and by MuJoCo."""

import re
import zlib

import numpy as np
import pytest
import scipy.ndimage

from data_pipelines.clip import validate
from data_pipelines.clip_format import from_bytes, to_bytes
from data_pipelines.sources import living
from data_pipelines.sources.bodies import Walkers
from data_pipelines.sources.body_kinds import KINDS, look_alikes
from data_pipelines.sources.counterfactual import replay
from data_pipelines.sources.labmaze import EVAL_WORLDS, TRAIN_WORLDS, LabmazeSource
from data_pipelines.sources.labmaze_model import maze_xml
from data_pipelines.sources.labmaze_plan import make_plan
from data_pipelines.sources.procedural import ProceduralSource
from helpers.made_clips import make_clip
from mirage_jax import geometry

ROOMS = ProceduralSource(size=24, frames=17, bodies=2, skip=4, skip_spread=40, fov=75.0)


def labmaze():
    available, reason = LabmazeSource.available()
    if not available:
        pytest.skip(reason)
    return LabmazeSource(size=32, frames=17, bodies=3, skip_spread=20)


@pytest.fixture(scope="module", params=["procedural", "labmaze"])
def clips(request):
    if request.param == "procedural":
        return list(ROOMS.clips("procedural/eval-000", 4, seed=1))
    return list(labmaze().clips(EVAL_WORLDS[1], 3, seed=1))


def pixels(clip):
    """Pixels that show each body, [frames, bodies]."""
    return (clip.mover_ids[..., None] == clip.bodies.ids).sum((1, 2))


def test_clips_are_valid_leave_frames_out_and_come_again(clips):
    again = 0
    for clip in clips:
        validate(clip)
        middle = clip.frames // 2
        gaps = np.diff(clip.times) * clip.fps
        assert 5 <= round(gaps[middle]) <= 45
        np.testing.assert_allclose(np.delete(gaps, middle), 1.0)
        seen, due = pixels(clip)[: middle + 1], pixels(clip)[middle + 1 :]
        again += bool(((seen.max(0) > 0) & (due.max(0) > 0)).any())
        gap = np.linalg.norm(
            clip.bodies.body2world[:, :, :2, 3] - clip.cam2world[:, None, :2, 3], axis=-1
        )
        assert gap.min() >= living.CLEAR
        assert len(set(zip(clip.bodies.kinds, clip.bodies.looks, strict=True))) == len(
            clip.bodies.ids
        )
    assert again >= len(clips) - 1
    assert all(from_bytes(to_bytes(clip)).bodies.looks == clip.bodies.looks for clip in clips)


def test_states_are_those_of_one_walk_with_the_frames_left_out(clips):
    for clip in clips:
        numbers = np.rint(clip.times * clip.fps).astype(int)
        with replay(clip) as scene:
            for index, body in enumerate(clip.bodies.ids.tolist()):
                walked = scene.walk_on(0, body, int(numbers[-1]) + 1)[numbers]
                stored = [scene.state(frame, body) for frame in range(clip.frames)]
                np.testing.assert_allclose(walked[:, :2], np.array(stored)[:, :2], atol=1e-6)
                radius = KINDS[clip.bodies.kinds[index]].radius
                assert scene.stage.ground.is_free(walked[:, :2], radius - 1e-6).all()


def test_a_rendering_without_changes_is_the_recorded_frame(clips):
    for clip in clips[:2]:
        with replay(from_bytes(to_bytes(clip))) as scene:
            for frame in (0, clip.frames - 1):
                view = scene.render(frame)
                np.testing.assert_array_equal(view.picture, clip.video[frame])
                np.testing.assert_array_equal(view.depth, clip.depth[frame])
                np.testing.assert_array_equal(view.mover_ids, clip.mover_ids[frame])


def shown(clips):
    """A clip, a frame and a body that shows in it with more pixels than in any other."""
    counts = [pixels(clip) for clip in clips]
    number = int(np.argmax([count.max() for count in counts]))
    frame, body = np.unravel_index(counts[number].argmax(), counts[number].shape)
    return clips[number], int(frame), int(clips[number].bodies.ids[body])


def test_interventions_change_the_bodies_and_nothing_else(clips):
    clip, frame, body = shown(clips)
    other = next(number for number in clip.bodies.ids.tolist() if number != body)
    mask = clip.mover_ids[frame] == body
    with replay(clip) as scene:
        gone = scene.render(frame, without=[body])
        assert not (gone.mover_ids == body).any()
        # Pixels at the edge are a mixture; two away from the body nothing has changed.
        near = np.zeros_like(mask)
        for down in range(-2, 3):
            for right in range(-2, 3):
                near |= np.roll(mask, (down, right), (0, 1))
        np.testing.assert_array_equal(gone.picture[~near], clip.video[frame][~near])
        assert (gone.depth[mask] > clip.depth[frame][mask]).all()

        look = look_alikes(clip.bodies.looks[clip.bodies.ids.tolist().index(body)])[0]
        painted = scene.render(frame, looks={body: look})
        np.testing.assert_array_equal(painted.mover_ids, clip.mover_ids[frame])
        np.testing.assert_array_equal(painted.depth, clip.depth[frame])
        assert np.abs(painted.picture.astype(int) - clip.video[frame])[mask].max() > 40

        swapped = scene.render(frame, swapped=(body, other))
        places = {body: scene.state(frame, other), other: scene.state(frame, body)}
        moved = scene.render(frame, moved=places)
        np.testing.assert_array_equal(swapped.picture, moved.picture)
        assert ((swapped.mover_ids == other) & mask).any()

        alone = scene.render(frame, without=[other], alone=True)
        assert ((alone.mover_ids == body) | ~mask).all()
        with pytest.raises(ValueError, match="body: found id 9, expected one of"):
            scene.render(frame, without=[9])
        with pytest.raises(ValueError, match="frame: found 17, expected 0 to 16"):
            scene.render(17)


def test_things_are_left_out_and_nothing_else(clips):
    left_out = 0
    for clip in clips:
        with replay(clip) as scene:
            assert scene.stage.props.shape[1:] == (2, 3)
            frame = clip.frames - 1
            recorded = scene.render(frame)
            depth = np.where(np.isfinite(recorded.depth), recorded.depth, 0.0)
            camera = geometry.Camera(clip.intrinsics[0], clip.cam2world[frame], clip.size)
            points = np.asarray(geometry.lift(np.float32(depth), camera))
            for number, (low, high) in enumerate(scene.stage.props):
                own = ((points > low - 0.02) & (points < high + 0.02)).all(-1) & (depth > 0)
                own &= recorded.mover_ids == 0
                gone = scene.render(frame, without_props=[number])
                assert (gone.depth[own] >= recorded.depth[own]).all()
                assert (gone.depth[own] > recorded.depth[own]).sum() >= 0.7 * own.sum()
                wide = scipy.ndimage.binary_dilation(own, iterations=2)
                np.testing.assert_array_equal(gone.depth[~wide], recorded.depth[~wide])
                np.testing.assert_array_equal(gone.picture[~wide], recorded.picture[~wide])
                left_out += int(own.sum() > 20)
            np.testing.assert_array_equal(scene.render(frame).picture, recorded.picture)
            with pytest.raises(ValueError, match="prop: found 99, expected one of the"):
                scene.render(frame, without_props=[99])
    assert left_out


def test_both_renderers_agree_about_shapes():
    """MuJoCo's silhouettes of bodies are those of the rays' closed forms."""
    source = labmaze()
    room = ProceduralSource(size=source.size, fov=80.0)
    world = TRAIN_WORLDS[0]
    pose = living.paths.level_cam2world(np.array([[5.0, 4.0, 1.1]]), np.array([0.3]))[0]
    with source.open_stage(world) as maze, room.open_stage("procedural/train-000") as made:
        for kind in KINDS:
            still = Walkers(*(np.array(v) for v in ([[7.0, 4.9]], [0.8], [0.0], [0.0])))
            where = living.bodies.body2world(still, (kind,))[0]
            body = (living.Placed(3, kind, "red banded", where),)
            one, two = (stage.view(pose, body, alone=True) for stage in (maze, made))
            both = (one.mover_ids == 3) & (two.mover_ids == 3)
            assert both.sum() > 40
            assert (one.mover_ids != two.mover_ids).sum() <= 0.05 * both.sum()
            np.testing.assert_allclose(one.depth[both], two.depth[both], rtol=0.03)
            redness = [v.picture[both][:, 0] > 1.5 * v.picture[both][:, 1] for v in (one, two)]
            assert (redness[0] == redness[1]).mean() > 0.8


def test_skips_cover_their_range():
    rng = np.random.default_rng(0)
    drawn = [living.sample_skip(rng, ROOMS) for _ in range(2000)]
    assert (min(drawn), max(drawn)) == (4, 44)
    assert 10 < np.median(drawn) < 18  # sqrt(5 * 45) - 1 is 14
    never = ProceduralSource(bodies=1, skip=0, skip_spread=0)
    assert {living.sample_skip(rng, never) for _ in range(50)} == {0}


def test_worlds_without_walking_bodies_are_what_they_were():
    """Checksums of what was recorded before there were any."""

    def poses(clip):
        return zlib.crc32((np.round(clip.cam2world, 6) + 0.0).tobytes())

    clip = next(ProceduralSource(size=16, frames=12).clips("procedural/train-000", 1, seed=0))
    assert poses(clip) == 3205046837 and int(clip.mover_ids.sum()) == 69
    assert zlib.crc32(clip.video.tobytes()) == 1406117398
    assert clip.bodies is None and clip.times is None
    labmaze()
    xml = maze_xml(make_plan(3), "style_04", 3, (128, 128))
    xml = re.sub(r' name="prop\d+"', "", xml)  # have names since they can be left out
    assert zlib.crc32(re.sub(r'"[^"]*/([^"/]*\.png)"', r'"\1"', xml).encode()) == 1874698389
    clip = next(LabmazeSource().clips(TRAIN_WORLDS[3], 1, seed=0))
    assert clip.name.endswith("2369553631") and poses(clip) == 4064950378
    assert clip.bodies is None and clip.times is None


def test_clips_that_cannot_be_replayed_are_named():
    with pytest.raises(ValueError, match="bodies: found none"), replay(make_clip()):
        pass
