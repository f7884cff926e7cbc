"""Seconds in which the video VAE of an experiment encodes one chunk, random weights, once.

    python docs/comparisons/encode_video.py experiments/wan22_5b_memory.py
    python docs/comparisons/encode_video.py experiments/wan22_5b_memory.py --size=176,320 --frames=5

Frames are encoded latent by latent, as under a preset. What the weights are does not change the
time. Prints what the program needs beside its arguments, too.
"""

from __future__ import annotations

import argparse
import time

import jax
import jax.numpy as jnp

from mirage_jax.cli.helpers import build
from mirage_jax.cli.helpers.common import load_config
from mirage_jax.cli.helpers.compilation import use_own_kernels
from mirage_jax.world import latent_encoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("--size", default="", help="HEIGHT,WIDTH in pixels; the experiment's")
    parser.add_argument("--frames", type=int, default=0, help="1 + 4 n; the experiment's chunk")
    flags = parser.parse_args()
    use_own_kernels()
    config = load_config(flags.config)
    height, width = map(int, flags.size.split(",")) if flags.size else build.picture_size(config)
    frames = flags.frames or config.chunk_frames
    encoder = latent_encoder.untrained(build.vae(config)).replace(streamed=True)
    video = jnp.zeros((1, frames, height, width, 3), jnp.float32)
    encode = jax.jit(lambda pictures: encoder.encode(pictures)).lower(video).compile()
    gibibytes = encode.memory_analysis().temp_size_in_bytes / 2**30
    began = time.perf_counter()
    jax.block_until_ready(encode(video))
    seconds = time.perf_counter() - began
    print(f"{frames} frames of {height}x{width}: {seconds:.1f} s, {gibibytes:.1f} GiB beside them")


if __name__ == "__main__":
    main()
