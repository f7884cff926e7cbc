"""The weights that ship: the quickstart's system at 128x128 pictures, trained for longer.

mirage record   --config=experiments/demo_128.py --workdir=runs/demo_128
mirage train    --config=experiments/demo_128.py --workdir=runs/demo_128
mirage evaluate --config=experiments/demo_128.py --workdir=runs/demo_128
"""

from pathlib import Path

from ml_collections import ConfigDict

from mirage_jax.cli.helpers.common import load_config


def get_config(_: str = "") -> ConfigDict:
    c = load_config(str(Path(__file__).with_name("quickstart.py")))
    c.name = "demo_128"

    c.record.size = 128
    c.record.train_clips.freedoom = 1600
    c.record.train_clips.labmaze = 1000

    c.vae.latent_channels = 64
    c.vae.decoder_width = 24
    c.vae_training.steps = 1200
    c.vae_training.batch_size = 4
    c.vae_training.pixels = 48
    c.vae_training.latent_noise = 0.4

    c.denoiser_training.steps = 1200
    c.denoiser_training.batch_size = 8
    c.save_every = 100

    c.memory.capacity = 16_384
    return c
