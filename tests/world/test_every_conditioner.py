"""Each conditioner from a training step to a loaded model, a rollout and the revisit protocol."""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mirage_jax
from helpers import tiny_world
from helpers.tiny_world import CHANNELS, CHUNK, GRID, INTRINSICS, SIZE
from mirage_jax import trajectories, weights
from mirage_jax.evaluation import protocol
from mirage_jax.geometry import Camera
from mirage_jax.training import guard
from mirage_jax.training import state as states
from mirage_jax.training.denoiser_task import DenoiserTask
from mirage_jax.world import WorldModel, loading, scenarios
from mirage_jax.world.conditioners import KINDS, Frames, make
from mirage_jax.world.history import draw_history, returning_samples, write_history
from mirage_jax.world.latent_clip import FIELDS, encode_clip
from mirage_jax.world.options import MemoryOptions, SamplerOptions

CELLS = GRID[0] * GRID[1]
PATH = trajectories.make("look_away", 2 * CHUNK - 1, angle=60)
"""Two chunks of two latents."""
PICTURE = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
OPTIONS = {"sampler": SamplerOptions(steps=1), "memory": MemoryOptions(capacity=4 * CELLS)}
OPTIMIZER = optax.sgd(0.1)


def untrained(kind):
    """A model with a denoiser of one layer."""
    model = tiny_world.world_model(told=tiny_world.conditioner(kind), **OPTIONS)
    network = model.denoiser.clone(depth=1)
    latents = jnp.zeros((1, 2, *GRID, CHANNELS))
    params = tiny_world.random_params(network, 0, latents, jnp.zeros((1, 2)))
    return model.replace(denoiser=network, denoiser_params=params)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder with everything but a denoiser."""
    path, model = tmp_path_factory.mktemp("run") / "model", untrained("none")
    model.encoder.save(path / "encoder")
    made = {"kind": "geometry_head", "head": weights.module_fields(model.head)}
    weights.export(path / "geometry", model.head_params, made)
    return path


def task_of(model):
    constants = {GRID: jax.jit(WorldModel.constants, static_argnums=1)(model, 2)}
    options = {"chunks": 2, "chunk_latents": 2, "drop_memory": 0.0, "constants": constants}
    options["encoder"] = model.encoder
    return DenoiserTask(model.denoiser, model.conditioner, SIZE, **options)


def trained(model, clips):
    """Parameters after two steps, and the loss of each."""
    task = task_of(model)
    batch = {name: jnp.asarray(getattr(clips, name)) for name in FIELDS}
    step = jax.jit(states.make_step(task, OPTIMIZER))
    params = model.denoiser_params
    state = states.TrainState(
        jnp.zeros((), jnp.int32),
        params=params,
        opt_state=OPTIMIZER.init(params),
        ema=None,
        key=jax.random.key(1, impl="rbg"),
        guard=guard.begin(),
    )
    losses = []
    for _ in range(2):
        state, metrics = step(state, batch, None)
        losses.append(float(metrics["loss"]))
        assert float(metrics["skipped"]) == 0
    return jax.device_get(state.params), losses


def exported(folder, kind, model, params):
    """The model that is loaded from what was trained."""
    made = loading.denoiser_architecture(
        model.denoiser,
        model.conditioner,
        size=model.size,
        chunk_frames=model.chunk_frames,
        sampler=model.sampler,
        memory=model.memory,
        context_frames=model.context_frames,
    )
    weights.export(folder / f"denoiser_{kind}", params, made)
    return mirage_jax.load(folder.parent, memory=kind)


@flax.struct.dataclass
class Recorder(WorldModel):
    """Keeps the contexts that its denoiser gets."""

    contexts: list = flax.struct.field(pytree_node=False, default=())

    def denoise(self, first, context, rays, key, **frames):
        if context is not None:
            jax.debug.callback(lambda array: self.contexts.append(np.asarray(array)), context)
        return super().denoise(first, context, rays, key, **frames)


class Kept(list):
    """A list that is hashable, as static fields are."""

    __hash__ = object.__hash__
    __eq__ = object.__eq__


def recorder(model):
    fields = {f.name: getattr(model, f.name) for f in dataclasses.fields(model)}
    return Recorder(**fields, contexts=Kept())


def check_rollout(model):
    """Two chunks: finite, remembered, their contexts those of the model's conditioner."""
    spy = recorder(model)
    worlds = [spy.start(PICTURE, Camera(INTRINSICS, np.eye(4, dtype=np.float32), SIZE))]
    reports = []
    context = jax.jit(lambda encoder, bank, camera: model.conditioner(bank, camera, None, encoder))
    for number, chunk in enumerate(mirage_jax.rollout(spy, worlds[0], PATH)):
        assert chunk.index == number and chunk.video.shape == (CHUNK - (number > 0), *SIZE, 3)
        assert chunk.video.std() > 0 and np.isfinite(chunk.world.latent).all()
        worlds.append(chunk.world)
        reports.append(chunk.report)
        jax.effects_barrier()
        poses = PATH[number * (CHUNK - 1) :][:CHUNK].astype(np.float32)
        camera = Camera(np.tile(INTRINSICS, (CHUNK, 1)), poses, SIZE)
        expected = context(model.encoder, worlds[number].bank, camera)
        if model.conditioner.stores == "nothing":
            assert expected.shape[-1] == 0 and not spy.contexts
        else:
            assert (
                len(spy.contexts) == number + 1
                and expected[..., : model.conditioner.read_channels].any()
            )
            np.testing.assert_allclose(spy.contexts[number], expected[None], atol=1e-5)
    assert len(worlds) == 3
    cells = {"tokens": CELLS, "colours": SIZE[0] * SIZE[1], "nothing": 0}[model.conditioner.stores]
    elements = cells
    assert int(worlds[0].bank.valid.sum()) == elements
    for world, report in zip(worlds[1:], reports, strict=True):
        assert int(report.written) + int(report.fused) == cells
        elements += int(report.written) - int(report.contradicted) - int(report.evicted)
        assert int(world.bank.valid.sum()) == elements
    if model.conditioner.stores == "colours":
        colours = worlds[0].bank.tokens[:cells]
        assert colours.dtype == jnp.uint8
        np.testing.assert_array_equal(colours, PICTURE.reshape(-1, 3))


