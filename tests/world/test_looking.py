"""Which cells are stored as what stands still, by how much of them moves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import tiny_world
from helpers.tiny_world import CHANNELS, GRID, SIZE
from mirage_jax import memory
from mirage_jax.memory.movers import MoverOptions
from mirage_jax.world.looking import look

COVERED = np.array([[0, 6, 7], [32, 33, 64]])  # of 64 pixels of each cell
KEPT = [(None, 31), (MoverOptions(), 6), (MoverOptions(most_covered=0.0), 0)]


@pytest.mark.parametrize(("bodies", "most"), KEPT, ids=["none", "bodies", "bodies, strict"])
@pytest.mark.parametrize("told", [True, False], ids=["given", "by the head"])
def test_what_shows_of_bodies_is_not_stored_where_they_are_kept(monkeypatch, bodies, most, told):
    side = SIZE[0] // GRID[0]
    cells = np.arange(side * side).reshape(side, side) < COVERED[..., None, None]
    moves = cells.swapaxes(1, 2).reshape(SIZE)
    model, latents = tiny_world.world_model(movers=bodies), jnp.zeros((1, *GRID, CHANNELS))
    given = {"depth": jnp.ones((1, *SIZE)), "static": jnp.asarray(1.0 - moves)[None]}
    if not told:
        del given["static"]
        plain = type(model.head).apply

        def finds(self, *arguments, **named):
            found = plain(self, *arguments, **named)
            logit = jnp.asarray(np.where(moves, 3.0, -3.0), jnp.float32)
            return found.replace(mover_logit=logit[None, None])

        monkeypatch.setattr(type(model.head), "apply", finds)
    seen = look(model, latents, jnp.ones(1, bool), 1, **given)
    stored = np.asarray(memory.pool_static(seen.still, GRID))[0] > 0.5
    np.testing.assert_array_equal(stored, most >= COVERED)
    np.testing.assert_array_equal(seen.moving[0], moves)
    assert jax.tree.map(np.shape, seen.tokens) == (1, *GRID, CHANNELS)
