"""Worlds: the model that extends them, the rollout along a camera path, and their files."""

from mirage_jax.rollout import Chunk, Look, chunk_bounds, chunks_of_path, rollout
from mirage_jax.sampling import sample_chunk
from mirage_jax.world_file import WORLD_FORMAT, load_world, save_world
from mirage_jax.world_model import World, WorldModel, check_world, first_picture

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
