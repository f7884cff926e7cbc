"""The pose-keyed latent memory: `create`, `write`, `read`; retrieval; what moves; the RGB
cloud baseline."""

from mirage_jax.memory import (
    edit,
    eviction,
    frustum_voxels,
    fusion,
    movers,
    regions,
    released,
    retrieval,
    rgb_cloud,
    sharded,
    tiles,
)
from mirage_jax.memory.bank import LatentMemory, WriteReport, create, nbytes, write
from mirage_jax.memory.dispatch import read
from mirage_jax.memory.pooling import pool_depth, pool_static
from mirage_jax.memory.readout import ReadOut, splat
from mirage_jax.memory.retrieval import Keyframes, retrieve, shared_view

__all__ = [
    "Keyframes",
    "LatentMemory",
    "ReadOut",
    "WriteReport",
    "create",
    "edit",
    "eviction",
    "frustum_voxels",
    "fusion",
    "movers",
    "nbytes",
    "pool_depth",
    "pool_static",
    "read",
    "regions",
    "released",
    "retrieval",
    "retrieve",
    "rgb_cloud",
    "sharded",
    "shared_view",
    "splat",
    "tiles",
    "write",
]
