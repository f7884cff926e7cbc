"""The network that estimates the depth of footage without any, as a config names it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from mirage_jax.world import depth_estimators


def load(config: ConfigDict) -> Callable[[np.ndarray], np.ndarray] | None:
    """What estimates the depth of clips that have none; None where the config names nothing.

    Raises:
      FileNotFoundError, ValueError: if its weights cannot be read.
    """
    if not _weights(config):
        return None
    path = Path(config.data.depth_weights)
    return depth_estimators.depth_anything_network(path, config.data.depth_range)


def identity(config: ConfigDict) -> str:
    """Tells caches apart by the network of `load`; "" for none."""
    path = Path(_weights(config))
    if not _weights(config) or not path.exists():
        return _weights(config)
    digest = hashlib.sha256(str(config.data.depth_range).encode())
    for file in sorted(path.glob("*.safetensors")) if path.is_dir() else [path]:
        with open(file, "rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def _weights(config: ConfigDict) -> str:
    return config.data.depth_weights if "data" in config else ""
