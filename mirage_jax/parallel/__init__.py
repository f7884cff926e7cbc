"""Where arrays live: the device mesh and the table from logical axis names to mesh axes."""

from mirage_jax.parallel.mesh import AXES, BATCH_AXES, batch_shards, make_mesh
from mirage_jax.parallel.rules import (
    PRESETS,
    batch_sharding,
    placed,
    preset,
    replicated,
    shardings,
    unboxed,
    unsharded_share,
)

__all__ = [
    "AXES",
    "BATCH_AXES",
    "PRESETS",
    "batch_sharding",
    "batch_shards",
    "make_mesh",
    "placed",
    "preset",
    "replicated",
    "shardings",
    "unboxed",
    "unsharded_share",
]
