"""Scores of the head's depth, against numbers by hand and a wall that moves by whole cells."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import reduce

from helpers import tiny_world
from helpers.tiny_world import GRID, SIZE, STRIDE
from mirage_jax.evaluation import depth_quality
from mirage_jax.evaluation.image_metrics import PSNR_CAP
from mirage_jax.evaluation.protocol import HeldOut
from mirage_jax.nn.geometry_head import Geometry, GeometryHead
from mirage_jax.nn.video_vae import LatentStats
from mirage_jax.world.conditioners import Folded
from mirage_jax.world.latent_encoder import LatentEncoder

FRAMES, LATENTS = 9, 2
WALL = 3.0


@jax.tree_util.register_static
class Reads(tiny_world.stand_in(GeometryHead)):
    """Finds depth in the first channel, sky where the second is positive."""

    def apply(self, variables, latents, is_image):
        nothing = jnp.zeros(latents.shape[:-1])
        depth, sky = jnp.log(latents[..., 0]), latents[..., 1]
        return Geometry(depth, nothing, nothing, sky, latents)


def model():
    stats = LatentStats(mean=np.zeros(3, np.float32), std=np.ones(3, np.float32))
    encoder = LatentEncoder({}, stats, tiny_world.MeanColours())
    return tiny_world.world_model(told=Folded(3, STRIDE, reads=2, fine=1)).replace(
        encoder=encoder, head=Reads(), head_params={}
    )


@pytest.fixture(scope="module")
def held_out():
    """Two clips whose camera steps aside by one cell of a wall, and steps back no more."""
    count, keyframes = 2, 3
    rng = np.random.default_rng(3)
    lens = np.array([16.0, 16.0, 12.0, 8.0], np.float32)
    poses = np.tile(np.eye(4, dtype=np.float32), (FRAMES, 1, 1))
    poses[5:, 0, 3] = WALL * STRIDE / lens[0]
    clips = tiny_world.latent_clips(count, poses, depth=WALL)
    cells = rng.integers(0, 256, (count, GRID[0], GRID[1] + 1, 3), np.uint8)
    pictures = cells.repeat(STRIDE, axis=1).repeat(STRIDE, axis=2)
    before, after = pictures[:, :, : SIZE[1]], pictures[:, :, STRIDE:]
    video = np.stack([before] * 5 + [after] * 4, axis=1)
    tokens = reduce(
        video[:, ::4] / 127.5 - 1.0, "n k (h p) (w q) c -> n k h w c", "mean", p=8, q=8
    ).astype(np.float32)
    chunks = np.full((count, 2, LATENTS, *GRID, 3), -1, np.float32)
    chunks[..., 0] = rng.uniform(1, 9, chunks.shape[:-1])
    clips = dataclasses.replace(
        clips,
        tokens=tokens,
        chunks=chunks,
        intrinsics=np.tile(lens, (count, 1)),
        rgb_chunks=clips.rgb_chunks[..., :3],
        preceding=clips.preceding[..., :3],
    )
    assert clips.depth.shape[1] == keyframes
    return HeldOut(video, np.stack([poses] * count), ["one", "two"], clips)


def test_keyframes_are_seen_in_the_chunk_that_ends_with_them(held_out):
    chunks = held_out.clips.chunks.copy()
    chunks[1, 1, 1, 0, 2, 1] = 1.0  # sky
    clips = dataclasses.replace(held_out.clips, chunks=chunks)
    found = depth_quality.head_depth(model(), clips)
    places = [(0, 0), (0, 1), (1, 1)]  # of keyframes 0, 1, 2: chunk and latent
    expected = np.stack([chunks[:, n, t, ..., 0] for n, t in places], axis=1)
    np.testing.assert_allclose(found.metres, expected, rtol=1e-5)
    expected[1, 2, 0, 2] = model().memory.sky_depth
    np.testing.assert_allclose(found.remembered, expected, rtol=1e-5)


def test_scores_by_hand():
    true = np.array([[[[2.0, 4.0, 0.0]], [[0.0, 0.0, 0.0]]]])
    depth = np.array([[[[3.0, 4.8, 9.0]], [[1.0, 1.0, 1.0]]]])
    counted = true > 0
    assert depth_quality.scores(depth, true, counted) == pytest.approx((0.35, 0.5))
    # Scale: the median of 2/3 and 5/6 is 3/4.
    aligned = depth_quality.with_true_scale(depth, true, counted)
    np.testing.assert_allclose(aligned, [[[[2.25, 3.6, 6.75]], [[1.0, 1.0, 1.0]]]])
    assert depth_quality.scores(aligned, true, counted) == pytest.approx((0.1125, 1.0))


def test_a_scale_of_each_frame_is_no_error_of_aligned_depth(held_out):
    true = np.random.default_rng(0).uniform(1, 9, (2, 3, *GRID))
    scale = np.random.default_rng(1).uniform(0.2, 5, (2, 3, 1, 1))
    aligned = depth_quality.with_true_scale(true * scale, true, true > 2)
    np.testing.assert_allclose(aligned, true, rtol=1e-6)


def test_right_depth_reads_out_the_wall_and_sky_does_not_move(held_out):
    clips = held_out.clips
    chunks = clips.chunks.copy()
    chunks[..., 0] = WALL
    right = dataclasses.replace(held_out, clips=dataclasses.replace(clips, chunks=chunks))
    found = depth_quality.measure(model(), right)
    assert found["within_1.25"] == found["aligned_within_1.25"] == 1
    assert found["aligned_abs_rel"] == pytest.approx(0, abs=1e-6)
    assert found["readout_psnr"] == pytest.approx(PSNR_CAP)
    assert found["readout_psnr_of_true_depth"] == pytest.approx(PSNR_CAP)

    chunks = chunks.copy()
    chunks[..., 1] = 1.0
    sky = dataclasses.replace(held_out, clips=dataclasses.replace(clips, chunks=chunks))
    found = depth_quality.measure(model(), sky)
    # The pictures from before, over the columns of the wall that were seen before.
    seen = slice(0, SIZE[1] - STRIDE)
    before, after = held_out.video[:, 0, :, seen] * 1.0, held_out.video[:, -1, :, seen] * 1.0
    error = np.square(before - after).mean((1, 2, 3))
    assert found["readout_psnr"] == pytest.approx(np.mean(10 * np.log10(255**2 / error)), rel=1e-5)
    assert found["readout_psnr_of_true_depth"] == pytest.approx(PSNR_CAP)


def test_a_model_without_a_head_is_refused(held_out):
    without = model().replace(head=None, head_params=None)
    with pytest.raises(ValueError, match="geometry head"):
        depth_quality.measure(without, held_out)
