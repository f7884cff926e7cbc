"""Rollouts under the three presets, with a network that records what it is shown.

Pictures are coded by their mean colours, so that everything but the network can be followed with
lists, as the released code does.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import reduce

from helpers import geometry_npz, tiny_world
from mirage_jax import memory
from mirage_jax.geometry import Camera
from mirage_jax.memory import frustum_voxels, released
from mirage_jax.nn.video_vae import LatentStats
from mirage_jax.world import WorldModel, chunk_step, load_world, rollout, save_world
from mirage_jax.world.conditioners import make
from mirage_jax.world.latent_encoder import LatentEncoder
from mirage_jax.world.options import ContextFrameOptions, MemoryOptions, SamplerOptions
from mirage_jax.world.presets import PRESETS, apply, preset_of, with_fields

SIZE, GRID, CELLS = (16, 32), (2, 4), 8
KEY = jax.random.key(3)
DEPTH = 4.0


VAE = tiny_world.MeanColours()  # one, so that equal models are compiled once
CALLS = []


@flax.struct.dataclass
class Recorder(WorldModel):
    """Generates colours out of noise, whatever it is shown, and keeps that in CALLS."""

    def denoise(self, first, context, rays, key, **clean):
        jax.debug.callback(lambda **shown: CALLS.append(shown), context=context, **clean)
        noise = jax.random.uniform(key, (1, rays.shape[1], *GRID, 3), minval=-1.0)
        return noise.at[:, 0].set(first)


def model(name, chunk_frames=5):
    preset = PRESETS[name]
    more = {"reads": 2, "fine": 1} if preset.conditioner == "folded" else {}
    conditioner = make(preset.conditioner, token_channels=3, stride=8, cells=preset.cells, **more)
    return Recorder(
        encoder=LatentEncoder(None, LatentStats(jnp.zeros(3), jnp.ones(3)), VAE),
        head_params=None,
        denoiser_params=None,
        head=None,
        denoiser=tiny_world.denoiser(
            conditioner.channels, in_channels=3, out_channels=3, ray_channels=0
        ),
        conditioner=conditioner,
        size=SIZE,
        chunk_frames=chunk_frames,
        memory=preset.memory,
        context_frames=preset.context_frames,
        sampler=preset.sampler,
    )


def path(frames):
    return geometry_npz.arrays(SIZE, frames)["poses_c2w"]


LENS = np.float32([25.6, 25.6, 16, 8])


def cameras(frames):
    return Camera(np.tile(LENS, (frames, 1)), path(frames).astype(np.float32), SIZE)


PICTURE = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)


def start(model, frames, static=None):
    slots = 1 + (frames - 1) // 4 + 1
    depth = np.full(SIZE, DEPTH, np.float32)
    options = {"depth": depth, "static": static, "capacity": CELLS * slots, "keyframes": slots}
    return model.start(PICTURE, cameras(1)[0], **options)


def flat_wall(pictures, numbers, camera, remembered):
    return np.full((len(pictures), *SIZE), DEPTH, np.float32), None


def walk(model, frames, estimator=flat_wall, **options):
    """Chunks of a rollout and what the network was told in each."""
    CALLS.clear()
    started = start(model, frames)
    rolled = rollout(model, started, path(frames), KEY, depth_estimator=estimator, **options)
    chunks = list(rolled)
    jax.effects_barrier()
    return chunks[-1].world, chunks, list(CALLS)


@jax.jit
def write_corners(bank, tokens, lens):
    depth = jnp.full((len(tokens), *GRID), DEPTH)
    return memory.write(bank, tokens, depth, released.corner_camera(lens, GRID))[0]


read = jax.jit(memory.read, static_argnames=("grid", "cells"))
choose = jax.jit(frustum_voxels.choose, static_argnames="count")


def references_of(call):
    """The reference latents that the network was shown."""
    count = call["reference"].shape[1]
    assert call["frame_mask"][0, count:].all()
    return call["reference"][0][call["frame_mask"][0, :count]]


def encode_alone(video):
    return reduce(video, "t (h p) (w q) c -> t h w c", "mean", p=8, q=8)


def colours(video):
    return np.asarray(video, np.float32) / 127.5 - 1


def test_the_released_preset_does_what_the_released_code_does():
    """Lists as there: all latents and read-outs so far, and of the last 8 frames the 2 latents."""
    frames, count = 13, 4
    released_model = model("released")
    world, chunks, calls = walk(released_model, frames)
    views = cameras(frames)
    white = np.asarray(released_model.encoder.encode_white(9, SIZE))
    bank = memory.create(CELLS * 20, 3)
    stored, latents, scenes, elements = [0], [], [], []

    def write(bank, tokens, at):
        return write_corners(bank, jnp.asarray(tokens), views[np.asarray(at)])

    bank = write(bank, encode_alone(colours(PICTURE)[None]), [0])
    video = np.concatenate([chunk.video for chunk in chunks])
    assert len(video) == frames and [len(chunk.video) for chunk in chunks] == [5, 4, 4]
    for index, (chunk, call) in enumerate(zip(chunks, calls, strict=True)):
        at = [4 * index, 4 * index + 4]
        scene = read(bank, views[np.asarray(at)], GRID, cells="corner").tokens
        before, before_scene = latents[:-1][-2:], scenes[:-1][-2:]
        shown = np.concatenate([np.asarray(scene), *[s[None] for s in before_scene]])
        np.testing.assert_allclose(call["context"][0, ..., :3], shown, atol=1e-6)
        np.testing.assert_array_equal(call["context"][0, ..., 3:], white[: len(shown)])
        assert chunk.preceding == len(before) == min(index, 2)
        if before:
            np.testing.assert_allclose(call["preceding"][0], np.stack(before), atol=1e-6)
        if index:
            seen = views[np.asarray([4 * n for n in range(len(latents))])]
            slots, _ = choose(bank, views[np.asarray(at)], seen, jnp.asarray(elements), count)
            chosen = [int(n) for n in slots if n >= 0]
            assert list(chunk.references) == chosen and 0 < len(chosen) <= count
            expected = np.stack([latents[n] for n in chosen])
            np.testing.assert_allclose(references_of(call), expected, atol=1e-6)
        else:
            assert len(references_of(call)) == 0 and chunk.references == ()
        # Latents of the clip are remembered as they are, those of the first chunk all of them.
        made = np.asarray(chunk.world.bank.tokens)[int(bank.count) : int(chunk.world.bank.count)]
        made = made.reshape(-1, *GRID, 3)
        new = at[1:] if index else at
        assert len(made) == len(new)
        latents.extend(made)
        scenes.extend(np.asarray(scene)[-len(new) :])
        bank = write(bank, made, new)
        elements.extend([int(bank.count)] * len(new))
        stored.extend(new)
    count = int(world.bank.count)
    assert count == int(bank.count) == CELLS * len(stored)
    np.testing.assert_allclose(world.bank.xyz[:count], bank.xyz[:count], atol=1e-5)


def test_the_latent_of_white_is_computed_once_per_length(monkeypatch):
    """Five chunks of three lengths: two latents beside none, one and two of the chunk before."""
    run, computed = chunk_step._encode_constants, []

    def counted(model, latents):
        computed.append(latents)
        return run(model, latents)

    monkeypatch.setattr(chunk_step, "_encode_constants", counted)
    _, chunks, calls = walk(model("released"), 21)
    assert [chunk.preceding for chunk in chunks] == [0, 1, 2, 2, 2]
    assert computed == [2, 3, 4]
    white = model("released").encoder.encode_white(4, SIZE)
    for call in calls[2:]:
        np.testing.assert_array_equal(call["context"][0, ..., 3:], white)


def test_the_paper_preset_shows_nine_frames_encoded_again_and_where_memory_is():
    paper = model("paper", chunk_frames=17)
    _, chunks, calls = walk(paper, 33)
    assert [chunk.preceding for chunk in chunks] == [0, 3]
    assert chunks[0].references == (0,)  # the first picture shares its own view
    nine = colours(chunks[0].video[7:16])  # the nine before the frame the next chunk begins with
    expected, _ = VAE.apply(None, jnp.asarray(nine)[None], "encode")
    np.testing.assert_allclose(calls[1]["preceding"], expected, atol=5e-3)  # 8-bit video
    context = calls[1]["context"][0]
    assert context.shape == (5 + 3, *GRID, 4)
    world, views = chunks[0].world, cameras(33)
    at = [16, 20, 24, 28, 32, 7, 11, 15]
    shown = read(world.bank, views[np.asarray(at)], GRID)
    np.testing.assert_allclose(context[..., :3], shown.tokens, atol=1e-6)
    np.testing.assert_array_equal(context[..., 3], shown.visible)
    assert 0 < shown.visible.mean() <= 1
    # Frames are remembered as they look alone, at every fourth.
    alone = encode_alone(colours(chunks[0].video[4::4]))
    tokens = np.asarray(world.bank.tokens)[CELLS : int(world.bank.count)].reshape(-1, *GRID, 3)
    np.testing.assert_allclose(tokens, alone, atol=5e-3)


@pytest.mark.parametrize(("name", "kept"), [("released", True), ("paper", False)])
def test_moving_things_are_left_out_unless_the_preset_keeps_them(name, kept):
    static = np.ones(SIZE, np.float32)
    static[:, 16:] = 0

    def estimator(pictures, numbers, camera, remembered):
        depth, _ = flat_wall(pictures, numbers, camera, remembered)
        return depth, np.broadcast_to(static, depth.shape)

    world, _, _ = walk(model(name), 5, estimator)
    frames = 2 if name == "released" else 1
    share = 1.0 if kept else 0.5
    assert int(world.bank.count) == CELLS * (1 + share * frames)
    # What the file leaves out of the first picture is left out by all.
    assert int(start(model(name), 5, static).bank.count) == CELLS / 2


def test_the_default_preset_covers_and_folds():
    default = model("default", chunk_frames=9)
    _, chunks, calls = walk(default, 17)
    assert calls[1]["context"].shape == (1, 3 + 2, *GRID, 2 * (3 + 3))
    assert chunks[1].preceding == 2  # eight frames are there, of which five make whole latents
    assert chunks[1].references and len(set(chunks[1].references)) == len(chunks[1].references)


def test_a_depth_estimator_is_given_the_depth_that_memory_holds_of_its_pictures():
    seen = []

    def estimator(pictures, numbers, camera, remembered):
        seen.append((pictures, numbers, remembered))
        return flat_wall(pictures, numbers, camera, remembered)

    _, chunks, _ = walk(model("paper"), 9, estimator)
    assert [numbers for _, numbers, _ in seen] == [[4], [8]]
    for (pictures, _, held), chunk in zip(seen, chunks, strict=True):
        np.testing.assert_array_equal(pictures, chunk.video[-1:])
        np.testing.assert_allclose(held[held > 0], DEPTH, rtol=1e-5)
        assert held.shape == (1, *GRID) and (held > 0).mean() > 0.5


@pytest.mark.parametrize("name", ["released", "paper"])
def test_a_saved_world_goes_on_with_the_frames_it_was_shown(name, tmp_path):
    preset, frames = model(name), 13
    whole, chunks, calls = walk(preset, frames)
    *_, first = rollout(preset, start(preset, frames), path(5), KEY, depth_estimator=flat_wall)
    save_world(tmp_path / "a.world", first.world)
    CALLS.clear()
    again = load_world(tmp_path / "a.world", preset)
    parts = list(rollout(preset, again, path(frames)[4:], KEY, depth_estimator=flat_wall))
    resumed = parts[-1].world
    jax.effects_barrier()
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    for part, chunk, call, before in zip(parts, chunks[1:], CALLS, calls[1:], strict=True):
        np.testing.assert_array_equal(part.video, chunk.video)
        jax.tree.map(np.testing.assert_array_equal, call, before)
    with pytest.raises(ValueError, match="found no earlier frames, but the model denoises beside"):
        rollout(preset, again.replace(context_frames=None), path(frames)[4:], KEY)


def test_lenses_may_change_and_the_last_chunk_may_be_short():
    lens = np.tile(LENS, (13, 1))
    lens[5:] *= np.float32([1.25, 1.25, 1, 1])
    world, chunks, _ = walk(model("paper", chunk_frames=9), 13, intrinsics=lens, short_last=True)
    assert [len(chunk.video) for chunk in chunks] == [9, 4]
    np.testing.assert_allclose(world.intrinsics, lens[-1])
    with pytest.raises(ValueError, match="found 13 poses, expected 1"):
        walk(model("paper", chunk_frames=9), 13)
    with pytest.raises(ValueError, match="found 12 poses, expected 1"):
        rollout(model("paper"), start(model("paper"), 12), path(12), KEY, short_last=True)


def test_a_model_without_a_head_asks_for_depth():
    with pytest.raises(ValueError, match="depth: found none, expected some"):
        walk(model("paper"), 5, estimator=None)


@pytest.mark.parametrize("name", PRESETS)
def test_a_model_is_run_as_a_preset_says(name):
    """Whatever it was run as before; what no preset speaks of stays."""
    before = model(name)
    memory_options = dataclasses.replace(before.memory, capacity=77, sky_depth=9.0)
    plain = before.replace(
        memory=dataclasses.replace(MemoryOptions(), capacity=77, sky_depth=9.0),
        context_frames=ContextFrameOptions(),
        sampler=SamplerOptions(cfg_scale=3.0),
    )
    run = apply(plain, PRESETS[name])
    assert run.memory == memory_options and run.context_frames == before.context_frames
    assert run.sampler == dataclasses.replace(before.sampler, cfg_scale=3.0)
    found = dataclasses.asdict(preset_of(run)) | {"memory": None, "sampler": None}
    assert found == dataclasses.asdict(PRESETS[name]) | {"memory": None, "sampler": None}


def test_a_preset_that_the_weights_were_not_trained_for_is_refused():
    with pytest.raises(ValueError, match=r"with 'score' \(6 channels\), expected 'visibility'"):
        apply(model("released"), PRESETS["paper"])
    few = model("paper").replace(trained_beside=ContextFrameOptions(references=2, preceding=9))
    with pytest.raises(ValueError, match=r"references: found weights trained with 2, .* not 4"):
        apply(few, PRESETS["paper"])
    assert (
        apply(few, with_fields(PRESETS["paper"], ["references=2"])).context_frames.references == 2
    )


def test_fields_are_changed_by_text():
    changed = with_fields(
        PRESETS["paper"], ["steps=4", "shift=3", "reencode=false", "choice=voxels"]
    )
    assert (changed.sampler.steps, changed.sampler.shift) == (4, 3.0)
    assert not changed.memory.reencode
    assert changed.context_frames == PRESETS["paper"].context_frames
    for text, message in (
        ("step=4", "found 'step=4', expected NAME=VALUE of cells, "),
        ("steps", "found 'steps'"),
        ("steps=few", "steps: found 'few', expected int"),
        ("reencode=1", "reencode: found '1', expected true or false"),
        ("cells=middle", "cells: found 'middle', expected 'centre' or 'corner'"),
        ("preceding=-1", "preceding: found -1, expected >= 0"),
    ):
        with pytest.raises(ValueError, match=message):
            with_fields(PRESETS["paper"], [text])
