import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import tiny_world
from mirage_jax.nn.video_vae import VideoVAE
from mirage_jax.training.vae_task import VAETask, with_noise

KEY = jax.random.key(0)
FRAMES = 5


class Identity(tiny_world.stand_in(VideoVAE)):
    """Stands for a VAE: latents are the frames, off by `error` when decoded."""

    def __init__(self, error=0.0, logvar=0.0):
        self.error, self.logvar = error, logvar

    def apply(self, variables, x, method):
        if method == "encode":
            return x, jnp.full_like(x, self.logvar)
        return x + self.error


def loss_of(vae, train=False, **options):
    task = VAETask(vae=vae, frames=FRAMES, size=8, **{"kl_weight": 0.0, **options})
    loss, metrics = task.loss(None, {"video": VIDEO}, KEY, train=train)
    return float(loss), {name: float(value) for name, value in metrics.items()}


# Mid-range, so that an error of .1 is not clipped away.
VIDEO = np.random.default_rng(0).integers(60, 190, (2, FRAMES, 8, 8, 3), np.uint8)


def test_a_constant_error_is_its_square_plus_a_share_of_itself():
    loss, metrics = loss_of(Identity(0.1), l1_weight=0.05)
    assert loss == pytest.approx(0.1**2 + 0.05 * 0.1, rel=1e-4)
    # 0.1 of a range of 2 is 1/20: 20 log10(20) dB.
    assert metrics["psnr"] == pytest.approx(20 * np.log10(20), rel=1e-4)


@pytest.mark.parametrize("weight", [1.0, 4.0])
def test_the_first_frame_counts_as_much_as_asked(weight):
    error = jnp.zeros((1, FRAMES, 1, 1, 1)).at[:, 0].set(0.2)
    loss, _ = loss_of(Identity(error), l1_weight=0.0, first_frame_weight=weight)
    assert loss == pytest.approx(0.04 * weight / (weight + FRAMES - 1), rel=1e-4)


def test_kl_is_that_of_a_gaussian_to_the_unit_normal():
    loss, metrics = loss_of(Identity(logvar=-2.0), kl_weight=0.5)
    values = VIDEO / 127.5 - 1
    expected = 0.5 * np.mean(values**2 + np.exp(-2) - 1 + 2)
    assert metrics["kl"] == pytest.approx(expected, rel=1e-4)
    assert loss == pytest.approx(0.5 * expected, rel=1e-4)


def test_latents_are_drawn_in_training_only():
    deviation = 0.05
    spread = Identity(logvar=2 * np.log(deviation))
    assert loss_of(spread)[0] == pytest.approx(0, abs=1e-10)
    loss, _ = loss_of(spread, train=True, l1_weight=0.0, first_frame_weight=1.0)
    assert loss == pytest.approx(deviation**2, rel=0.1)


def test_the_sheet_shows_frames_above_their_reconstructions():
    traced = []

    class Halves(Identity):
        def apply(self, variables, x, method=None):
            traced.append(x.shape)
            return 0.5 * x

    black = np.zeros((2, FRAMES, 8, 8, 3), np.uint8)
    task = VAETask(vae=Halves(), frames=FRAMES, size=8, sheet_video=black)
    sheet = task.samples({}, 10).sheet
    task.samples({}, 20)
    assert len(traced) == 1
    assert sheet.dtype == np.uint8 and sheet.ndim == 3
    # Half of -1 is a quarter of the way up: 0.25 * 255 = 63.75. Enlarged to 96 pixels.
    panels = 2 * FRAMES * 96 * 96
    assert (sheet == 64).all(-1).sum() == panels and (sheet == 0).all(-1).sum() == panels
    assert VAETask(vae=Halves(), frames=FRAMES, size=8).samples({}, 10) is None


def test_noise_of_latents_is_uniform_in_their_scale():
    task_vae = Identity(logvar=-60.0)
    assert loss_of(task_vae, latent_noise=0.4)[0] == 0  # not where nothing is trained
    loss, _ = loss_of(task_vae, train=True, l1_weight=0.0, latent_noise=0.4)
    assert 0 < loss < 0.4**2 * np.mean((VIDEO / 127.5 - 1) ** 2) * 1.2

    latents = 3.0 * jax.random.normal(jax.random.key(0), (4000, 1, 4, 4, 2))
    added = np.asarray(with_noise(jax.random.key(1), latents, 0.5) - latents)
    # Of a standard deviation that is uniform from 0 to 1.5 the mean is .75, the mean square .75.
    deviation = added.std(axis=(1, 2, 3, 4))
    assert deviation.mean() == pytest.approx(0.75, rel=0.05)
    assert np.square(added).mean() == pytest.approx(0.75, rel=0.05)
    assert deviation.max() < 3 and deviation.min() < 0.1
