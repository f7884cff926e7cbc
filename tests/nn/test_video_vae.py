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
from mirage_jax.nn import layers, video_vae
from mirage_jax.nn.patch_pca import pca_linear_path, with_linear_path
from mirage_jax.nn.video_vae import LatentStats, VideoVAE, denormalise, normalise

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


# ---- the linear path


def smooth_video(seed, shape=(3, 9, 16, 24, 3)):
    rng = np.random.default_rng(seed)
    n, t, h, w, _ = shape
    grid = np.stack(
        np.meshgrid(np.arange(t) / 8, np.arange(h) / 9, np.arange(w) / 11, indexing="ij")
    )
    waves = rng.normal(size=(n, 5, 3, 3)) * 2
    phase = np.einsum("nkci,ithw->nkcthw", waves, grid) + rng.uniform(0, 6, (n, 5, 3, 1, 1, 1))
    return np.moveaxis(np.sin(phase).mean(1), 1, -1).astype(np.float32)


def patches_of(video, frames, size=8):
    """[patches, values], cut with plain loops."""
    n, t, h, w, _ = video.shape
    rows = [
        video[i, s : s + frames, y : y + size, x : x + size].ravel()
        for i in range(n)
        for s in range(t - frames + 1)
        for y in range(0, h, size)
        for x in range(0, w, size)
    ]
    return np.stack(rows).astype(np.float64)


def project(patch, mean, basis):
    return mean + (patch - mean) @ basis.T @ basis


@pytest.fixture(scope="module")
def new():
    vae = VideoVAE(**SMALL)
    init = jax.jit(lambda key: vae.init(key, jnp.zeros((1, 1, 16, 16, 3))))
    params = init(jax.random.key(0, impl="rbg"))  # whose draws compile fast
    return Compiled(vae, params["params"])


@pytest.mark.parametrize("power,align", [(1.0, True), (0.5, False), (0.0, True)])
def test_new_model_is_the_closed_form_pca(new, power, align):
    video = smooth_video(3)
    weights = pca_linear_path(
        video,
        latent_channels=6,
        spatial_stride=8,
        temporal_stride=4,
        power=power,
        align=align,
    )
    new.params = with_linear_path(new.params, weights)
    test = smooth_video(4, (1, 9, 16, 24, 3))
    mean, logvar = new("encode", jnp.asarray(test))
    close(logvar, np.full(logvar.shape, new.vae.initial_logvar))
    actual = np.asarray(new("decode", mean))

    # Images: the sample's last frames of groups; both bases from a singular value decomposition.
    groups = patches_of(video, 4)
    images = groups[:, -192:]
    expected = np.empty_like(test)
    for frames, sample, starts in ((1, images, (0,)), (4, groups, (1, 5))):
        mean = sample.mean(0)
        basis = np.linalg.svd(sample - mean, full_matrices=False)[2][:6]
        for s in starts:
            for y in range(0, 16, 8):
                for x in range(0, 24, 8):
                    cut = (0, slice(s, s + frames), slice(y, y + 8), slice(x, x + 8))
                    shape = test[cut].shape
                    expected[cut] = project(test[cut].ravel(), mean, basis).reshape(shape)
    close(actual, expected, 1e-4)
    assert np.abs(actual - test).max() > 1e-3


def test_pca_latents_are_white_and_aligned():
    video = smooth_video(5, (6, 12, 16, 24, 3))
    options = {"latent_channels": 5, "spatial_stride": 8, "temporal_stride": 4}
    groups = patches_of(video, 4)
    images = groups[:, -192:]

    def codes(weights):
        encoder = weights["linear_encoder"]
        image = images @ encoder["image_kernel"] + encoder["image_bias"]
        return image, groups @ encoder["group_kernel"] + encoder["group_bias"]

    image, group = codes(pca_linear_path(video, **options))
    close(np.cov(image.T, bias=True), np.eye(5), 1e-3)
    close(np.cov(group.T, bias=True), np.eye(5), 1e-3)
    _, unaligned = codes(pca_linear_path(video, **options, align=False))
    assert np.mean((group - image) ** 2) < 0.5 * np.mean((unaligned - image) ** 2)


