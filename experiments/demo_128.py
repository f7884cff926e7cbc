"""The weights that ship: the quickstart's system at 128x128 pictures, trained for longer.

mirage record   --config=experiments/demo_128.py --workdir=runs/demo_128
mirage train    --config=experiments/demo_128.py --workdir=runs/demo_128
mirage evaluate --config=experiments/demo_128.py --workdir=runs/demo_128

Measured on two CPU cores that other programs used as well: 6 minutes for the latents, 14 for the
head, 25 for the denoiser, and half an hour for the clips; 3 GB of them. The numbers are in
the weights' own README.md (mirage_jax/data/demo).
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
    c.record.train_clips.labmaze_bodies = 480

    # Principal components of patches: 32 channels end at 26.4 dB, 64 at 28.1, 96 at 29.0. A network
    # beside them, trained for 1,200 steps, added .03 dB at 64, at a hundred times the time.
    c.vae.latent_channels = 96
    c.vae.decoder_width = 4
    c.vae_training.steps = 0

    c.memory.bodies = False  # --bodies keeps them, at a third more time where somebody walks

    c.denoiser.width = 240
    c.denoiser.mlp_width = 960
    c.denoiser_training.steps = 700
    c.denoiser_training.batch_size = 8
    c.denoiser_training.shift = 3.0  # most noise levels near that of the single sampling step
    c.denoiser_training.pose_noise = 0.003  # poses of a rollout are exact
    c.sampling.steps = 1  # .25 dB and .04 to .06 of SSIM over two; more steps draw noise
    c.memory.capacity = 8192  # elements; a read takes as long as there are slots
    c.save_every = 100
    return c
