"""The video VAE against the released one, and against what it promises by construction."""

from __future__ import annotations

import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from helpers import paths
from mirage_jax.convert.wan_vae import (
    from_wan_vae,
    released_stats,
    to_wan_vae,
    wan_vae_fields,
)
from mirage_jax.nn.latents import kl_divergence, sample_posterior
from mirage_jax.nn.video_vae import VideoVAE, denormalise, normalise

GOLDEN = paths.GOLDEN / "official_vae22"
SMALL = {"base_width": 4, "decoder_width": 8, "latent_channels": 6, "blocks": 1}


@pytest.fixture(scope="module")
def wan():
    tensors = load_file(GOLDEN / "weights.safetensors")
    io = {name: np.moveaxis(value, 1, -1) for name, value in np.load(GOLDEN / "io.npz").items()}
    return tensors, io


def close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


def randomise(params, seed=0):
    """Every tensor random, so that nothing hides behind a zero."""
    leaves, tree = jax.tree.flatten(nn.unbox(params))
    rng = np.random.default_rng(seed)
    scaled = [
        rng.normal(size=x.shape, scale=0.7 / max(np.prod(x.shape[:-1]), 1) ** 0.5)
        if x.ndim > 1
        else rng.normal(size=x.shape, scale=0.2) + 0.5
        for x in leaves
    ]
    return jax.tree.unflatten(tree, [jnp.asarray(x, jnp.float32) for x in scaled])


def abstract_params(vae):
    return jax.eval_shape(vae.init, jax.random.key(0), jnp.zeros((1, 1, 16, 16, 3)))["params"]


class Compiled:
    """A VideoVAE with its parameters and each method compiled."""

    def __init__(self, vae, params):
        self.vae, self.params = vae, params
        self._methods = {}

    def __call__(self, method, *args):
        if method not in self._methods:
            self._methods[method] = jax.jit(functools.partial(self.vae.apply, method=method))
        return self._methods[method]({"params": self.params}, *args)


@pytest.fixture(scope="module")
def small():
    vae = VideoVAE(**SMALL)
    return Compiled(vae, randomise(abstract_params(vae)))


@pytest.fixture(scope="module")
def clip():
    return jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (2, 9, 16, 24, 3)), jnp.float32)


@pytest.mark.parametrize("impl", ["direct", "frames"])
def test_released_wan22_vae(wan, impl):
    tensors, io = wan
    vae = Compiled(VideoVAE(**wan_vae_fields(tensors), conv_impl=impl), from_wan_vae(tensors))
    stats = released_stats(48)
    z = denormalise(jnp.asarray(io["z"]), stats)
    mean, _ = vae("encode", io["video"])
    close(mean, io["mu_raw"])
    close(normalise(mean, stats), io["mu_normalised"])
    close(vae("decode", z), io["decoded"])
    close(vae("decode", z[:, :1]), io["decoded_first_latent_only"])
    close(vae("decode", mean), io["recon"])
    ones, _ = vae("encode", np.ones_like(io["video"]))
    close(normalise(ones, stats), io["score_latent_of_ones"])


def test_released_wan21_vae():
    folder = GOLDEN.parent / "official_vae21"
    tensors, stats = load_file(folder / "weights.safetensors"), released_stats(16)
    io = {name: np.moveaxis(value, 1, -1) for name, value in np.load(folder / "io.npz").items()}
    vae = VideoVAE(**wan_vae_fields(tensors))
    assert (vae.spatial_stride, vae.temporal_stride, vae.level_shortcuts) == (8, 4, False)
    vae = Compiled(vae, from_wan_vae(tensors))
    mean, _ = vae("encode", io["video"])
    close(normalise(mean, stats), io["mu_normalised"])
    z = denormalise(jnp.asarray(io["z"]), stats)
    close(vae("decode", z), io["decoded"])
    first, cache = vae("decode_chunk", z[:, :1])
    later, _ = vae("decode_chunk", z[:, 1:], cache)
    close(jnp.concatenate([first, later], axis=1), io["decoded"])
    config = json.loads((folder / "config.json").read_text())
    np.testing.assert_array_equal(stats.mean, np.float32(config["latents_mean"]))
    np.testing.assert_array_equal(stats.std, np.float32(config["latents_std"]))


def test_wan_fields_stats_and_round_trip(wan):
    tensors, _ = wan
    config = json.loads((GOLDEN / "config.json").read_text())
    fields = wan_vae_fields(tensors)
    assert fields["base_width"] == config["dim"]
    assert fields["decoder_width"] == config["dec_dim"]
    assert fields["width_mults"] == tuple(config["dim_mult"])
    assert fields["temporal_downsample"] == tuple(config["temperal_downsample"])
    assert fields["blocks"] == config["num_res_blocks"]
    assert fields["latent_channels"] == config["z_dim"]
    close(released_stats(48).mean, config["latents_mean"], 1e-7)
    close(released_stats(48).std, config["latents_std"], 1e-7)
    back = to_wan_vae(from_wan_vae(tensors), fields)
    assert back.keys() == tensors.keys()
    for name, value in tensors.items():
        np.testing.assert_array_equal(back[name], value, err_msg=name)
    prefixed = from_wan_vae({f"model.{name}": value for name, value in tensors.items()})
    assert jax.tree.all(jax.tree.map(np.array_equal, prefixed, from_wan_vae(tensors)))


def test_wan_tensors_fit_the_model_exactly(wan):
    tensors, _ = wan
    vae = VideoVAE(**wan_vae_fields(tensors))
    shapes = jax.tree.map(lambda x: x.shape, nn.unbox(abstract_params(vae)))
    assert shapes == jax.tree.map(lambda x: x.shape, from_wan_vae(tensors))


