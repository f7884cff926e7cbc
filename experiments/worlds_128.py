"""The quickstart's system at 128x128 pictures and 33-frame chunks, sized for one GPU.

    mirage quickstart --config=experiments/worlds_128.py --workdir=runs/worlds_128

About 45M parameters in the denoiser, bfloat16 matrix products, float32 master weights. Expected
on one modern GPU (extrapolated from 64x64, not measured): under an hour, encoder 28 dB or more,
revisit PSNR 22-24 dB, 8 dB over no memory. `--config.tiny=true` runs the same code on a CPU.
"""

from pathlib import Path

from ml_collections import ConfigDict

from mirage_jax.cli.helpers.common import load_config


def get_config(_: str = "") -> ConfigDict:
    c = load_config(str(Path(__file__).with_name("quickstart.py")))
    c.name = "worlds_128"
    c.host_devices = 1

    c.record.size = 128
    c.record.frames = 65  # 33 that leave, 32 that come back
    c.record.train_clips.freedoom = 6000
    c.record.train_clips.labmaze = 3000
    c.record.train_clips.labmaze_bodies = 1500
    c.record.workers = 8
    c.chunk_frames = 33

    c.vae.base_width = 32
    c.vae.decoder_width = 48
    c.vae.latent_channels = 32
    c.vae.blocks = 2
    c.vae.attention = True
    c.vae_training.steps = 20_000
    c.vae_training.batch_size = 16
    c.vae_training.pixels = 128
    c.vae_training.learning_rate = 5e-4
    c.vae_training.warmup = 500

    c.geometry_training.steps = 4000
    c.geometry_training.batch_size = 32
    c.geometry_training.learning_rate = 2e-3

    c.denoiser.width = 512
    c.denoiser.depth = 10
    c.denoiser.heads = 4
    c.denoiser.mlp_width = 2048
    c.denoiser.branch_layers = (0, 4, 8)
    c.denoiser.dtype = "bfloat16"
    c.denoiser.scan = True
    c.denoiser_training.steps = 40_000
    c.denoiser_training.batch_size = 32
    c.denoiser_training.learning_rate = 4e-4
    c.denoiser_training.warmup = 1000
    c.denoiser_training.ema_decay = 0.9995
    c.denoiser_training.shift = 3.0
    c.sampling.steps = 10
    c.sampling.shift = 3.0
    c.memory.capacity = 65_536

    c.log_every = 100
    c.sample_every = 2000
    c.save_every = 2000

    tiny = dict(c.tiny_overrides)
    tiny |= {"record.frames": 33, "chunk_frames": 17, "host_devices": 2}
    tiny["denoiser.branch_layers"] = (0,)  # of two
    c.tiny_overrides = tuple(tiny.items())
    return c
