"""Worlds: the model that extends them, the rollout along a camera path, and their files."""

from mirage_jax.world.controls import Controls
from mirage_jax.world.loading import load
from mirage_jax.world.model import WorldModel
from mirage_jax.world.rollout import Chunk, DepthEstimator, rollout
from mirage_jax.world.sampling import sample_chunk
from mirage_jax.world.session import Session, SessionOptions, Step
from mirage_jax.world.state import World, check_world
from mirage_jax.world.timeline import Timeline, TimelineOptions
from mirage_jax.world.world_file import load_world, save_world

__all__ = [
    "Chunk",
    "Controls",
    "DepthEstimator",
    "Session",
    "SessionOptions",
    "Step",
    "Timeline",
    "TimelineOptions",
    "World",
    "WorldModel",
    "check_world",
    "load",
    "load_world",
    "rollout",
    "sample_chunk",
    "save_world",
]
