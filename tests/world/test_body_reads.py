"""What a denoiser is shown of bodies in training is what a rollout reads of the same past."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import tiny_world
from helpers.tiny_world import INTRINSICS, SIZE, STRIDE, MeanColours, world_model
from mirage_jax.geometry import Camera
from mirage_jax.memory.fusion import FusionOptions
from mirage_jax.memory.movers import MoverOptions
from mirage_jax.nn.video_vae import LatentStats
from mirage_jax.world import scenarios
from mirage_jax.world.body_reads import BodyReads
from mirage_jax.world.conditioners import Folded, Surfels
from mirage_jax.world.conditioners.base import View
from mirage_jax.world.latent_clip import encode_clip, fields_of
from mirage_jax.world.latent_encoder import LatentEncoder
from mirage_jax.world.options import MemoryOptions

FRAMES, CHUNK, EYE = 13, 5, 1.5
OPTIONS = MoverOptions(slots=2, detections=1, views=1, view_cells=2, least_pixels=4, birth_pixels=4)
CONDITIONER = Folded(3, STRIDE, reads=4, fine=1, movers=True)
ENCODER = LatentEncoder(None, LatentStats(jnp.zeros(3), jnp.ones(3)), MeanColours())
SETTINGS = BodyReads(CONDITIONER, OPTIONS, FusionOptions())


def walk(times, finer=1):
    """Keyframes in which a body goes right on a floor, 1.2 m a second; so much finer."""
    v, u = (np.mgrid[: finer * SIZE[0], : finer * SIZE[1]] + 0.5) / finer
    right, down = (u - INTRINSICS[2]) / INTRINSICS[0], (v - INTRINSICS[3]) / INTRINSICS[1]
    floor = np.where(down > 0, EYE / np.maximum(down, 1e-6), np.inf)
    depth, moving = [], []
    for x in -1.0 + 0.12 * np.asarray(times):
        body = (np.abs(4 * right - x) < 0.6) & (4 * down < EYE) & (4 * down > -0.2)
        depth.append(np.where(body, 4.0, np.minimum(floor, 9.0)))
        moving.append(body)
    return np.float32(depth), np.float32(moving)


VIDEO = np.random.default_rng(0).integers(0, 256, (FRAMES, *SIZE, 3), np.uint8)
POSES = np.tile(np.eye(4, dtype=np.float32), (FRAMES, 1, 1))


@functools.cache
def encode():
    return jax.jit(
        lambda video, depth, moving, times: fields_of(
            encode_clip(
                video,
                depth,
                moving,
                jnp.asarray(INTRINSICS),
                jnp.asarray(POSES),
                encoder=ENCODER,
                chunk_frames=CHUNK,
                bodies=SETTINGS,
                times=times,
                movers_up=4,
            )
        )
    )


def encoded(video, times):
    depth, moving = walk(times[::4])
    return encode()(np.float32(video) / 127.5 - 1.0, depth, moving, np.float32(times)), moving


def alpha(bodies):
    """Share of each cell that a body covers in every read, [..., frames, h, w]."""
    flags = bodies.reshape(*bodies.shape[:-1], CONDITIONER.reads, -1)[
        ..., CONDITIONER.token_channels
    ]
    return np.moveaxis(np.asarray(flags), -1, -3)


def test_bodies_of_a_return_are_those_that_a_rollout_reads():
    """Six frames pass unseen before the last chunk."""
    times = np.arange(FRAMES) + 6 * (np.arange(FRAMES) > 8)
    clip, _ = encoded(VIDEO, times)
    found = clip["bodies"][scenarios.RETURN]
    assert found.shape == (2, 2, 3, CONDITIONER.body_channels)
    assert alpha(found).max() > 0.2

    model = world_model(told=CONDITIONER).replace(
        encoder=ENCODER, head=None, movers=OPTIONS, memory=MemoryOptions(capacity=60, fuse=True)
    )
    keyframes = slice(0, 9, 4)
    depth, moving = walk(times[keyframes])
    camera = Camera(np.tile(INTRINSICS, (FRAMES, 1)), POSES, SIZE)
    world = model.start(
        VIDEO[keyframes], camera[keyframes], depth=depth, static=1 - moving, times=times[keyframes]
    )
    assert int(world.frames) == 9
    along = 9 + 6 - 1 + jnp.arange(CHUNK, dtype=jnp.float32)
    read = jax.jit(lambda *given: CONDITIONER.read(*given, mover_options=OPTIONS))(
        world.bank, camera[8:], along, None, world.movers
    )
    np.testing.assert_allclose(found, read[..., -CONDITIONER.body_channels :], atol=1e-5)


def test_bodies_drawn_at_the_pixels_are_those_that_a_rollout_draws():
    """Of a return again, with the conditioner that draws."""
    encoder = tiny_world.encoder()
    surfels = Surfels(tiny_world.CHANNELS, STRIDE, movers=True)
    times, size, lens = np.arange(FRAMES, dtype=np.float32), (32, 48), 2 * INTRINSICS
    depth, moving = walk(times[::4], finer=2)
    camera = Camera(np.tile(lens, (FRAMES, 1)), POSES, size)
    pictures = np.random.default_rng(1).integers(0, 256, (FRAMES, *size, 3), np.uint8)
    video = np.float32(pictures) / 127.5 - 1.0

    @jax.jit
    def bodies(video, depth, moving, times):
        settings = BodyReads(surfels, OPTIONS, FusionOptions())
        given = {"encoder": encoder, "chunk_frames": CHUNK, "bodies": settings, "times": times}
        seen = (video, depth, moving, jnp.asarray(lens), jnp.asarray(POSES))
        return encode_clip(*seen, **given).bodies

    found = bodies(video, depth, moving, times)[scenarios.RETURN]
    assert found.shape == (CHUNK, *size, 4) and 0.02 < (found[..., 3] > 0).mean() < 0.5

    model = world_model(told=surfels).replace(
        encoder=encoder,
        head=None,
        movers=OPTIONS,
        memory=MemoryOptions(capacity=240, fuse=True),
        size=size,
    )
    keyframes = slice(0, 9, 4)
    still = {"depth": depth[:3], "static": 1 - moving[:3], "times": times[keyframes]}
    world = model.start(pictures[keyframes], camera[keyframes], **still)

    @jax.jit
    def read(world):
        along = 8 + jnp.arange(CHUNK, dtype=jnp.float32)
        view = View(camera[8:], along, encoder, world.movers, OPTIONS)
        return surfels.read_bodies(world.bank, view)

    np.testing.assert_allclose(found, read(world), atol=1e-4)


def test_one_picture_shows_no_body_yet_and_the_future_is_read_backwards():
    """Read from its end, a clip is another clip."""
    times = np.arange(FRAMES)
    clip, _ = encoded(VIDEO, times)
    assert not np.asarray(clip["bodies"][scenarios.FIRST]).any()
    backwards = np.asarray(clip["bodies"][scenarios.REVERSED])
    depth, moving = walk(times[::-4])
    turned = encode()(np.float32(VIDEO[::-1]) / 127.5 - 1.0, depth, moving, np.float32(times))
    forwards = np.asarray(turned["bodies"][scenarios.RETURN])
    shown = alpha(forwards)[1]  # of frames 1, 2, 3 and 4 of the chunk
    assert shown.max() > 0.2
    # Frame f of a chunk that is read backwards is frame 4 - f of the other.
    np.testing.assert_allclose(alpha(backwards)[1][[2, 1, 0]], shown[[0, 1, 2]], atol=1e-5)


def test_chunks_between_the_first_and_the_last_have_bodies_too():
    clip, _ = encoded(VIDEO, np.arange(FRAMES))
    table = scenarios.scenarios(3, 2, between=True)
    assert len(clip["bodies"]) == len(table.chunk) == 4
    assert alpha(clip["bodies"][3]).max() > 0.2  # two keyframes are remembered there


def test_finer_cells_tell_what_moves():
    clip, moving = encoded(VIDEO, np.arange(FRAMES))
    expected = moving.reshape(4, 8, 2, 12, 2).mean((2, 4))
    np.testing.assert_allclose(clip["moving"], expected, atol=1e-6)
    np.testing.assert_allclose(
        clip["static"], 1 - moving.reshape(4, 2, 8, 3, 8).mean((2, 4)), atol=1e-6
    )


@pytest.mark.long
def test_clips_of_a_batch_are_encoded_as_alone():
    times = np.arange(FRAMES)
    depth, moving = walk(times[::4])
    alone, _ = encoded(VIDEO, times)
    batch = [np.stack([part] * 2) for part in (np.float32(VIDEO) / 127.5 - 1.0, depth, moving)]
    both = jax.vmap(encode())(*batch, np.stack([np.float32(times)] * 2))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b[1], a, atol=1e-5), alone, both)


def test_times_that_do_not_increase_are_refused():
    model = world_model(told=dataclasses.replace(CONDITIONER, movers=False))
    camera = Camera(np.tile(INTRINSICS, (2, 1)), POSES[:2], SIZE)
    for times in ([0, 0], [3, 2], [-1, 0], [0, 1, 2], [0, np.nan]):
        with pytest.raises(ValueError, match=r"times: found .*, expected 2 numbers of frames"):
            model.start(VIDEO[:2], camera, times=np.array(times))
