"""Where arrays live: the device mesh and the table from logical axis names to mesh axes."""

from mirage_jax.parallel.mesh import (
    AXES,
    BATCH_AXES,
    CONTEXT,
    batch_axes,
    batch_shards,
    make_mesh,
    map_batch,
)
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
    "CONTEXT",
    "PRESETS",
    "batch_axes",
    "batch_sharding",
    "batch_shards",
    "make_mesh",
    "map_batch",
    "placed",
    "preset",
    "replicated",
    "shardings",
    "unboxed",
    "unsharded_share",
]
