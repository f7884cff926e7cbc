"""Worlds: the model that extends them, the rollout along a camera path, and their files."""

from mirage_jax.world.model import World, WorldModel, check_world, first_picture
from mirage_jax.world.rollout import Chunk, Look, chunk_bounds, chunks_of_path, rollout
from mirage_jax.world.sampling import sample_chunk
from mirage_jax.world.world_file import WORLD_FORMAT, load_world, save_world

__all__ = [
    "WORLD_FORMAT",
    "Chunk",
    "Look",
    "World",
    "WorldModel",
    "check_world",
    "chunk_bounds",
    "chunks_of_path",
    "first_picture",
    "load_world",
    "rollout",
    "sample_chunk",
    "save_world",
]
