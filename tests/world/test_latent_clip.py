"""Clips encoded: chunks, keyframes, what precedes, and the baseline's renderings."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange, reduce

from helpers import tiny_world
from mirage_jax import trajectories
from mirage_jax.geometry import Camera
from mirage_jax.nn.video_vae import LatentStats, VideoVAE
from mirage_jax.world import latent_clip, scenarios
from mirage_jax.world.conditioners import Frames, Rgb
from mirage_jax.world.latent_clip import encode_clip, keyframe_depth, rgb_contexts
from mirage_jax.world.latent_encoder import LatentEncoder

FRAMES, SIZE, GRID = 9, (16, 24), (2, 3)
POSES = trajectories.make("look_away", FRAMES)


class EveryFourth(tiny_world.stand_in(VideoVAE)):
    """Latents are colours of the cells of every fourth frame."""

    spatial_stride, temporal_stride, latent_channels = 8, 4, 3

    def apply(self, variables, x, method):
        assert method == "encode"
        return reduce(x[:, ::4], "b t (h p) (w q) c -> b t h w c", "mean", p=8, q=8), None


ENCODER = LatentEncoder(None, LatentStats(jnp.zeros(3), jnp.ones(3)), EveryFourth())
RGB = Rgb(token_channels=3, stride=8)


def clip(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "video": rng.uniform(-1, 1, (FRAMES, *SIZE, 3)).astype(np.float32),
        "depth": rng.uniform(1, 5, (3, *SIZE)).astype(np.float32),
        "moving": np.zeros((3, *SIZE), np.float32),
        "intrinsics": np.array([14, 13, 12, 8], np.float32),
        "cam2world": POSES.astype(np.float32),
    }


def encoded(inputs, **options):
    inputs = {name: jnp.asarray(value) for name, value in inputs.items()}
    return encode_clip(**inputs, encoder=ENCODER, chunk_frames=5, **options)


def test_chunks_share_a_frame_and_keyframes_are_encoded_alone():
    inputs = clip()
    found = encoded(inputs)
    cells = rearrange(inputs["video"], "t (h p) (w q) c -> t h w (p q) c", p=8, q=8).mean(3)
    np.testing.assert_allclose(found.chunks, [cells[[0, 4]], cells[[4, 8]]], atol=1e-6)
    np.testing.assert_allclose(found.tokens, cells[[0, 4, 8]], atol=1e-6)
    np.testing.assert_array_equal(found.cam2world, inputs["cam2world"])
    assert found.rgb_chunks.shape == (0, 2, 2, 3, 3) and found.rgb_hits.shape == (0, 2, 2, 3, 4)


def test_frames_before_the_last_chunk_are_a_clip_of_their_own():
    inputs = clip()
    inputs["video"] = np.concatenate([inputs["video"], -inputs["video"][1:]])
    inputs["cam2world"] = np.concatenate([inputs["cam2world"], inputs["cam2world"][1:]])
    inputs["depth"] = np.concatenate([inputs["depth"], inputs["depth"][1:]])
    inputs["moving"] = np.concatenate([inputs["moving"], inputs["moving"][1:]])
    assert encoded(inputs).preceding.shape == (0, 2, 3, 3)
    cells = rearrange(inputs["video"], "t (h p) (w q) c -> t h w (p q) c", p=8, q=8).mean(3)
    found = encoded(inputs, preceding=9).preceding  # the last chunk begins at frame 12
    np.testing.assert_allclose(found, cells[[3, 7, 11]], atol=1e-6)
    with pytest.raises(ValueError, match="preceding: found 13, expected at most the 12 frames"):
        encoded(inputs, preceding=13)
    with pytest.raises(ValueError, match=r"found 8, expected 1 \+ 4 n"):
        encoded(inputs, preceding=8)


def test_of_the_last_chunk_alone_all_is_as_of_every_chunk():
    inputs = clip()
    every = encoded(inputs, preceding=1)
    last = encoded(inputs, preceding=1, last_only=True)
    assert last.chunks.shape[0] == 1
    np.testing.assert_allclose(last.chunks[0], every.chunks[-1], atol=1e-6)
    np.testing.assert_allclose(last.preceding, every.preceding, atol=1e-6)
    np.testing.assert_allclose(last.tokens, every.tokens, atol=1e-6)


def test_depth_and_motion_are_pooled_to_cells():
    inputs = clip()
    inputs["depth"][:] = 3
    inputs["depth"][1, :8, :8] = np.linspace(2, 4, 64).reshape(8, 8)
    inputs["depth"][2, 8:, 16:] = 0
    inputs["moving"][0, :4, 8:16] = 1
    found = encoded(inputs)
    expected = np.full((3, 2, 3), 3.0)
    expected[1, 0, 0] = np.sort(inputs["depth"][1, :8, :8].ravel())[31]  # lower median
    expected[2, 1, 2] = 0
    np.testing.assert_array_equal(found.depth, np.float32(expected))
    static = np.ones((3, 2, 3))
    static[0, 0, 1] = 0.5
    np.testing.assert_array_equal(found.static, static)


def test_the_baseline_gets_keyframes_their_depth_and_what_is_static(monkeypatch):
    inputs = clip()
    inputs["moving"][1, :3] = 1
    seen = []

    def contexts(rgb, keyframes, camera, **options):
        seen.extend([rgb, keyframes, camera, options])
        shares = jnp.zeros((3, 2, 2, 3, 4))
        return jnp.concatenate([jnp.ones((3, 2, 2, 3, 3)), shares], axis=-1)

    monkeypatch.setattr(latent_clip, "rgb_contexts", contexts)
    found = encoded(inputs, rgb=RGB)
    rgb, keyframes, camera, options = seen
    expected = {"encoder": ENCODER, "chunk_frames": 5, "last_only": False}
    assert rgb == RGB and options == expected
    np.testing.assert_array_equal(keyframes.pictures, inputs["video"][[0, 4, 8]])
    np.testing.assert_array_equal(keyframes.depth, inputs["depth"])
    np.testing.assert_array_equal(keyframes.static, 1 - inputs["moving"])
    np.testing.assert_array_equal(keyframes.camera.cam2world, inputs["cam2world"][[0, 4, 8]])
    np.testing.assert_array_equal(camera.cam2world, inputs["cam2world"])
    assert camera.size == SIZE and camera.intrinsics.shape == (FRAMES, 4)
    assert np.asarray(found.rgb_chunks).all() and not np.asarray(found.rgb_hits).any()


def test_every_situation_is_rendered_from_its_history_along_its_chunk():
    """Keyframe k has colour k, nearer the later it is; chunk 1 looks the other way at its end."""
    poses = np.tile(np.eye(4), (9, 1, 1))
    poses[6:] = trajectories.make("pan_right", 2, angle=180)[-1]
    shades = np.array([-0.6, 0.2, 0.8])
    pictures = jnp.asarray(np.ones((3, *SIZE, 3)) * shades[:, None, None, None], jnp.float32)
    depth = np.ones((3, *SIZE), np.float32) * np.array([3.0, 2.0, 1.0])[:, None, None]
    depth[2] = 0.0  # seen looking the other way: nothing known
    lens = np.tile(np.array([24, 24, 12, 8], np.float32), (9, 1))
    camera = Camera(lens, poses.astype(np.float32), SIZE)
    keyframes = Frames(
        tokens=jnp.zeros((3, *GRID, 3)),
        depth=jnp.asarray(depth),
        camera=camera[::4],
        times=jnp.arange(3.0),
        static=jnp.ones((3, *SIZE)),
        pictures=pictures,
    )
    contexts = functools.partial(rgb_contexts, RGB, encoder=ENCODER, chunk_frames=5)
    found = jax.jit(contexts)(keyframes, camera)
    latents, hits = found[..., :-4], found[..., -4:]
    assert latents.shape == (3, 2, *GRID, 3) and hits.shape == (3, 2, *GRID, 4)
    uint8 = np.round((shades + 1) * 127.5) / 127.5 - 1
    shown = {
        scenarios.FIRST: [uint8[0], uint8[0]],  # keyframe 0 alone
        scenarios.RETURN: [uint8[1], 0.0],  # keyframe 1 before 0, then nothing
        scenarios.REVERSED: [uint8[1], uint8[1]],  # keyframe 1, without 0
    }
    for situation, colours in shown.items():
        for latent, colour in enumerate(colours):
            np.testing.assert_allclose(latents[situation, latent], colour, atol=1e-6)
    for situation in (scenarios.FIRST, scenarios.REVERSED):
        np.testing.assert_array_equal(hits[situation], 1)
    # Chunk 1 is frames 4 to 8: its second latent covers 5 (ahead) and 6, 7, 8 (behind).
    np.testing.assert_array_equal(hits[scenarios.RETURN, 0], 1)
    np.testing.assert_array_equal(hits[scenarios.RETURN, 1, ..., 0], 1)
    np.testing.assert_array_equal(hits[scenarios.RETURN, 1, ..., 1:], 0)


def test_sky_of_the_keyframes_goes_far_away():
    depth = np.arange(1.0, 10.0, dtype=np.float32)[:, None, None] * np.ones((1, 2, 2), np.float32)
    depth[4, 0] = np.inf
    depth[5] = np.inf
    depth[8, 1, 1] = 0
    found = keyframe_depth(depth, 200.0)
    np.testing.assert_array_equal(found, [[[1, 1], [1, 1]], [[200, 200], [5, 5]], [[9, 9], [9, 0]]])
    assert found.dtype == np.float32