def test_wan_errors_name_the_tensor(wan):
    tensors, _ = wan
    missing = {k: v for k, v in tensors.items() if k != "encoder.middle.0.residual.2.weight"}
    with pytest.raises(ValueError, match=r"missing: encoder\.middle\.0\.residual\.2\.weight"):
        from_wan_vae(missing)
    with pytest.raises(ValueError, match="extra_tensor"):
        from_wan_vae({**tensors, "extra_tensor": np.zeros(1)})
    with pytest.raises(ValueError, match=r"linear_(en|de)coder"):
        to_wan_vae({}, {**wan_vae_fields(tensors), "linear_path": True})


def test_shapes_and_bad_sizes(small, clip):
    assert (small.vae.spatial_stride, small.vae.temporal_stride) == (8, 4)
    mean, logvar = small("encode", clip)
    assert mean.shape == logvar.shape == (2, 3, 2, 3, 6)
    assert small("decode", mean).shape == clip.shape
    for frames in (2, 4, 8):
        with pytest.raises(ValueError, match=f"{frames} frames"):
            small("encode", clip[:, :frames])
    with pytest.raises(ValueError, match="16x20"):
        small("encode", clip[:, :, :, :20])
    with pytest.raises(ValueError, match="temporal_downsample"):
        abstract_params(VideoVAE(temporal_downsample=(True,)))
    with pytest.raises(ValueError, match="conv_impl"):
        jax.eval_shape(VideoVAE(conv_impl="fast").init, jax.random.key(0), clip)


@pytest.mark.parametrize("split", [(2, 1), (1, 1, 1)])
def test_streaming_equals_one_call(small, clip, split):
    mean, logvar = small("encode", clip)
    video = small("decode", mean)
    encoded, decoded, frame, latent = [], [], 0, 0
    encoder_caches, decoder_caches = [None], [None]
    for latents in split:
        frames = 4 * latents - (3 if frame == 0 else 0)
        out, cache = small("encode_chunk", clip[:, frame : frame + frames], encoder_caches[-1])
        encoded.append(out)
        encoder_caches.append(cache)
        out, cache = small("decode_chunk", mean[:, latent : latent + latents], decoder_caches[-1])
        decoded.append(out)
        decoder_caches.append(cache)
        frame, latent = frame + frames, latent + latents
    close(jnp.concatenate([m for m, _ in encoded], 1), mean)
    close(jnp.concatenate([v for _, v in encoded], 1), logvar)
    close(jnp.concatenate(decoded, 1), video)
    # One compiled program serves every chunk but the first: shapes of the cache do not change.
    for caches in (encoder_caches, decoder_caches):
        shapes = {tuple(x.shape for x in cache) for cache in caches[1:]}
        assert len(shapes) == 1


def test_causal(small, clip):
    mean, _ = small("encode", clip)
    changed, _ = small("encode", clip.at[:, 5:].add(0.5))
    close(changed[:, :2], mean[:, :2], 0)
    assert np.abs(changed[:, 2] - mean[:, 2]).max() > 1e-3
    video = small("decode", mean)
    other = small("decode", mean.at[:, 2].add(0.5))
    close(other[:, :5], video[:, :5], 0)
    assert np.abs(other[:, 5:] - video[:, 5:]).max() > 1e-3


def test_past_matters(small, clip):
    """The streaming test would pass if nothing but the current chunk were looked at."""
    mean, _ = small("encode", clip)
    changed, _ = small("encode", clip.at[:, 0].add(0.5))
    assert np.abs(changed[:, 2] - mean[:, 2]).max() > 1e-4
    video, other = small("decode", mean), small("decode", mean.at[:, 0].add(0.5))
    assert np.abs(other[:, 5:] - video[:, 5:]).max() > 1e-4


def test_images_are_encoded_alone(small, clip):
    mean, logvar = small("encode_images", clip[:, :3])
    for t in range(3):
        alone = small("encode", clip[:, t : t + 1])
        close(mean[:, t], alone[0][:, 0])
        close(logvar[:, t], alone[1][:, 0])
    # The first latent of a clip is the image latent of its first frame.
    close(small("encode", clip)[0][:, 0], mean[:, 0])


@pytest.mark.parametrize("method", ["encode", "decode"])
def test_compute_dtype(small, clip, method):
    half = Compiled(VideoVAE(**SMALL, dtype=jnp.bfloat16), small.params)
    mean, _ = small("encode", clip)
    given = clip if method == "encode" else mean
    expected, actual = (jax.tree.leaves(vae(method, given))[0] for vae in (small, half))
    assert actual.dtype == jnp.float32
    error = jnp.abs(actual - expected).max() / jnp.abs(expected).max()
    assert 1e-5 < error < 0.05


def test_every_parameter_learns_after_one_step(clip):
    """The zero-initialised last layers must not shut the network off for good."""
    vae = VideoVAE(**SMALL, width_mults=(1, 2), temporal_downsample=(True,))
    params = randomise(abstract_params(vae))
    for last in (params["quant"], params["decoder"]["conv_out"]):
        last["kernel"] = jnp.zeros_like(last["kernel"])

    @jax.jit
    def gradient(params):
        def loss(params):
            mean, logvar = vae.apply({"params": params}, clip, method="encode")
            z = sample_posterior(jax.random.key(1), mean, logvar)
            video = vae.apply({"params": params}, z, method="decode")
            return jnp.mean((video - clip) ** 2) + kl_divergence(mean, logvar).mean()

        return jax.grad(loss)(params)

    params = jax.tree.map(lambda p, g: p - 0.01 * g, params, gradient(params))
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(params)):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, jax.tree_util.keystr(path)
