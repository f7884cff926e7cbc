"""The geometry head that some training histories are seen by (`predicted_histories`)."""

from __future__ import annotations

import jax
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from mirage_jax.cli.helpers import build
from mirage_jax.io.workdir import Workdir
from mirage_jax.world import loading
from mirage_jax.world.predicted_clip import HistoryHead


def trained(config: ConfigDict, workdir: Workdir, channels: int) -> HistoryHead:
    """The work directory's, of an encoder with so many channels.

    Raises:
      FileNotFoundError, ValueError: if there is none, or not of this encoder.
    """
    params, head = loading.load_geometry_head(workdir.model("geometry"), channels)
    return HistoryHead(params, head, config.sky_depth, config.sampling.reencode)


def untrained(config: ConfigDict) -> HistoryHead:
    """The config's with zeros for parameters, to trace programs where there are no weights."""
    head, channels = build.geometry_head(config), config.vae.latent_channels
    latents = jax.ShapeDtypeStruct((1, 2, 1, 1, channels), np.float32)
    image = jax.ShapeDtypeStruct((1, 2), np.bool_)
    made = jax.eval_shape(
        lambda *args: nn.unbox(head.init(jax.random.key(0), *args)), latents, image
    )
    # NumPy's: where programs are compiled for devices that are not there, JAX can make none.
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), made["params"])
    return HistoryHead(zeros, head, config.sky_depth, config.sampling.reencode)
