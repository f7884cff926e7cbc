import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import tiny_world
from helpers.tiny_world import CHANNELS, GRID
from mirage_jax import trajectories
from mirage_jax.nn.geometry_head import Geometry, GeometryHead
from mirage_jax.training import geometry_task
from mirage_jax.training.geometry_task import GeometryTask
from mirage_jax.world.latent_clip import FIELDS

SKY = 200.0
POSES = trajectories.make("look_away", 17)
KEY = jax.random.key(0)


class Oracle(tiny_world.stand_in(GeometryHead)):
    """Stands for the head: answers with the truth, changed as told."""

    def __init__(self, **changes):
        self.changes = changes

    def apply(self, variables, latents, image):
        self.latents, self.image = latents, image
        return Geometry(**variables["params"] | self.changes)


def batch(count=2):
    clips = tiny_world.latent_clips(count, POSES)  # 2 chunks of 3 latents, 5 keyframes
    clips.depth[0, 1, 0, 1] = SKY
    clips.depth[1, 2, 1, 2] = 0  # unknown
    clips.static[1, 3, 0, 0] = 0
    return {name: jnp.asarray(getattr(clips, name)) for name in FIELDS}


def truth(fields):
    """What a perfect head says, laid out by hand: [clips * chunks, latents, ...]."""
    keyframes = [[0, 1, 2], [2, 3, 4]]
    rows = [(clip, chunk) for clip in range(2) for chunk in keyframes]

    def pick(name):
        return jnp.stack([fields[name][clip][jnp.array(chunk)] for clip, chunk in rows])

    depth, static = pick("depth"), pick("static")
    return {
        "log_depth": jnp.log(jnp.maximum(depth, 1e-3)),
        "log_scale": jnp.zeros_like(depth),
        "mover_logit": jnp.where(static > 0.5, -30.0, 30.0),
        "sky_logit": jnp.where(depth >= SKY, 30.0, -30.0),
        "image_tokens": pick("tokens"),
    }


def metrics(fields, **changes):
    head = Oracle(**changes)
    task = GeometryTask(head, (*GRID, CHANNELS), SKY)
    loss, parts = task.loss(truth(fields), fields, KEY, train=True)
    return float(loss), {name: float(value) for name, value in parts.items()}, head


def test_chunks_are_laid_out_clip_by_clip():
    fields = batch()
    _, _, head = metrics(fields)
    np.testing.assert_array_equal(head.latents[1], fields["chunks"][0, 1])
    np.testing.assert_array_equal(head.latents[2], fields["chunks"][1, 0])
    np.testing.assert_array_equal(head.image, [[True, False, False]] * 4)


def test_neighbouring_chunks_share_a_keyframe():
    keyframes = jnp.arange(2)[:, None] * 100 + jnp.arange(9)
    expected = [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8], [100, 101, 102, 103, 104]]
    np.testing.assert_array_equal(geometry_task.per_chunk(keyframes, 2, 5)[:3], expected)
    np.testing.assert_array_equal(geometry_task.per_chunk(keyframes, 4, 3)[3], [6, 7, 8])
    # Of clips with latents of their last chunk alone.
    last = geometry_task.per_chunk(keyframes, 1, 3)
    np.testing.assert_array_equal(last, [[6, 7, 8], [106, 107, 108]])


def test_the_truth_costs_nothing():
    loss, parts, _ = metrics(batch())
    assert parts["abs_rel"] == pytest.approx(0, abs=1e-6)
    assert parts["tokens"] == 0
    assert parts["sky"] == pytest.approx(0, abs=1e-6)
    assert parts["mover"] == pytest.approx(0, abs=1e-6)
    # A Laplace density of scale 1 at its centre: log 2.
    assert parts["depth"] == pytest.approx(np.log(2), rel=1e-5)
    assert loss == pytest.approx(sum(v for k, v in parts.items() if k != "abs_rel"), rel=1e-6)


def test_sky_and_unknown_cells_have_no_depth_and_unknown_ones_no_sky():
    fields = batch()
    right = truth(fields)
    # Clip 0, chunk 0, latent 1 and clip 1, where keyframe 2 ends chunk 0 and begins chunk 1.
    nowhere = [(0, 1, 0, 1), (2, 2, 1, 2), (3, 0, 1, 2)]
    depth = right["log_depth"]
    sky = right["sky_logit"]
    for place in nowhere:
        depth = depth.at[place].set(5.0)
    for place in nowhere[1:]:
        sky = sky.at[place].set(30.0)
    assert metrics(fields, log_depth=depth, sky_logit=sky)[:2] == metrics(fields)[:2]
    _, parts, _ = metrics(fields, sky_logit=right["sky_logit"].at[0, 1, 0, 1].set(-30.0))
    # One of 4 * 3 * 6 cells less the two unknown ones is wrong by 30 nats.
    assert parts["sky"] == pytest.approx(30 / 70, rel=1e-5)


def test_masks_of_finer_cells_are_learnt_from_where_there_are_any():
    fields = batch()
    finer = np.zeros((2, 5, 2 * GRID[0], 2 * GRID[1]), np.float32)
    finer[1, 3, 1, 0] = 1.0  # of the cell that `static` says moves, one part of four
    logits = jnp.where(jnp.asarray(finer) > 0, 30.0, -30.0)
    rows = [(clip, chunk) for clip in range(2) for chunk in ([0, 1, 2], [2, 3, 4])]
    found = jnp.stack([logits[clip][jnp.array(chunk)] for clip, chunk in rows])
    _, parts, _ = metrics(fields | {"moving": jnp.asarray(finer)}, mover_logit=found)
    assert parts["mover"] == pytest.approx(0, abs=1e-6)
    _, parts, _ = metrics(fields, mover_logit=found)  # all of the cell would have to be
    assert parts["mover"] == pytest.approx(30 * 3 / (12 * 6 * 4), rel=1e-5)


def test_known_depth_and_movers_count():
    fields = batch()
    right = truth(fields)
    twice = right["log_depth"].at[0, 0, 0, 0].add(np.log(2))
    _, parts, _ = metrics(fields, log_depth=twice)
    cells = 4 * 3 * 6 - 3  # less sky and unknown
    assert parts["abs_rel"] == pytest.approx(1 / cells, rel=1e-4)
    assert parts["depth"] == pytest.approx(np.log(2) + np.log(2) / cells, rel=1e-4)
    # Keyframe 3 of clip 1: latent 1 of its second chunk.
    still = right["mover_logit"].at[3, 1, 0, 0].set(-30.0)
    _, parts, _ = metrics(fields, mover_logit=still)
    assert parts["mover"] == pytest.approx(30 / 72, rel=1e-5)


def test_image_tokens_count_except_where_they_are_given():
    fields = batch()
    tokens = truth(fields)["image_tokens"]
    _, parts, _ = metrics(fields, image_tokens=tokens.at[:, 0].add(9.0))
    assert parts["tokens"] == 0
    _, parts, _ = metrics(fields, image_tokens=tokens.at[:, 1:].add(3.0))
    assert parts["tokens"] == pytest.approx(9.0, rel=1e-4)


def test_a_new_head_fits_the_latents():
    task = GeometryTask(GeometryHead(width=8, layers=1), (*GRID, CHANNELS), SKY)
    params = jax.eval_shape(task.init, KEY)
    loss, parts = jax.eval_shape(lambda p: task.loss(p, batch(), KEY, train=True), params)
    assert loss.shape == ()
    assert set(parts) == {"depth", "sky", "mover", "tokens", "abs_rel"}
