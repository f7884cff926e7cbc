"""Tiled coding: which tiles, what weights, and how far from the whole picture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from helpers import paths
from mirage_jax.convert.wan_vae import from_wan_vae, released_stats, wan_vae_fields
from mirage_jax.nn.vae_tiling import decode_tiled, encode_tiled, tile_spans
from mirage_jax.nn.video_vae import VideoVAE

GOLDEN = paths.GOLDEN / "official_vae22"
RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def test_spans_cover_the_picture_and_none_lies_inside_another():
    assert tile_spans(44, 30, 15) == [(0, 30), (15, 44)]
    assert tile_spans(80, 52, 26) == [(0, 52), (26, 78), (52, 80)]
    assert tile_spans(5, 8, 4) == [(0, 5)]
    assert tile_spans(8, 8, 4) == [(0, 8)]
    assert tile_spans(7, 3, 3) == [(0, 3), (3, 6), (6, 7)]
    for step in (0, 4):
        with pytest.raises(ValueError, match=f"step: found {step}, expected 1 to 3"):
            tile_spans(7, 3, step)


def spread(latents):
    """Every cell to a block of 2x2 pixels, nothing else."""
    return jnp.repeat(jnp.repeat(latents[..., :3], 2, axis=2), 2, axis=3)


def gather(video):
    """The mean of every block of 2x2 pixels."""
    b, t, h, w, c = video.shape
    return video.reshape(b, t, h // 2, 2, w // 2, 2, c).mean((3, 5))


@pytest.mark.parametrize(("tile", "step"), [((4, 5), (2, 3)), ((3, 3), (3, 3)), ((9, 9), (1, 9))])
def test_what_looks_at_no_neighbours_is_the_same_in_tiles(tile, step):
    latents = normal(2, 2, 7, 8, 3)
    found = decode_tiled(spread, latents, spatial_stride=2, tile=tile, step=step)
    np.testing.assert_allclose(found, spread(latents), atol=1e-6)
    found = encode_tiled(gather, found, spatial_stride=2, tile=tile, step=step)
    np.testing.assert_allclose(found, latents, atol=1e-6)


def test_tiles_are_weighted_by_their_distance_from_inner_borders():
    """Each tile is coded as what its first cell holds, so that the result shows the weights."""
    latents = np.zeros((1, 1, 5, 6, 1), np.float32)
    latents[0, 0, [0, 0, 2, 2], [0, 2, 0, 2], 0] = [1, 2, 4, 8]
    first = lambda x: jnp.full((1, 1, *(2 * n for n in x.shape[2:4]), 3), x[0, 0, 0, 0, 0])  # noqa: E731
    found = decode_tiled(first, jnp.asarray(latents), spatial_stride=2, tile=(4, 4), step=(2, 2))
    # By the definition: rows 0-7 and 4-9, columns 0-7 and 4-11; four pixels of ramp.
    expected = np.zeros((10, 12))
    total = np.zeros((10, 12))
    tiles = [((0, 8), (0, 8)), ((0, 8), (4, 12)), ((4, 10), (0, 8)), ((4, 10), (4, 12))]
    for value, ((top, bottom), (left, right)) in zip([1, 2, 4, 8], tiles, strict=True):
        for y in range(top, bottom):
            for x in range(left, right):
                inner = [bottom - y if bottom < 10 else 4, right - x if right < 12 else 4]
                inner += [y - top + 1 if top else 4, x - left + 1 if left else 4]
                weight = min(*inner, 4) / 4
                expected[y, x] += weight * value
                total[y, x] += weight
    np.testing.assert_allclose(found[0, 0, :, :, 0], expected / total, rtol=1e-6)


def test_pictures_that_are_no_whole_cells_are_refused():
    with pytest.raises(ValueError, match="7x8; expected multiples of 2"):
        encode_tiled(gather, normal(1, 1, 7, 8, 3), spatial_stride=2, tile=(2, 2), step=(1, 1))


@pytest.fixture(scope="module")
def released():
    """Stride, encoder and decoder of the Wan 2.2 golden, and latents of 2x16 cells."""
    tensors = load_file(GOLDEN / "weights.safetensors")
    vae = VideoVAE(**wan_vae_fields(tensors))
    params = {"params": jax.tree.map(jnp.asarray, from_wan_vae(tensors))}
    encode = jax.jit(lambda video: vae.apply(params, video, method="encode")[0])
    decode = jax.jit(lambda latents: vae.apply(params, latents, method="decode"))
    stats = released_stats(48)
    latents = normal(1, 2, 2, 16, 48) * stats.std + stats.mean
    return vae.spatial_stride, encode, decode, latents


def test_one_tile_is_the_whole_picture(released):
    stride, encode, decode, latents = released
    whole = decode(latents)
    tiles = {"spatial_stride": stride, "tile": (2, 17), "step": (1, 16)}
    np.testing.assert_array_equal(decode_tiled(decode, latents, **tiles), whole)
    np.testing.assert_array_equal(encode_tiled(encode, whole, **tiles), encode(whole))


def test_tiles_of_the_released_vae_come_close_to_the_whole_picture(released):
    """Random weights see further than trained ones, and attention its tile alone: a loose bound."""
    stride, encode, decode, latents = released
    video = decode(latents)
    tiles = {"spatial_stride": stride, "tile": (2, 12), "step": (2, 4)}
    pairs = [
        (decode_tiled(decode, latents, **tiles), video),
        (encode_tiled(encode, video, **tiles), encode(video)),
    ]
    for found, expected in pairs:
        error = jnp.abs(found - expected).mean() / jnp.std(expected)
        assert 0 < error < 0.3
