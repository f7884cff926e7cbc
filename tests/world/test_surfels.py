"""The conditioner that draws tokens as small pictures, and bodies over them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import tiny_world
from helpers.tiny_world import CHANNELS, CHUNK, GRID, INTRINSICS, SIZE, STRIDE
from mirage_jax import trajectories
from mirage_jax.geometry import Camera
from mirage_jax.memory import holes, movers
from mirage_jax.world.conditioners import Frames, Surfels
from mirage_jax.world.conditioners.base import View
from mirage_jax.world.latent_encoder import LatentEncoder

SURFELS = Surfels(CHANNELS, STRIDE)
ENCODER = tiny_world.encoder()
WITH_BODIES = dataclasses.replace(SURFELS, movers=True)
OPTIONS = movers.MoverOptions(slots=2, views=1, view_cells=2)
SPEED = 0.04  # metres to the right in a frame


def camera(poses):
    return Camera(np.tile(INTRINSICS, (len(poses), 1)), np.asarray(poses, np.float32), SIZE)


def wall(still=CHUNK, known=True):
    """A memory of one frame of a wall, what it is of, and a camera that stands still before it."""
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(1, *GRID, CHANNELS)).astype(np.float32)
    depth = np.full((1, *GRID), 2.0, np.float32)
    depth[:, :, 0] *= known
    poses = np.tile(np.eye(4), (still, 1, 1))
    bank = SURFELS.create(12)
    bank, _ = SURFELS.write(bank, Frames(tokens, depth, camera(poses[:1]), np.zeros(1)))
    return bank, tokens, camera(poses)


read = jax.jit(lambda bank, camera: SURFELS.read(bank, camera, encoder=ENCODER))


def test_before_a_wall_that_was_written_from_here_latents_are_those_of_a_still_video():
    bank, tokens, view = wall()
    pictures = ENCODER.decode_patches(tokens[0])
    picture = np.asarray(pictures).transpose(0, 2, 1, 3, 4).reshape(*SIZE, 3)
    expected = ENCODER.encode_patches(jnp.broadcast_to(picture, (1, CHUNK, *SIZE, 3)))[0]
    found = np.asarray(read(bank, view))
    np.testing.assert_allclose(found[..., :CHANNELS], expected, atol=1e-4)
    np.testing.assert_array_equal(found[..., CHANNELS : CHANNELS + 4], 1.0)
    np.testing.assert_allclose(found[..., CHANNELS + 4 :], 0.5, rtol=1e-6)


def test_patches_are_coded_by_the_linear_path_and_its_statistics():
    _, tokens, _ = wall()
    stats, params = ENCODER.stats, ENCODER.params
    raw = tokens[0, 0, 0] * stats.std + stats.mean
    linear = params["linear_decoder"]
    expected = (raw @ linear["image_kernel"] + linear["image_bias"]).reshape(STRIDE, STRIDE, 3)
    np.testing.assert_allclose(ENCODER.decode_patches(tokens[0, 0, 0]), expected, atol=1e-5)
    video = np.random.default_rng(1).normal(size=(1, CHUNK, *SIZE, 3)).astype(np.float32)
    linear = params["linear_encoder"]
    cell = video[0, 1:, 8:16, 16:24].reshape(-1)
    expected = (cell @ linear["group_kernel"] + linear["group_bias"] - stats.mean) / stats.std
    np.testing.assert_allclose(ENCODER.encode_patches(video)[0, 1, 1, 2], expected, atol=1e-4)


def test_where_nothing_is_stored_what_is_around_goes_on_and_is_said_to_be_unknown():
    """Of an empty picture all is zero."""
    bank, _, view = wall(known=False)
    found = np.asarray(read(bank, view))
    assert not found[:, :, 0, CHANNELS:].any() and found[:, :, 2, CHANNELS:].all()
    video, depth = SURFELS.draw(bank, View(view, encoder=ENCODER))
    filled = holes.fill(video, jnp.float32(depth > 0))
    expected = ENCODER.encode_patches(filled[None])[0]
    np.testing.assert_allclose(found[..., :CHANNELS], expected, atol=1e-5)
    assert np.abs(filled[:, :, :STRIDE]).min() > 0
    away = trajectories.make("pan_right", 2, angle=180)[-1:]
    assert not np.any(read(bank, camera(np.tile(away, (CHUNK, 1, 1)))))


def test_a_read_of_a_large_memory_is_the_same_and_decodes_what_is_in_view_alone():
    bank, _, view = wall()
    slots = 5000  # more than the blocks of the view
    more = jax.tree.map(
        lambda x: jnp.pad(x, ((0, slots - 12), *((0, 0),) * (x.ndim - 1))) if x.ndim else x, bank
    )
    np.testing.assert_array_equal(read(bank, view), read(more, view))
    program = read.lower(more, view).as_text()
    assert f"tensor<{slots}x{CHANNELS}x" in program  # or what follows could not fail
    assert f"tensor<{slots}x{STRIDE}x" not in program
    assert f"tensor<{slots}x1x" not in program


def test_what_cannot_be_drawn_is_refused():
    bank, tokens, view = wall()
    with pytest.raises(ValueError, match="encoder: found none, expected one whose linear path"):
        SURFELS.read(bank, view)
    plain = LatentEncoder(ENCODER.params, ENCODER.stats, ENCODER.vae.clone(linear_path=False))
    video = np.zeros((1, CHUNK, *SIZE, 3), np.float32)
    for code in (lambda: plain.decode_patches(tokens), lambda: plain.encode_patches(video)):
        with pytest.raises(ValueError, match="linear_path: found False, expected True"):
            code()


def a_body(metres, below=0.4):
    """A table with one body, .8 m wide and high, that goes to the right so far away, its foot so
    far below the camera."""
    table = movers.create(CHANNELS, np.array([0.0, -1.0, 0.0]), OPTIONS, floor=-below)
    tokens = np.random.default_rng(2).normal(size=(2, 2, CHANNELS)).astype(np.float32)
    rows = {
        "status": movers.CONFIRMED,
        "position": jnp.array([-0.1, below, metres]),
        "velocity": jnp.array([SPEED * OPTIONS.fps, 0.0, 0.0]),
        "extent": jnp.full(3, 0.8),
        "heading": jnp.array([1.0, 0.0, 0.0]),
        "view_valid": True,
        "view_tokens": tokens,
        "view_alpha": 1.0,
        "view_direction": jnp.array([0.0, 1.0, 0.0]),
        "view_size": 0.8,
    }
    changed = {name: getattr(table, name).at[0].set(value) for name, value in rows.items()}
    return table.replace(**changed), tokens


@jax.jit
def with_bodies(bank, camera, times, table):
    view = View(camera, times, ENCODER, table, OPTIONS)
    return WITH_BODIES.draw(bank, view), WITH_BODIES.read_view(bank, view)


def test_a_body_before_a_wall_is_drawn_at_the_pixels_where_it_is_by_then():
    bank, _, view = wall()
    table, tokens = a_body(1.0)
    times = np.arange(CHUNK, dtype=np.float32)
    (video, depth), context = with_bodies(bank, view, times, table)
    still, still_depth = SURFELS.draw(bank, View(view, encoder=ENCODER))
    cells = np.asarray(ENCODER.decode_patches(tokens))
    picture = cells.transpose(0, 2, 1, 3, 4).reshape(2 * STRIDE, 2 * STRIDE, 3)
    expected, near = np.array(still), np.array(still_depth)
    for frame, y, x in np.ndindex(CHUNK, *SIZE):
        right = (x + 0.5 - INTRINSICS[2]) / INTRINSICS[0] - (-0.1 + SPEED * frame)
        down = (y + 0.5 - INTRINSICS[3]) / INTRINSICS[1]
        column, row = right / 0.8 + 0.5, (down + 0.4) / 0.8
        if 0 <= column < 1 and 0 <= row < 1:
            expected[frame, y, x] = picture[int(row * 16), int(column * 16)]
            near[frame, y, x] = 1.0
    # It is turned to the camera, of which the rows by hand know nothing: a little narrower.
    same = np.isclose(video, expected, atol=1e-4).all(-1)
    assert 0.1 < (near == 1).mean() < 0.5 and same.mean() > 0.9
    np.testing.assert_allclose(np.median(np.asarray(depth)[near == 1]), 1.0, atol=0.1)
    coded = ENCODER.encode_patches(video[None])[0]
    np.testing.assert_allclose(context[..., :CHANNELS], coded, atol=1e-4)
    assert context.shape[-1] == WITH_BODIES.channels == SURFELS.channels


def test_a_body_behind_a_wall_is_not_drawn():
    bank, _, view = wall()
    times = np.arange(CHUNK, dtype=np.float32)
    table = a_body(3.0, below=1.3)[0]
    (_, alone), _ = with_bodies(SURFELS.create(12), view, times, table)
    assert (np.asarray(alone) > 2.5).mean() > 0.02  # it is in view
    (_, depth), context = with_bodies(bank, view, times, table)
    np.testing.assert_allclose(depth, 2.0, rtol=1e-6)
    np.testing.assert_allclose(context, read(bank, view), atol=1e-5)


def test_bodies_that_were_read_before_are_drawn_as_those_that_are_read_now():
    """So that training on encoded clips sees what a rollout sees."""
    bank, _, view = wall()
    times, table = jnp.arange(CHUNK, dtype=jnp.float32), a_body(1.0)[0]
    bodies = WITH_BODIES.read_bodies(bank, View(view, times, ENCODER, table, OPTIONS))
    assert bodies.shape == (CHUNK, *SIZE, 4)
    given = WITH_BODIES.read(bank, view, encoder=ENCODER, bodies=bodies)
    np.testing.assert_allclose(given, with_bodies(bank, view, times, table)[1], atol=1e-5)
    assert np.abs(given - read(bank, view)).max() > 0.1
    none = WITH_BODIES.read(bank, view, encoder=ENCODER)
    np.testing.assert_array_equal(none, SURFELS.read(bank, view, encoder=ENCODER))