def check_evaluation(model, clips):
    rng = np.random.default_rng(1)
    video = rng.integers(0, 256, (2, len(PATH), *SIZE, 3), np.uint8)
    held_out = protocol.HeldOut(video, np.stack([PATH] * 2), ["a", "b"], clips)
    videos = protocol.generate({"latent": model}, held_out, seed=0, batch_size=2)
    for name in ("memory", "memory_zeroed"):
        assert videos[name].shape == (2, CHUNK, *SIZE, 3) and videos[name].dtype == np.uint8
    differs = (videos["memory"] != videos["memory_zeroed"]).any(axis=(1, 2, 3, 4))
    assert (differs == (model.conditioner.stores != "nothing")).all()


ALIKE = ("visibility", "none")  # parts of what the others do


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=pytest.mark.long if kind in ALIKE else ()) for kind in KINDS],
)
def test_from_a_training_step_to_rollout_and_evaluation(kind, folder):
    model, clips = untrained(kind), tiny_world.latent_clips(2, PATH)
    params, losses = trained(model, clips)
    assert np.isfinite(losses).all() and losses[0] != losses[1]
    # Plain descent moves what has a gradient, and nothing else.
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), params, model.denoiser_params)
    assert all(jax.tree.leaves(moved)), moved
    assert ("memory_hint" in params) == (kind != "none")

    loaded = exported(folder, kind, model, params)
    assert loaded.conditioner == model.conditioner and type(loaded.conditioner) is KINDS[kind]
    assert (loaded.sampler, loaded.memory) == (model.sampler, model.memory)
    jax.tree.map(np.testing.assert_array_equal, loaded.denoiser_params, params)
    check_rollout(loaded)
    check_evaluation(loaded, clips)


@pytest.mark.parametrize("kind", ["folded", "surfels", "visibility", "score"])
def test_samples_and_rollouts_have_the_same_context_of_the_same_memory(kind):
    model, clips = untrained(kind), tiny_world.latent_clips(1, PATH)

    @jax.jit
    def both(model, clips):
        options = {"conditioner": model.conditioner, "size": SIZE, "encoder": model.encoder}
        sample = returning_samples(clips, constants=model.constants(2), **options)
        clip = jax.tree.map(lambda leaf: leaf[0], clips)
        kept = jnp.asarray(scenarios.scenarios(2, 2).keyframes[scenarios.RETURN])
        bank = write_history(model.conditioner, draw_history(clip, kept, SIZE))
        lens = jnp.broadcast_to(clip.intrinsics, (CHUNK, 4))
        camera = Camera(lens, clip.cam2world[CHUNK - 1 :], SIZE)
        return sample.context[0], model.conditioner(bank, camera, None, model.encoder)

    found, expected = both(model, clips)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert expected[..., : model.conditioner.read_channels].any()


def test_cached_renderings_are_the_context_of_a_rollout():
    model = untrained("rgb")
    rgb, rng = model.conditioner, np.random.default_rng(3)
    video = jnp.asarray(rng.uniform(-1, 1, (len(PATH), *SIZE, 3)), jnp.float32)
    depth = jnp.asarray(rng.uniform(2, 4, (3, *SIZE)), jnp.float32)
    lens, poses = jnp.asarray(INTRINSICS), jnp.asarray(PATH, jnp.float32)

    @jax.jit
    def both(encoder):
        clip = encode_clip(
            video, depth, jnp.zeros_like(depth), lens, poses,
            encoder=encoder, chunk_frames=CHUNK, rgb=rgb,
        )  # fmt: skip
        camera = Camera(jnp.broadcast_to(lens, (len(PATH), 4)), poses, SIZE)
        seen = Frames(
            jnp.zeros((2, *GRID, 4)), depth[:2], camera[:8:4], jnp.arange(2.0), pictures=video[:8:4]
        )
        bank, _ = rgb.write(rgb.create(2 * CELLS), seen)
        back = scenarios.RETURN
        cached = jnp.concatenate([clip.rgb_chunks[back], clip.rgb_hits[back]], axis=-1)
        return cached, rgb(bank, camera[CHUNK - 1 :], None, encoder)

    cached, expected = both(model.encoder)
    np.testing.assert_allclose(cached, expected, atol=1e-4)
    assert (np.asarray(expected)[..., -4:] > 0).any()


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match=r"found 'colour', expected one of .*folded.*rgb.*none"):
        make("colour")
