"""Where JAX counts in 64 bits models are loaded, trained and run as elsewhere, in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mirage_jax
from helpers import tiny_world
from helpers.programs import dtypes
from helpers.tiny_world import CHUNK, INTRINSICS, SIZE
from mirage_jax import trajectories, weights
from mirage_jax.geometry import Camera
from mirage_jax.training import geometry_task, state, vae_task
from mirage_jax.training.denoiser_task import DenoiserTask
from mirage_jax.world import loading
from mirage_jax.world.history import NoiseAugmentation
from mirage_jax.world.latent_clip import FIELDS
from mirage_jax.world.latent_encoder import LatentEncoder
from mirage_jax.world.options import ContextFrameOptions, MemoryOptions, SamplerOptions

KEY = jax.random.key(1)
POSES = trajectories.make("look_and_walk", 9, angle=60)


@pytest.fixture(scope="module")
def model():
    return tiny_world.world_model(memory=MemoryOptions(capacity=64, reencode=True))


def batch():
    clips = tiny_world.latent_clips(3, POSES)
    return {name: jnp.asarray(getattr(clips, name)) for name in FIELDS}


def found_in(function, *arguments):
    """Dtypes in the program of a function of float32, which broadcasts nothing by itself."""
    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
        return dtypes(jax.make_jaxpr(function)(*arguments).jaxpr)


def test_weights_saved_in_float32_are_loaded_as_they_are(model, tmp_path):
    model.encoder.save(tmp_path / "encoder")
    head = {"kind": "geometry_head", "head": weights.module_fields(model.head)}
    weights.export(tmp_path / "geometry", model.head_params, head)
    architecture = loading.denoiser_architecture(
        model.denoiser,
        model.conditioner,
        size=SIZE,
        chunk_frames=CHUNK,
        sampler=SamplerOptions(),
        memory=model.memory,
        context_frames=ContextFrameOptions(),
    )
    weights.export(tmp_path / "denoiser_latent", model.denoiser_params, architecture)
    before = weights.fingerprint(tmp_path / "encoder")
    with jax.enable_x64(True):
        loaded = mirage_jax.load(tmp_path)
        assert weights.fingerprint(tmp_path / "encoder") == before
        loaded.encoder.save(tmp_path / "again")
    assert weights.fingerprint(tmp_path / "again") == before
    assert LatentEncoder.load(tmp_path / "again").vae == model.encoder.vae
    for part in ("denoiser_params", "head_params"):
        pairs = zip(
            jax.tree.leaves(getattr(loaded, part)),
            jax.tree.leaves(getattr(model, part)),
            strict=True,
        )
        for a, b in pairs:
            assert a.dtype == np.float32
            np.testing.assert_array_equal(a, b)


def test_a_chunk_is_generated_and_remembered_in_float32(model):
    path = jnp.asarray(trajectories.make("look_away", CHUNK, angle=60), jnp.float32)
    camera = Camera(INTRINSICS[None], np.eye(4, dtype=np.float32)[None], SIZE)
    wide = model.replace(
        context_frames=ContextFrameOptions(references=2, preceding=1, choice="voxels"),
        sampler=SamplerOptions(steps=3, method="unipc"),
    )

    def chunk(pictures):
        world, _ = wide.begin(pictures, camera)
        slots = wide.choose(world, Camera(jnp.asarray(INTRINSICS)[None], path[:1], SIZE))
        return wide.advance(world, path, KEY)[:2], slots

    assert "float64" not in found_in(chunk, jnp.zeros((1, *SIZE, 3)))
    with jax.disable_jit():  # loops are unrolled, and functions within called as they are
        assert "float64" not in found_in(fused_chunk(model), jnp.zeros((1, *SIZE, 3)))


def fused_chunk(model):
    """A chunk whose memory is fused, as it is where no reference frames are kept."""
    path = jnp.asarray(trajectories.make("look_away", CHUNK, angle=60), jnp.float32)
    camera = Camera(INTRINSICS[None], np.eye(4, dtype=np.float32)[None], SIZE)
    assert model.memory.fusion(model.context_frames) is not None

    def chunk(pictures):
        world, _ = model.begin(pictures, camera)
        return model.advance(world, path, KEY)[:2]

    return chunk


@pytest.mark.long
def test_a_chunk_is_the_same_without_jit_and_has_no_nan():
    model = tiny_world.world_model(
        memory=MemoryOptions(capacity=64), sampler=SamplerOptions(steps=1)
    )
    chunk, pictures = fused_chunk(model), jnp.full((1, *SIZE, 3), 0.3)
    expected = jax.jit(chunk)(pictures)
    with jax.disable_jit(), jax.debug_nans(True), jax.numpy_rank_promotion("raise"):
        found = chunk(pictures)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-3, atol=1e-3)


def step_of(model, name):
    """A step of a task as a function of its batch, and a batch."""
    noise = NoiseAugmentation(depth=0.03, pose=0.01, tokens=0.05)
    latents = (*tiny_world.GRID, tiny_world.CHANNELS)
    task = {
        "denoiser": lambda: DenoiserTask(
            model.denoiser,
            model.conditioner,
            SIZE,
            chunks=2,
            chunk_latents=2,
            noise=noise,
            drop_memory=0.3,
        ),
        "vae": lambda: vae_task.VAETask(tiny_world.vae(), frames=CHUNK, size=16),
        "head": lambda: geometry_task.GeometryTask(model.head, latents),
    }[name]()
    optimizer = optax.sgd(0.1)  # the bias corrections of Adam are numbers in 64 bits

    def run(batch):
        before = state.unboxed(task, optimizer, seed=0, with_ema=True)
        after, metrics = state.make_step(task, optimizer, ema_decay=0.9)(before, batch, None)
        return after.params, after.ema, metrics

    videos = {"video": jnp.zeros((2, CHUNK, 16, 16, 3), jnp.uint8)}
    return run, videos if name == "vae" else batch()


@pytest.mark.parametrize("name", ["denoiser", "vae", "head"])
def test_steps_of_training_are_float32(model, name):
    run, given = step_of(model, name)
    assert "float64" not in found_in(run, given)


@pytest.mark.long
def test_a_step_of_the_head_is_the_same_without_jit_and_has_no_nan(model):
    run, given = step_of(model, "head")
    expected = jax.jit(run)(given)
    with jax.disable_jit(), jax.debug_nans(True), jax.numpy_rank_promotion("raise"):
        found = run(given)
    assert float(found[2]["grad_norm"]) > 0 and float(found[2]["skipped"]) == 0
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-3, atol=1e-4)
