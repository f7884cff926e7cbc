"""The linear path of the video VAE, started from principal components of patches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.nn.patch_pca import pca_linear_path, with_linear_path
from mirage_jax.nn.video_vae import VideoVAE

VAE = VideoVAE(base_width=4, decoder_width=8, latent_channels=6, blocks=1)


def close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


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
    """Parameters of a new VAE, and its two directions compiled."""
    init = jax.jit(lambda key: VAE.init(key, jnp.zeros((1, 1, 16, 16, 3))))
    params = init(jax.random.key(0, impl="rbg"))["params"]  # whose draws compile fast
    return params, *(jax.jit(functools.partial(VAE.apply, method=m)) for m in ("encode", "decode"))


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
    params, encode, decode = new
    params = {"params": with_linear_path(params, weights)}
    test = smooth_video(4, (1, 9, 16, 24, 3))
    mean, logvar = encode(params, jnp.asarray(test))
    close(logvar, np.full(logvar.shape, VAE.initial_logvar))
    actual = np.asarray(decode(params, mean))

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
    made = jax.eval_shape(VAE.init, jax.random.key(0), jnp.zeros((1, 1, 16, 16, 3)))["params"]
    weights = pca_linear_path(
        smooth_video(3), latent_channels=6, spatial_stride=8, temporal_stride=4
    )
    filled = with_linear_path(made, weights)
    box = filled["linear_encoder"]["group_kernel"]
    assert box.names == (None, "conv_out")
    np.testing.assert_array_equal(box.unbox(), weights["linear_encoder"]["group_kernel"])