def test_pca_input_checks():
    video = smooth_video(3)
    options = {"latent_channels": 6, "spatial_stride": 8, "temporal_stride": 4}
    bytes_ = np.round((video + 1) * 127.5).astype(np.uint8)
    a = pca_linear_path(bytes_, **options, power=0.0, align=False)["linear_decoder"]
    b = pca_linear_path(bytes_ / np.float32(127.5) - 1, **options, power=0.0, align=False)
    close(a["image_bias"], b["linear_decoder"]["image_bias"])
    with pytest.raises(ValueError, match="at least 4"):
        pca_linear_path(video[:, :3], **options)
    with pytest.raises(ValueError, match="16x20"):
        pca_linear_path(video[:, :, :, :20], **options)
    with pytest.raises(ValueError, match="latent_channels"):
        pca_linear_path(video, **{**options, "latent_channels": 193})
    with pytest.raises(ValueError, match="linear_path"):
        with_linear_path({"encoder": {}}, pca_linear_path(video, **options))


def test_pca_weights_keep_logical_names():
    made = abstract_params(VideoVAE(**SMALL))
    weights = pca_linear_path(
        smooth_video(3), latent_channels=6, spatial_stride=8, temporal_stride=4
    )
    filled = with_linear_path(made, weights)
    box = filled["linear_encoder"]["group_kernel"]
    assert box.names == (None, "conv_out")
    np.testing.assert_array_equal(box.unbox(), weights["linear_encoder"]["group_kernel"])


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
            z = video_vae.sample_posterior(jax.random.key(1), mean, logvar)
            video = vae.apply({"params": params}, z, method="decode")
            return jnp.mean((video - clip) ** 2) + video_vae.kl_divergence(mean, logvar).mean()

        return jax.grad(loss)(params)

    params = jax.tree.map(lambda p, g: p - 0.01 * g, params, gradient(params))
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(params)):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, jax.tree_util.keystr(path)


# ---- plain functions


@pytest.mark.parametrize("past", [False, True])
@pytest.mark.parametrize("impl", ["direct", "frames"])
@pytest.mark.parametrize("frames", [1, 4])
def test_causal_conv3d_is_a_sum_over_taps(frames, impl, past):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, frames, 4, 5, 3)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 3, 3, 2)).astype(np.float32)
    before = rng.normal(size=(2, 2, 4, 5, 3)).astype(np.float32) * past
    padded = np.pad(np.concatenate([before, x], 1), ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
    expected = sum(
        padded[:, a : a + frames, b : b + 4, c : c + 5] @ kernel[a, b, c]
        for a in range(3)
        for b in range(3)
        for c in range(3)
    )
    actual = layers.causal_conv3d(
        jnp.asarray(x), jnp.asarray(kernel), past=jnp.asarray(before) if past else None, impl=impl
    )
    close(actual, expected, 1e-4)


def test_upsample_conv_is_repeat_then_convolve():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 3, 4, 5, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 3, 2)), jnp.float32)
    bias = jnp.asarray([1.0, -2.0])
    doubled = jnp.repeat(jnp.repeat(x, 2, axis=-3), 2, axis=-2)
    expected = layers.conv2d(doubled, kernel, bias)
    close(layers.upsample_conv2d(x, kernel, bias), expected, 1e-5)


def test_rms_norm_of_zero_has_a_gradient():
    grad = jax.grad(lambda x: layers.rms_norm(x, jnp.ones(3)).sum())(jnp.zeros((2, 3)))
    assert np.isfinite(grad).all()
    x = np.random.default_rng(0).normal(size=(4, 3))
    expected = x / np.linalg.norm(x, axis=-1, keepdims=True) * 3**0.5 * 2
    close(layers.rms_norm(jnp.asarray(x, jnp.float32), jnp.full(3, 2.0)), expected)


