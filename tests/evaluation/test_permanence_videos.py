"""What models are given of a clip, and what is taken of their videos and rollouts."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from data_pipelines.sources.procedural import ProceduralSource
from helpers import tiny_world
from mirage_jax import memory
from mirage_jax.evaluation.permanence import rollouts, videos
from mirage_jax.io.pictures import enlarge
from mirage_jax.io.video import write_video
from mirage_jax.memory import movers
from mirage_jax.world import World
from mirage_jax.world.latent_encoder import to_model_range, to_uint8

SOURCE = ProceduralSource(size=16, frames=10, bodies=1, skip=6, skip_spread=0, due=0.0)


@pytest.fixture(scope="module")
def clip():
    made = next(SOURCE.clips("procedural/eval-001", 1, seed=3))
    cut = dataclasses.replace(
        made,
        **{
            name: getattr(made, name)[1:]
            for name in ("video", "depth", "intrinsics", "cam2world", "mover_ids", "times")
        },
        bodies=made.bodies.cut(slice(1, None)),
    )
    assert cut.frames == 9  # five given, four to come
    return cut


def test_a_case_holds_the_given_frames_and_all_cameras(clip, tmp_path):
    path = videos.write_case(tmp_path, clip)
    told = json.loads((path / "clip.json").read_text())
    assert told["given"] == 5 == len(list(path.glob("*.png")))
    for frame in range(5):
        picture = np.asarray(Image.open(path / f"frame_{frame:03d}.png"))
        np.testing.assert_array_equal(picture, clip.video[frame])
    np.testing.assert_array_equal(told["cam2world"], clip.cam2world)
    np.testing.assert_array_equal(told["times"], clip.times)


def test_videos_are_read_from_folders(clip, tmp_path):
    name = tmp_path / f"{videos.file_name(clip)}.mp4"
    with pytest.raises(ValueError, match="mp4: found no file, expected the video of clip"):
        videos.read_video_of(tmp_path, clip)
    smooth = np.broadcast_to(
        np.arange(9, dtype=np.uint8)[:, None, None, None] * 20, clip.video.shape
    )
    for frames in (smooth, smooth[5:], enlarge(smooth, 3)):
        write_video(name, frames, 8, scale=1, crf=0)
        read = videos.read_video_of(tmp_path, clip)
        assert read.shape == (4, 16, 16, 3)
        np.testing.assert_allclose(read[:, 8, 8, 0], smooth[5:, 0, 0, 0], atol=3)
    write_video(name, smooth[2:], 8, scale=1)
    with pytest.raises(ValueError, match="found 7 frames, expected 4, or all 9"):
        videos.read_video_of(tmp_path, clip)
    write_video(name, smooth[:, :8], 8, scale=1)
    with pytest.raises(ValueError, match="found frames of 8x16, expected 16x16"):
        videos.read_video_of(tmp_path, clip)


def test_videos_along_another_path_are_refused(clip, tmp_path):
    name = tmp_path / f"{videos.file_name(clip)}.mp4"
    write_video(name, clip.video, 8, scale=1)
    poses = clip.cam2world.copy()
    for kept in (poses, poses[5:]):
        name.with_suffix(".json").write_text(json.dumps({"cam2world": kept.tolist()}))
        assert len(videos.read_video_of(tmp_path, clip)) == 4
    poses[7, 0, 3] += 0.3
    name.with_suffix(".json").write_text(json.dumps({"cam2world": poses.tolist()}))
    with pytest.raises(ValueError, match=r"cam2world: found poses 0\.3 away, expected those of"):
        videos.read_video_of(tmp_path, clip)
    name.with_suffix(".json").write_text(json.dumps({"cam2world": poses[:3].tolist()}))
    with pytest.raises(ValueError, match=r"found poses of shape \(3, 4, 4\)"):
        videos.read_video_of(tmp_path, clip)


@pytest.fixture(scope="module")
def model():
    return tiny_world.world_model().replace(size=(16, 16))


@pytest.mark.long
def test_rollouts_and_read_outs_have_the_frames_that_are_to_come(clip, model):
    found = rollouts.videos_of(model, clip, seed=0)
    assert set(found) == {
        *("reconstruction", "memory", "memory_true", "readout", "readout_true"),
    }
    for video in found.values():
        assert video.shape == (4, 16, 16, 3) and video.dtype == np.uint8
    last = to_model_range(clip.video[4:])[None]
    coded = to_uint8(model.encoder.decode(model.encoder.encode(last)))[0, 1:]
    np.testing.assert_allclose(found["reconstruction"].astype(int), coded, atol=1)
    with pytest.raises(ValueError, match=r"found 4 frames of \(16, 16\) after those given"):
        rollouts.videos_of(model.replace(size=(16, 24)), clip, seed=0)


def test_a_model_is_given_every_frame_and_what_it_is_told(clip):
    class Recorder:
        def start(self, pictures, camera, **maps):
            self.given = pictures, camera, maps
            return World(memory.create(1, 1), None, None, None, frames=5)

    start = rollouts.start.__wrapped__  # without the check of its signature
    model = Recorder()
    world = start(model, clip, told=True)
    pictures, camera, maps = model.given
    np.testing.assert_array_equal(pictures, clip.video[:5])
    np.testing.assert_allclose(camera.cam2world, clip.cam2world[:5], atol=1e-6)
    np.testing.assert_array_equal(maps["depth"], clip.depth[:5])
    np.testing.assert_array_equal(maps["static"], clip.mover_ids[:5] == 0)
    np.testing.assert_array_equal(maps["times"], range(5))
    # Six frames are left out before the first that is generated.
    assert world.frames == 5 + round((clip.times[5] - clip.times[4]) * clip.fps) - 1 > 5
    start(model, clip, told=False)
    assert model.given[2].keys() == {"times"}


def test_bodies_are_kept_at_the_rate_of_the_clip(clip, monkeypatch):
    """A clip is written by the frame; speeds and their uncertainty are told by the second."""
    asked = []

    def start(model, clip, *, told):
        asked.append(model.movers.fps)
        raise StopIteration

    monkeypatch.setattr(rollouts, "start", start)
    monkeypatch.setattr(rollouts, "_reconstruct", lambda encoder, video: video)
    model = tiny_world.world_model().replace(size=(16, 16), movers=movers.MoverOptions(fps=3.0))
    with pytest.raises(StopIteration):
        rollouts.videos_of(model, clip, seed=0)
    assert asked == [clip.fps] != [3.0]
    assert rollouts.at_rate_of(model.replace(movers=None), clip).movers is None


def test_bodies_are_shown_as_their_views_are_decoded():
    """Cell by cell, so that what is drawn is known: each token is a square of its own colour."""

    class Squares:
        def decode(self, tokens):
            return tokens[..., :3].repeat(4, axis=-3).repeat(4, axis=-2)

    table = movers.create(
        5, np.array([0.0, 0.0, 1.0]), movers.MoverOptions(slots=2, views=1, view_cells=2)
    )
    tokens = np.random.default_rng(0).normal(size=table.view_tokens.shape).astype(np.float32)
    alpha = np.array([[1.0, 0.0], [0.5, 0.25]], np.float32)
    table = table.replace(view_tokens=tokens, view_alpha=table.view_alpha + alpha)
    shown = rollouts.decoded_views.__wrapped__(Squares(), table)
    assert shown.view_tokens.shape == (2, 1, 8, 8, 3)
    np.testing.assert_array_equal(shown.view_alpha[:, 0], [alpha, alpha])
    for row, column in np.ndindex(8, 8):
        colour = shown.view_tokens[:, :, row, column]
        np.testing.assert_array_equal(colour, tokens[:, :, row // 4, column // 4, :3])
