"""Video world models that remember: a 3-D memory of latent tokens, in JAX and Flax.

    import mirage_jax as mirage

    model = mirage.load("runs/quickstart")
    world = model.start(picture)
    for chunk in mirage.rollout(model, world, mirage.trajectories.look_away(frames=49)):
        show(chunk.video)

Names are imported when they are first used: `import mirage_jax` alone is quick and needs no device.
"""

import importlib
from typing import Any

_NAMES = {
    "Camera": "mirage_jax.geometry",
    "Chunk": "mirage_jax.world",
    "Controls": "mirage_jax.world",
    "Environment": "mirage_jax.world.environment",
    "Session": "mirage_jax.world",
    "SessionOptions": "mirage_jax.world",
    "VectorEnvironment": "mirage_jax.world.vector_environment",
    "World": "mirage_jax.world",
    "WorldModel": "mirage_jax.world",
    "load": "mirage_jax.world",
    "load_world": "mirage_jax.world",
    "rollout": "mirage_jax.world",
    "save_world": "mirage_jax.world",
}
_MODULES = ("geometry", "memory", "nn", "trajectories", "training", "world")

__all__ = [*_NAMES, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"mirage_jax.{name}")
    raise AttributeError(f"module 'mirage_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*(name for name in globals() if name.startswith("__")), *__all__])
