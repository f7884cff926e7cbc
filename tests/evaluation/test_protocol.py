"""The protocol with models known in closed form, so that every control has one right answer.

Pictures are cells of one colour each, latents are those colours, and the camera looks away by 90
degrees and back: the last frame shows what the first did, and nothing else does.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import tiny_world
from mirage_jax import trajectories
from mirage_jax.evaluation import protocol
from mirage_jax.evaluation.protocol import HeldOut
from mirage_jax.world import WorldModel, scenarios
from mirage_jax.world.conditioners import Folded, Nothing, Rgb, Score
from mirage_jax.world.latent_clip import LatentClip
from mirage_jax.world.latent_encoder import LatentEncoder
from mirage_jax.world.options import ContextFrameOptions

CLIPS, FRAMES, CHUNK = 3, 9, 5
GRID, SIZE = (2, 3), (16, 24)
POSES = trajectories.make("look_away", FRAMES, angle=90)


@flax.struct.dataclass
class Colours(LatentEncoder):
    """A latent is the colours of its last frame; decoded, it is shown in all frames it covers."""

    def encode_white(self, latents, size):
        return jnp.ones((latents, *GRID, 3))

    def decode(self, latents):
        frames = jnp.concatenate([latents[:, :1], jnp.repeat(latents[:, 1:], 4, axis=1)], axis=1)
        return frames.repeat(8, axis=2).repeat(8, axis=3)


@flax.struct.dataclass
class Reader(WorldModel):
    """Generates what its context shows, and nothing else."""

    def denoise(self, first, context, rays, key):
        shape = (len(first), 2, *GRID, 3)
        shown = jnp.zeros(shape) if context is None else context[..., :3]
        return shown.at[:, 0].set(first)


@flax.struct.dataclass
class Dreamer(WorldModel):
    """Generates noise, whatever its context."""

    def denoise(self, first, context, rays, key):
        return jax.random.uniform(key, (len(first), 2, *GRID, 3), minval=-1.0)


@flax.struct.dataclass
class Copier(WorldModel):
    """Generates its one reference, grey without it."""

    def denoise(self, first, context, rays, key, *, reference, preceding, frame_mask):
        assert preceding.shape[1] == 0 and frame_mask.shape == (len(first), 1)
        copied = jnp.where(frame_mask[..., None, None, None], reference, 0.0)
        return jnp.concatenate([first[:, None], copied], axis=1)


@flax.struct.dataclass
class White(WorldModel):
    """Generates the constants of its context."""

    def denoise(self, first, context, rays, key):
        return context[..., 3:]


TOKENS = Folded(3, 8, reads=1, fine=1)


def model(kind=Reader, conditioner=TOKENS, **fields):
    return kind(
        encoder=Colours(None, None, None),
        head_params=None,
        denoiser_params=None,
        head=None,
        denoiser=None,
        conditioner=conditioner,
        size=SIZE,
        chunk_frames=CHUNK,
        **fields,
    )


def pictures(cells):
    return cells.repeat(8, axis=-3).repeat(8, axis=-2)


def held_out(poses=POSES, depth=2.0):
    rng = np.random.default_rng(0)
    cells = rng.integers(0, 256, (CLIPS, FRAMES, *GRID, 3), np.uint8)
    cells[:, -1] = cells[:, 0]
    colours = (cells / 127.5 - 1).astype(np.float32)
    clips = LatentClip(
        chunks=np.stack([colours[:, [0, 4]], colours[:, [4, 8]]], axis=1),
        tokens=colours[:, ::4],
        depth=np.full((CLIPS, 3, *GRID), depth, np.float32),
        static=np.ones((CLIPS, 3, *GRID), np.float32),
        # 90 degrees across: views 90 degrees apart share no cell.
        intrinsics=np.tile(np.array([12, 12, 12, 8], np.float32), (CLIPS, 1)),
        cam2world=np.tile(poses.astype(np.float32), (CLIPS, 1, 1, 1)),
        rgb_chunks=rng.uniform(-1, 1, (CLIPS, 3, 2, *GRID, 3)).astype(np.float32),
        rgb_hits=np.ones((CLIPS, 3, 2, *GRID, 4), np.float32),
        preceding=np.zeros((CLIPS, 0, *GRID, 3), np.float32),
    )
    names = [f"clip-{n}" for n in range(CLIPS)]
    return HeldOut(pictures(cells), np.tile(poses, (CLIPS, 1, 1, 1)), names, clips)


@pytest.fixture(scope="module")
def truth():
    return held_out()


@pytest.fixture(scope="module")
def videos(truth):
    return protocol.generate({"latent": model()}, truth, seed=0)


def test_every_control_that_needs_no_training_is_there(videos):
    assert set(videos) == {
        "memory",
        "memory_zeroed",
        "vae_reconstruction",
        "copy_nearest_view",
        "copy_first_frame",
    }
    for video in videos.values():
        assert video.shape == (CLIPS, CHUNK, *SIZE, 3) and video.dtype == np.uint8


def test_memory_shows_the_first_view_again_when_the_camera_is_back(truth, videos):
    np.testing.assert_array_equal(videos["memory"][:, -1], truth.video[:, 0])
    np.testing.assert_array_equal(videos["memory"][:, 0], truth.video[:, 4])  # given


def test_an_emptied_memory_shows_nothing(truth, videos):
    assert (videos["memory_zeroed"][:, 1:] == 128).all()
    np.testing.assert_array_equal(videos["memory_zeroed"][:, 0], truth.video[:, 4])


def test_emptied_is_the_same_as_never_written(truth, videos):
    nothing_known = protocol.generate({"latent": model()}, held_out(depth=0.0), seed=0)
    np.testing.assert_array_equal(nothing_known["memory"], videos["memory_zeroed"])


def test_what_is_no_memory_stays_when_it_is_emptied(truth):
    found = protocol.generate({"latent": model(White, Score(3, 8))}, truth, seed=0)
    assert (found["memory"] == 255).all() and (found["memory_zeroed"] == 255).all()


def test_references_are_remembered_frames_and_go_with_the_memory(truth):
    copier = model(Copier, context_frames=ContextFrameOptions(references=1))
    found = protocol.generate({"latent": copier}, truth, seed=0)
    np.testing.assert_array_equal(found["memory"][:, -1], truth.video[:, 0])
    assert (found["memory_zeroed"][:, 1:] == 128).all()


def test_copies_come_from_the_history(truth, videos):
    for frame in range(CHUNK):
        np.testing.assert_array_equal(videos["copy_first_frame"][:, frame], truth.video[:, 0])
        # The way back passes the poses of the way out in reverse.
        nearest = truth.video[:, 4 - frame]
        np.testing.assert_array_equal(videos["copy_nearest_view"][:, frame], nearest)


def test_comparison_models_get_their_own_context(truth):
    kinds = {"latent": TOKENS, "none": Nothing(3, 8), "rgb": Rgb(3, 8)}
    models = {name: model(conditioner=conditioner) for name, conditioner in kinds.items()}
    found = protocol.generate(models, truth, seed=0)
    assert set(found) >= {"memory", "no_memory", "rgb_memory"}
    assert (found["no_memory"][:, 1:] == 128).all()
    rendered = truth.clips.rgb_chunks[:, scenarios.RETURN, 1]
    expected = pictures(np.round((rendered + 1) * 127.5).astype(np.uint8))
    np.testing.assert_array_equal(found["rgb_memory"][:, -1], expected)


@pytest.fixture(scope="module")
def dreams(truth):
    models = {"latent": model(Dreamer), "rgb": model(Dreamer, Rgb(3, 8))}
    return protocol.generate(models, truth, seed=3)


def test_all_methods_see_the_same_noise(truth, dreams):
    for method in ("memory_zeroed", "rgb_memory"):
        np.testing.assert_array_equal(dreams[method], dreams["memory"])
    other = protocol.generate({"latent": model(Dreamer)}, truth, seed=4)
    assert (other["memory"] != dreams["memory"]).any()


def test_reconstruction_is_the_truth_decoded_whatever_the_denoiser_does(truth, videos, dreams):
    expected = truth.video[:, [4, 8, 8, 8, 8]]
    np.testing.assert_array_equal(videos["vae_reconstruction"], expected)
    np.testing.assert_array_equal(dreams["vae_reconstruction"], expected)


def test_the_size_of_batches_does_not_matter(truth, videos):
    found = protocol.generate({"latent": model()}, truth, seed=0, batch_size=2)
    for method, video in videos.items():
        np.testing.assert_array_equal(found[method], video)


def psnr(a, b):
    """Of each frame, by its definition."""
    error = np.mean(np.square(a.astype(np.float64) - b), axis=(-3, -2, -1))
    return 10 * np.log10(255**2 / error)


def test_scores_are_those_of_the_last_four_frames(truth, videos):
    rng = np.random.default_rng(1)
    noisy = {
        method: np.clip(video + rng.integers(-9, 10, video.shape), 0, 255).astype(np.uint8)
        for method, video in videos.items()
    }
    scores = protocol.score(truth, noisy)
    by_hand = {m: psnr(truth.video[:, -4:], v[:, -4:]).mean(axis=1) for m, v in noisy.items()}
    for method, values in by_hand.items():
        found = scores["revisit"][method]["psnr"]
        assert found["mean"] == pytest.approx(values.mean(), rel=1e-5)
        assert found["stderr"] == pytest.approx(values.std(ddof=1) / np.sqrt(CLIPS), rel=1e-4)
    gain = scores["gains"]["over_memory_zeroed"]
    difference = by_hand["memory"] - by_hand["memory_zeroed"]
    assert gain["mean"] == pytest.approx(difference.mean(), rel=1e-4)
    assert gain["share_positive"] == (difference > 0).mean()
    assert set(scores["nmr"]) == {"psnr", "ssim"} and set(scores["nmr"]["psnr"]) == set(videos)
    assert (scores["clips"], scores["parallax_clips"]) == (CLIPS, 0)


def test_a_return_to_another_place_counts_as_parallax(videos):
    poses = POSES.copy()
    poses[5:, 0, 3] += 1.0
    assert protocol.score(held_out(poses), videos)["parallax_clips"] == CLIPS


def test_memory_retention_is_measured_on_history_and_what_was_generated():
    """Against pairs listed by hand: a perfect return, one to another world, and a coarse one."""
    frames, chunk = 33, 17
    history = frames - chunk + 1
    poses = trajectories.make("look_away", frames, angle=120)
    # The last step turns by less than half a degree: that frame counts as standing still.
    degrees = np.degrees(np.arccos(np.clip(poses[:-1, 2, 2], -1, 1)))
    later = range(history, frames - 1)
    back = [(frames - 1 - k, k) for k in later if 2 * k - frames + 1 >= 10]
    steps = [(k - 1, k) for k in later[1:]]
    apart = [(e, k) for k in later for e in range(k - 9) if abs(degrees[k] - degrees[e]) >= 45]

    def retention(clip):
        clip = clip.astype(np.float64)
        errors = [[np.square(clip[a] - clip[b]).mean() for a, b in g] for g in (back, apart, steps)]
        r, b, s = (np.mean(10 * np.log10(255**2 / np.maximum(e, 1 / 12))) for e in errors)
        return (r - b) / (s - b)

    def walk(seed):
        # Each direction has a picture of its own, which changes little from frame to frame.
        view = np.random.default_rng(seed).uniform(0, 255, (18, 8, 8, 3)).cumsum(0)
        out = view[1:] / np.arange(2, 19)[:, None, None, None]
        return np.concatenate([out, out[-2::-1]]).astype(np.uint8)

    video = np.stack([walk(2), walk(3)])
    true = video[:, frames - chunk :]
    videos = {
        "memory": true,
        "no_memory": np.stack([walk(4), walk(5)])[:, frames - chunk :],
        "vae_reconstruction": true // 8 * 8,
    }
    clips = tiny_world.latent_clips(2, poses)
    held = HeldOut(video, np.stack([poses] * 2), ["a", "b"], clips)
    nmr = protocol.score(held, videos)["nmr"]["psnr"]
    expected = {
        name: np.mean(
            [
                retention(np.concatenate(clip))
                for clip in zip(video[:, :history], v[:, 1:], strict=True)
            ]
        )
        for name, v in videos.items()
    }
    for name, value in expected.items():
        assert nmr[name]["trajectories"] == 2
        assert nmr[name]["mean"] == pytest.approx(value, rel=1e-5)
        ratio = value / expected["vae_reconstruction"]
        assert nmr[name]["relative"] == pytest.approx(ratio, rel=1e-5)
    assert expected["memory"] > 1 and abs(expected["no_memory"]) < 0.3
