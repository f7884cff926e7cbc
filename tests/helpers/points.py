"""Memories of a few elements whose numbers float32 handles without rounding."""

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from mirage_jax import memory

GRID = (3, 4)
SIZE = (24, 32)
SLOTS = 12

# Quarter steps put points on borders; a depth of 0 or below is behind the camera; few values tie.
coordinate = st.integers(-12, 12).map(lambda i: i / 4)
point = st.tuples(coordinate, coordinate, st.sampled_from([-2.0, 0.0, 0.5, 1.0, 2.0, 4.0]))


def bank(xyz, valid=None, tokens=None, origin=None, time=None, channels=2):
    """A memory with the given elements in its first slots."""
    xyz = np.asarray(xyz, np.float32).reshape(-1, 3)
    count, rng = len(xyz), np.random.default_rng(0)
    slots = max(SLOTS, count)

    def fill(values, shape, dtype=np.float32):
        full = np.zeros((slots, *shape), dtype)
        full[:count] = values
        return jnp.asarray(full)

    return memory.create(slots, channels).replace(
        xyz=fill(xyz, (3,)),
        tokens=fill(rng.normal(size=(count, channels)) if tokens is None else tokens, (channels,)),
        valid=fill(np.ones(count, bool) if valid is None else valid, (), bool),
        time=fill(np.arange(count) if time is None else time, ()),
        origin=fill(np.zeros((count, 3)) if origin is None else origin, (3,)),
        count=jnp.int32(count),
    )
