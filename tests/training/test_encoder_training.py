"""The encoder as it starts: its linear path, fitted to clips."""

import jax
import numpy as np

from mirage_jax.nn.video_vae import VideoVAE
from mirage_jax.training import encoder_training
from mirage_jax.training.encoder_training import EncoderSettings, train_encoder
from mirage_jax.world.latent_encoder import LatentEncoder, to_model_range


class Stripes:
    """Clips of stripes, whose patches two numbers describe: where, and how bright."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        columns = np.sin(np.arange(16) * np.pi / 4 + rng.uniform(0, 6.28))
        return {"video": np.tile(np.uint8(128 + 100 * columns)[None, None, :, None], (5, 16, 1, 3))}


def test_an_encoder_without_training_is_its_linear_path(tmp_path, monkeypatch):
    monkeypatch.setattr(encoder_training.loading, "ClipSource", lambda *_, **__: Stripes())
    vae = VideoVAE(base_width=2, decoder_width=2, latent_channels=4, blocks=1, attention=False)
    settings = EncoderSettings(
        frames=5, pixels=16, kl_weight=0.0, pca_power=1.0, stats_per_channel=True
    )
    encoder = train_encoder(vae, [tmp_path], tmp_path / "run", settings, None)
    assert not (tmp_path / "run").exists()
    video = to_model_range(Stripes()[3]["video"])[None]
    latents = jax.jit(LatentEncoder.encode)(encoder, video)
    found = jax.jit(LatentEncoder.decode)(encoder, latents)
    np.testing.assert_allclose(found, video, atol=0.02)
    assert len(encoder.spread) == 4 and np.isfinite(encoder.spread).all()
