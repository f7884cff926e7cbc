"""Returns in closed loop, against one clip walked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import tiny_world
from helpers.tiny_world import CHUNK, SIZE
from mirage_jax import memory
from mirage_jax.evaluation import closed_loop, image_metrics
from mirage_jax.geometry import Camera
from mirage_jax.memory import movers
from mirage_jax.world import World, WorldModel
from mirage_jax.world.latent_encoder import LatentEncoder, to_uint8

FRAMES, CLIPS, SEED = 2 * CHUNK - 1, 3, 4


@pytest.fixture(scope="module")
def held_out():
    return tiny_world.held_out(CLIPS, FRAMES)


def by_hand(model, held_out, number, *, emptied):
    """PSNR of the new frames of the first two chunks of one clip."""
    path = [*range(FRAMES - 1), *range(FRAMES - 3, 0, -1)]
    poses, truth = held_out.cam2world[number], held_out.video[number]
    world = model.start(truth[0], Camera(held_out.clips.intrinsics[number], poses[0], SIZE))
    advance, decode = jax.jit(WorldModel.advance), jax.jit(LatentEncoder.decode)
    scores, batch = [], number - number % 2
    for chunk in range(2):
        frames = np.take(path, np.arange(CHUNK) + chunk * (CHUNK - 1), mode="wrap")
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(SEED), batch), chunk)
        key = jax.random.split(key, 2)[number % 2]
        if emptied:
            world = world.replace(bank=model.conditioner.create(world.bank.capacity))
        world, latents, _ = advance(model, world, poses[frames], key)
        made = to_uint8(decode(model.encoder, latents[None])[0])
        scores.append(image_metrics.psnr(made[1:], truth[frames[1:]]).mean())
    return scores


def test_batches_score_as_single_clips_do(held_out):
    model, steps = tiny_world.world_model(), []
    found = closed_loop.measure(
        model,
        held_out,
        marks=(1, 2),
        seed=SEED,
        batch_size=2,
        advance=lambda: steps.append(1),
    )
    assert found["clips"] == CLIPS and found["chunks"] == 2 and len(steps) == 2 * 2 * 2
    for name, emptied in (("psnr", False), ("psnr_emptied", True)):
        each = np.array([by_hand(model, held_out, n, emptied=emptied) for n in range(CLIPS)])
        for mark in (1, 2):
            scores = each[:, mark - 1]
            expected = {
                "mean": scores.mean(),
                "standard_error": scores.std(ddof=1) / np.sqrt(CLIPS),
            }
            assert found[name][str(mark)] == pytest.approx(expected, abs=2e-3)
    assert found["psnr"] != found["psnr_emptied"]


def test_the_table_has_a_row_for_each_memory():
    score = {"2": {"mean": 20.0, "standard_error": 0.5}}
    rows = closed_loop.table({"maze": {"psnr": score, "psnr_emptied": score}})
    assert rows == [
        ("world", "memory", "chunk 2"),
        ("maze", "kept", "20.00 +- 0.50"),
        ("maze", "emptied", "20.00 +- 0.50"),
    ]


def test_an_emptied_memory_forgets_bodies_too():
    """With the elements the table of those that move is cleared, before each chunk."""

    class Model(tiny_world.stand_in(WorldModel)):
        encoder = tiny_world.Plain()

        def advance(self, world, path, key):
            return world, jnp.zeros((2, 2, 2, 3)), None

    table = movers.create(3, np.float32([0, -1, 0]), movers.MoverOptions(slots=4))
    table = table.replace(status=jnp.full(4, movers.CONFIRMED))
    bank = memory.create(5, 3).replace(valid=jnp.ones(5, bool))
    world = World(bank, jnp.zeros((2, 2, 3)), jnp.eye(4), jnp.ones(4), jnp.int32(1), movers=table)
    worlds = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], world)
    path = jnp.tile(jnp.eye(4), (1, 5, 1, 1))
    for emptied in (False, True):
        _, left = closed_loop._walk_chunk(Model(), worlds, path, jax.random.key(0), emptied)
        assert np.asarray(left.bank.valid).all() == (not emptied) == left.bank.valid.any()
        known = np.asarray(left.movers.status) == movers.CONFIRMED
        assert known.all() == (not emptied) == known.any()