def regroup(x, out, time, space):
    """average_down, one output value at a time, from its definition."""
    b, t, h, w, _ = x.shape
    result = np.zeros((b, t // time, h // space, w // space, out))
    for index in np.ndindex(*result.shape[:4]):
        n, i, j, k = index
        block = x[n, i * time :, j * space :, k * space :][:time, :space, :space]
        values = np.moveaxis(block, -1, 0).ravel()
        if values.size >= out:
            result[index] = values.reshape(out, -1).mean(-1)
        else:
            result[index] = np.repeat(values, out // values.size)
    return result


@pytest.mark.parametrize("out,time,space", [(4, 2, 2), (8, 1, 2), (16, 2, 2), (8, 1, 1), (2, 1, 1)])
def test_average_down(out, time, space):
    x = np.random.default_rng(0).normal(size=(1, 4, 4, 2, 4)).astype(np.float32)
    close(video_vae.average_down(jnp.asarray(x), out, time, space), regroup(x, out, time, space))


def test_average_down_refuses_what_does_not_divide():
    with pytest.raises(ValueError, match="regrouped"):
        video_vae.average_down(jnp.zeros((1, 2, 2, 2, 4)), 6, 1, 1)
    with pytest.raises(ValueError, match="spread"):
        video_vae.duplicate_up(jnp.zeros((1, 2, 2, 2, 3)), 4, 1, 2, True)


@pytest.mark.parametrize("out,time,space", [(4, 2, 2), (1, 1, 2), (2, 1, 2)])
def test_duplicate_up(out, time, space):
    x = np.random.default_rng(0).normal(size=(1, 2, 2, 3, 4)).astype(np.float32)
    actual = video_vae.duplicate_up(jnp.asarray(x), out, time, space, False)
    expected = np.zeros((1, 2 * time, 2 * space, 3 * space, out), np.float32)
    for index in np.ndindex(*expected.shape):
        _, t, i, j, c = index
        value = ((c * time + t % time) * space + i % space) * space + j % space
        repeats = out * time * space**2 // 4
        expected[index] = x[0, t // time, i // space, j // space, value // repeats]
    close(actual, expected, 0)
    first = video_vae.duplicate_up(jnp.asarray(x), out, time, space, True)
    close(first, expected[:, time - 1 :], 0)


def test_posterior_and_kl():
    mean, logvar = jnp.full((200_000,), 0.7), jnp.full((200_000,), -1.0)
    z = video_vae.sample_posterior(jax.random.key(0), mean, logvar)
    assert abs(float(z.mean()) - 0.7) < 0.01
    assert abs(float(z.var()) - np.exp(-1.0)) < 0.01
    # Monte Carlo estimate of E[log q - log p].
    log_q = -0.5 * ((z - mean) ** 2 / jnp.exp(logvar) + logvar)
    estimate = float((log_q + 0.5 * z**2).mean())
    assert abs(float(video_vae.kl_divergence(mean, logvar)[0]) - estimate) < 0.01


def test_stats_round_trip():
    x = jnp.asarray(np.random.default_rng(0).normal(2.0, [0.1, 1.0, 5.0], (400, 3)), jnp.float32)
    stats = video_vae.measure_stats(x)
    normal = normalise(x, stats)
    close(normal.mean(0), np.zeros(3), 1e-4)
    close(normal.std(0), np.ones(3), 1e-4)
    close(denormalise(normal, stats), x, 1e-4)
    shared = normalise(x, video_vae.measure_stats(x, per_channel=False))
    close(jnp.mean(shared.var(0)), 1.0, 1e-4)
    assert float(shared.std(0)[2] / shared.std(0)[0]) > 40
    assert isinstance(stats, LatentStats)
