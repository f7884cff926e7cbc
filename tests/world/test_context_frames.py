"""Context frames of training samples, against rollouts and hand-made situations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import tiny_world
from helpers.tiny_world import CHANNELS, GRID, INTRINSICS, READOUT, SIZE
from mirage_jax import trajectories
from mirage_jax.geometry import Camera
from mirage_jax.nn.denoiser import Denoiser
from mirage_jax.training.denoiser_task import DenoiserTask
from mirage_jax.world import WorldModel, scenarios
from mirage_jax.world.conditioners import RAY_CHANNELS, Nothing
from mirage_jax.world.context_frames import references
from mirage_jax.world.history import draw_history, make_sample, write_history
from mirage_jax.world.latent_clip import FIELDS, LatentClip, encode_clip
from mirage_jax.world.options import ContextFrameOptions, MemoryOptions

FRAMES = ContextFrameOptions(references=3, preceding=5)
LONG = trajectories.make("look_away", 17)
"""Two chunks of nine frames, three latents each."""
TABLE = scenarios.scenarios(2, 3)


def turned(*degrees):
    """Poses at one place, turned about the vertical axis."""
    poses = np.tile(np.eye(4, dtype=np.float32), (len(degrees), 1, 1))
    for pose, angle in zip(poses, np.deg2rad(degrees), strict=True):
        pose[0, 0] = pose[2, 2] = np.cos(angle)
        pose[0, 2], pose[2, 0] = np.sin(angle), -np.sin(angle)
    return jnp.asarray(poses)


def camera(*degrees):
    # 60 degrees across.
    lens = jnp.array([20.8, 20.8, 12.0, 8.0])
    return Camera(jnp.broadcast_to(lens, (len(degrees), 4)), turned(*degrees), SIZE)


@pytest.mark.parametrize(
    ("looking", "remembered", "expected"),
    [
        (90, (1, 1, 1, 1), [None, None, 2]),
        (180, (1, 1, 1, 1), [None, None, 3]),
        (90, (1, 0, 0, 1), [None, None, None]),  # they are not in the history
        (270, (1, 1, 1, 1), [None, None, None]),  # none looked there
        (20, (1, 1, 1, 1), [None, 0, 1]),  # most of it in the one, the rest in the other
    ],
)
def test_frames_that_saw_most_of_the_chunk_come_last(looking, remembered, expected):
    tokens = jnp.asarray(np.random.default_rng(0).normal(size=(4, *GRID, CHANNELS)), jnp.float32)
    depth = 2.0 * jnp.array(remembered, jnp.float32)[:, None, None] * jnp.ones((1, *GRID))
    seen, targets = camera(0, 60, 90, 180), camera(*[looking] * 5)
    choose = jax.jit(functools.partial(references, count=3))
    found, there = choose(tokens, depth, seen, targets)
    np.testing.assert_array_equal(there, [slot is not None for slot in expected])
    for latent, slot in zip(found, expected, strict=True):
        np.testing.assert_array_equal(latent, 0 * latent if slot is None else tokens[slot])


@pytest.fixture(scope="module")
def clip():
    clips = tiny_world.latent_clips(1, LONG, preceding=2)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), clips)


@pytest.fixture(scope="module")
def sample_of():
    options = {"size": SIZE, "table": TABLE, "options": FRAMES}
    return jax.jit(functools.partial(make_sample, conditioner=READOUT, **options))


@pytest.mark.parametrize("scenario", [scenarios.FIRST, scenarios.RETURN, scenarios.REVERSED])
def test_preceding_frames_are_shown_where_there_are_some(clip, sample_of, scenario):
    keyframes = jnp.asarray(TABLE.keyframes[scenario])
    found = sample_of(clip, jnp.asarray(scenario), keyframes)
    shown = np.asarray(found.frames["frame_mask"])
    np.testing.assert_array_equal(shown[3:], [scenario == scenarios.RETURN] * 2)
    np.testing.assert_array_equal(found.frames["preceding"], clip.preceding)
    assert found.context.shape[0] == 3 + 2 and found.rays.shape[0] == len(found.target) == 3
    assert shown[:3].any()
    for latent in np.asarray(found.frames["reference"])[shown[:3]]:
        same = (np.asarray(clip.tokens) == latent).all(axis=(1, 2, 3))
        assert same.any() and np.asarray(keyframes)[same].all()
    if scenario == scenarios.RETURN:

        @jax.jit
        def shown_before(clip):
            bank = write_history(READOUT, draw_history(clip, keyframes, SIZE))
            before = Camera(jnp.tile(clip.intrinsics, (5, 1)), clip.cam2world[3:8], SIZE)
            return READOUT.read(bank, before)

        expected = shown_before(clip)
        np.testing.assert_allclose(found.context[3:], expected, atol=1e-5)
        assert np.asarray(expected).any()


def test_an_empty_memory_has_no_references(clip):
    network = tiny_world.denoiser(2 * (CHANNELS + 3))
    task = DenoiserTask(network, READOUT, SIZE, 2, 3, context_frames=FRAMES, drop_memory=0.5)
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf] * 40), clip)
    found = jax.jit(task.sample)(batch, jax.random.key(0))
    kept = np.asarray(found.context).any(axis=(1, 2, 3, 4))
    assert 5 < kept.sum() < 35
    np.testing.assert_array_equal(np.asarray(found.frames["frame_mask"])[:, :3].any(axis=1), kept)
    # What precedes the chunk is no matter of memory.
    assert 0 < found.frames["frame_mask"][~kept, 3].sum() < (~kept).sum()


def test_the_denoiser_is_shown_them(clip):
    class Spy(tiny_world.stand_in(Denoiser)):
        memory_channels, ray_channels = READOUT.channels, RAY_CHANNELS

        def apply(self, variables, latents, timestep, **inputs):
            calls.append(inputs)
            return variables["params"] + 0 * latents

    calls: list = []
    task = DenoiserTask(Spy(), READOUT, SIZE, 2, 3, context_frames=FRAMES)
    batch = {name: jnp.stack([getattr(clip, name)] * 2) for name in FIELDS}

    @jax.jit
    def run(batch):
        key = jax.random.key(0)
        task.loss(jnp.zeros(()), batch, key, train=False)
        sample = task.sample(LatentClip(**batch), jax.random.split(key, 3)[0], train=False)
        return calls[-1], sample.frames

    given, expected = run(batch)
    for name, value in expected.items():
        np.testing.assert_array_equal(given[name], value)
    assert given["reference"].shape == (2, 3, *GRID, CHANNELS)


def test_preceding_frames_are_those_of_a_rollout():
    """What the cache holds before the last chunk is what a rollout has before the next one."""
    model = tiny_world.world_model(
        context_frames=ContextFrameOptions(references=2, preceding=5),
        memory=MemoryOptions(reencode=True),
    )
    rng = np.random.default_rng(1)
    video = jnp.asarray(rng.uniform(-1, 1, (17, *SIZE, 3)), jnp.float32)
    cameras = Camera(jnp.tile(INTRINSICS, (17, 1)), jnp.asarray(LONG, jnp.float32), SIZE)
    world, _ = jax.jit(WorldModel.begin, static_argnums=(5, 6))(
        model, video[:1], cameras[:1], None, None, 64, 4
    )
    nothing = jnp.zeros((3, *GRID, CHANNELS)), jnp.zeros((3, *GRID, model.denoiser.memory_channels))
    remember = jax.jit(WorldModel.remember)
    world, _ = remember(model, world, *nothing, cameras[:9], pictures=video[:9])
    assert model.preceding_latents(world.context_frames) == 2
    found = jax.jit(
        lambda video: (
            encode_clip(
                video,
                jnp.ones((5, *SIZE)),
                jnp.zeros((5, *SIZE)),
                jnp.asarray(INTRINSICS),
                cameras.cam2world,
                encoder=model.encoder,
                chunk_frames=9,
                preceding=5,
            ).preceding
        )
    )(video)
    np.testing.assert_allclose(found, world.context_frames.recent, atol=1e-5)


def test_room_for_references_grows_with_the_memory():
    model = tiny_world.world_model(
        context_frames=ContextFrameOptions(references=2, preceding=5),
        memory=MemoryOptions(reencode=True),
    )
    camera = Camera(jnp.asarray(INTRINSICS)[None], jnp.eye(4)[None], SIZE)
    cells = GRID[0] * GRID[1]
    for capacity, slots in ((10 * cells, 10), (cells - 1, 1)):
        begin = functools.partial(WorldModel.begin, capacity=capacity)
        world, _ = jax.eval_shape(begin, model, jnp.zeros((1, *SIZE, 3)), camera)
        assert len(world.context_frames.latents) == slots


def test_fields_are_checked():
    with pytest.raises(ValueError, match="references: found -1"):
        ContextFrameOptions(references=-1)
    eight = ContextFrameOptions(preceding=8)
    with pytest.raises(ValueError, match=r"found 8, expected 1 \+ 4 n"):
        DenoiserTask(tiny_world.denoiser(READOUT.channels), READOUT, SIZE, 2, 3, eight)
    with pytest.raises(ValueError, match="with the conditioner 'none'"):
        DenoiserTask(tiny_world.denoiser(0), Nothing(CHANNELS), SIZE, 2, 3, FRAMES)
