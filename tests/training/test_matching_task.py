"""Distribution matching as a task: who learns from what and when, and the student's own rollouts.

The network is affine, so that nothing is worth compiling.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from helpers import tiny_world
from helpers.affine_denoiser import TEXT, Affine
from helpers.tiny_world import CHANNELS, GRID, READOUT, SIZE
from mirage_jax import parallel, trajectories
from mirage_jax.geometry import Camera
from mirage_jax.nn.video_vae import LatentStats
from mirage_jax.training.branch_task import freeze_backbone
from mirage_jax.training.denoiser_task import DenoiserTask
from mirage_jax.training.matching_task import matched
from mirage_jax.world import conditioners
from mirage_jax.world.conditioners import RAY_CHANNELS, Frames, camera_rays
from mirage_jax.world.generated_clip import GeneratedClip, with_generated
from mirage_jax.world.latent_clip import FIELDS, from_fields
from mirage_jax.world.latent_encoder import LatentEncoder
from mirage_jax.world.predicted_clip import HistoryHead, true_keyframes

KEY = jax.random.key(3, impl="rbg")
POSES = trajectories.make("look_away", 17)
"""Two chunks of three latents."""


def denoiser_task(conditioner, **options):
    network = Affine(
        8, 1, 1, 8, CHANNELS, CHANNELS,
        memory_channels=conditioner.channels, ray_channels=RAY_CHANNELS,
    )  # fmt: skip
    options = {"size": SIZE, "chunks": 2, "chunk_latents": 3, "drop_memory": 0.0} | options
    return DenoiserTask(denoiser=network, conditioner=conditioner, **options)


@pytest.fixture(scope="module")
def made():
    """The denoiser's task, parameters of teacher, student and critic, and a batch with text."""
    told = conditioners.make("none", "conditioner", token_channels=CHANNELS, stride=8)
    task = denoiser_task(told)
    three = [nn.unbox(task.init(jax.random.key(seed))) for seed in range(3)]
    clips = tiny_world.latent_clips(2, POSES)
    batch = {name: jnp.asarray(getattr(clips, name)) for name in FIELDS}
    return task, three, batch | {"text": jax.random.normal(KEY, (2, 3, TEXT))}


def losses(task, batch, train=True):
    """(student, critic, step) -> losses of the two."""
    frozen = parallel.unboxed(task.frozen)

    def run(student, critic, step=0):
        params = {"student": student, "critic": critic}
        total, parts = task.loss(params, batch, KEY, train=train, frozen=frozen, step=step)
        return total, parts["matching"], parts["critic"]

    return run


@pytest.fixture(scope="module")
def told(made):
    """(student, critic, step) -> losses, and norms of their gradients by student and critic."""
    task, (teacher, *_), batch = made
    run = losses(matched(task, teacher, critic_steps=3, rollouts=0.0), batch)

    @jax.jit
    def both(student, critic, step):
        found, back = jax.vjp(functools.partial(run, step=step), student, critic)
        each = [back(tuple(jnp.eye(3)[number])) for number in range(3)]
        return found, [tuple(map(optax.global_norm, gradient)) for gradient in each]

    return both


def test_neither_learns_from_the_others_part(made, told):
    _, (_, student, critic), _ = made
    (total, matching, fit), (_, of_matching, of_fit) = told(student, critic, 2)
    assert min(matching, fit) > 0 and float(total) == pytest.approx(float(matching + fit))
    assert of_matching[0] > 0 and of_matching[1] == 0
    assert of_fit[0] == 0 and of_fit[1] > 0


def test_a_critic_that_is_the_teacher_tells_the_student_nothing(made, told):
    task, (teacher, student, _), batch = made
    found, norms = told(student, teacher, 2)
    # Two programs may round differently.
    assert found[1] < 1e-12 and norms[1][0] < 1e-6
    # But for the guidance, which the critic has not.
    guided = matched(task, teacher, critic_steps=1, rollouts=0.0, cfg_scale=3.0)
    assert float(jax.jit(losses(guided, batch))(student, teacher)[1]) > 1e-4


def test_the_student_moves_in_the_last_of_the_critics_steps(made, told):
    _, (_, student, critic), _ = made
    every = [told(student, critic, step) for step in range(6)]
    for step, (_, (norms, *_)) in enumerate(every):
        assert norms[1] > 0 and (norms[0] > 0) == (step in (2, 5))
    # Its samples are the same, whoever's turn it is.
    np.testing.assert_allclose(every[1][0][2], every[2][0][2], rtol=1e-6)


@pytest.mark.long
def test_a_branch_beside_its_backbone_has_the_losses_of_the_whole_denoiser(made):
    task, (teacher, student, critic), batch = made
    options = {"critic_steps": 1, "rollouts": 0.0}
    own = [{"ray_adapter": one["ray_adapter"]} for one in (student, critic)]
    branch = matched(freeze_backbone(task, teacher), teacher, **options)
    assert {name: sorted(of) for name, of in branch.init(KEY).items()} == {
        "student": ["ray_adapter"],
        "critic": ["ray_adapter"],
    }
    expected = jax.jit(losses(matched(task, teacher, **options), batch))(
        *({**teacher, **o} for o in own)
    )
    found = jax.jit(losses(branch, batch))(*own)
    assert min(map(float, expected)) > 0
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.fixture(scope="module")
def walked():
    """A task that reads a memory, teacher and student, clips, and what the student generated.

    In a single step, where all noise is that of the batch.
    """
    model = tiny_world.world_model()
    head = HistoryHead(model.head_params, model.head)
    base = denoiser_task(READOUT)
    teacher, student = (nn.unbox(base.init(jax.random.key(seed))) for seed in (0, 1))
    clips = tiny_world.latent_clips(12, POSES, preceding=1)
    task = matched(base, teacher, head=head, critic_steps=1, sampling_steps=1)
    frozen = parallel.unboxed(task.frozen)
    generated = jax.jit(lambda s, c: task.roll_out(s, c, None, KEY, frozen))(student, clips)
    return task, teacher, student, head, clips, generated


def test_the_chunk_before_the_last_is_the_students_own(walked):
    """Against a memory of the first picture, read and gone on from by hand."""
    task, _, student, head, clips, generated = walked

    @jax.jit
    def by_hand(latent, poses):
        is_image = jnp.ones((1, 1), bool)
        seen = head.head.apply({"params": head.params}, latent[None, None], is_image)
        camera = Camera(jnp.broadcast_to(clips.intrinsics[0], (9, 4)), poses, SIZE)
        shown = Frames(
            seen.image_tokens[0],
            seen.depth[0],
            camera[:1],
            jnp.zeros(1),
            static=jnp.ones_like(seen.depth[0]),
            confidence=seen.confidence[0],
        )
        bank = READOUT.write(READOUT.create(GRID[0] * GRID[1]), shown)[0]
        noise = jax.random.normal(KEY, (12, 3, *GRID, CHANNELS), jnp.float32)[:1]
        x = noise.at[:, 0].set(latent)
        velocity = task.base.denoiser.apply(
            {"params": student},
            x,
            jnp.asarray([[0.0, 1000.0, 1000.0]]),
            memory=READOUT.read(bank, camera)[None],
            rays=camera_rays(camera, GRID)[None],
        )
        return (x - velocity)[0, 1:]

    expected = by_hand(jnp.asarray(clips.chunks[0, 0, 0]), jnp.asarray(clips.cam2world[0, :9]))
    np.testing.assert_allclose(generated.clips.chunks[0, 0, 1:], expected, atol=1e-4)
    assert float(jnp.abs(expected - clips.chunks[0, 0, 1:]).mean()) > 0.1


def test_what_is_remembered_of_it_is_what_the_head_sees(walked):
    _, _, _, head, clips, generated = walked
    chunk = generated.clips.chunks[:, 0]
    is_image = jnp.broadcast_to(jnp.arange(3) == 0, (12, 3))
    look = jax.jit(lambda chunk: head.head.apply({"params": head.params}, chunk, is_image))
    seen = look(chunk)
    np.testing.assert_allclose(generated.seen.tokens[:, :3], seen.image_tokens, atol=1e-5)
    np.testing.assert_allclose(generated.seen.depth[:, :3], seen.depth, rtol=1e-5)
    # The last chunk begins with the token of the frame the two share, after the latent before it.
    np.testing.assert_array_equal(generated.clips.chunks[:, 1, 0], generated.seen.tokens[:, 2])
    np.testing.assert_array_equal(generated.clips.chunks[:, 1, 1:], clips.chunks[:, 1, 1:])
    np.testing.assert_array_equal(generated.clips.preceding, chunk[:, 1:2])
    true = [look(jnp.asarray(clips.chunks[:, number])).depth for number in (0, 1)]
    np.testing.assert_allclose(generated.seen.depth[:, 3:], true[1][:, 1:], rtol=1e-5)
    assert not np.allclose(seen.depth[:, 1:], true[0][:, 1:])


@pytest.mark.parametrize("share", [1.0, pytest.param(0.5, marks=pytest.mark.long)])
def test_samples_that_go_on_see_the_students_own_history_in_a_share(walked, share):
    task, _, _, _, clips, generated = walked

    @jax.jit
    def sampled(given):
        sample = task.base.sample(clips, KEY, generated=given, share=share)
        return sample.context, sample.target[:, 0]

    as_it_was = GeneratedClip(jax.tree.map(jnp.asarray, clips), true_keyframes(clips))
    (true, before), (own, first) = sampled(as_it_was), sampled(generated)
    begins = [
        (np.asarray(found) == np.asarray(expected)).all(axis=(1, 2, 3))
        for found, expected in (
            (first, generated.seen.tokens[:, 2]),
            (before, clips.chunks[:, 1, 0]),
        )
    ]
    # They begin with the generated token, and of those the last chunk of a clip follows in.
    differs = ~np.isclose(true, own).all(axis=(1, 2, 3, 4))
    np.testing.assert_array_equal(differs, begins[0])
    assert differs.sum() > 0 and begins[1][differs].all()
    if share == 1.0:
        np.testing.assert_array_equal(*begins)
    else:
        assert differs.sum() < begins[1].sum()


@pytest.mark.long
def test_rollouts_change_what_is_trained_on_and_not_what_is_evaluated(walked):
    task, _, student, _, clips, _ = walked
    batch = {name: jnp.asarray(getattr(clips, name)) for name in FIELDS}
    without = dataclasses.replace(task, rollouts=0.0)
    found = [
        float(jax.jit(losses(one, batch, train))(student, student)[2])
        for train in (True, False)
        for one in (task, without)
    ]
    assert found[0] != found[1] and found[2] == found[3]


class TrueHead(tiny_world.stand_in(HistoryHead)):
    """Takes what it is shown for true."""

    reencode = True

    def __call__(self, clips):
        return true_keyframes(clips)


def test_frames_are_seen_again_where_rollouts_encode_them_again():
    """By a codec that halves brightness with each decoding."""
    clips = tiny_world.latent_clips(2, POSES, preceding=2)
    fields = ("chunks", "tokens", "preceding", "rgb_chunks")
    three = {name: getattr(clips, name)[..., :3] for name in fields}
    clips, unit = clips.replace(**three), np.zeros(3, np.float32)
    codec = LatentEncoder({}, LatentStats(unit, unit + 1), tiny_world.Darkens())
    latents = jnp.clip(jnp.asarray(clips.chunks[:, 0]) + 0.5, -1.0, 1.0)
    found = with_generated(clips, latents, TrueHead(), codec)
    np.testing.assert_allclose(found.seen.tokens[:, 1:3], 0.5 * latents[:, 1:], atol=1e-6)
    np.testing.assert_array_equal(found.seen.tokens[:, 3:], clips.tokens[:, 3:])
    np.testing.assert_allclose(found.clips.chunks[:, 1, 0], 0.5 * latents[:, 2], atol=1e-6)
    # Frames 3 to 7 of 9 are a clip of their own: its latents are of frames 3 and 7.
    np.testing.assert_allclose(found.clips.preceding, 0.5 * latents[:, 1:], atol=1e-6)
    with pytest.raises(ValueError, match="encoder: found none, expected one"):
        with_generated(clips, latents, TrueHead())


def test_what_cannot_be_rolled_out_is_refused(walked):
    task, teacher, student, _, clips, _ = walked
    with pytest.raises(ValueError, match=r"rollouts: found 1.0 without a geometry head"):
        matched(task.base, teacher)
    frozen = parallel.unboxed(task.frozen)
    windows = clips.replace(chunks=clips.chunks[:, 1:])
    with pytest.raises(ValueError, match=r"found latents of 1 chunk, expected"):
        task.roll_out(student, windows, None, KEY, frozen)
    bodies = from_fields({name: getattr(clips, name) for name in FIELDS} | {"bodies": 0})
    with pytest.raises(ValueError, match=r"found bodies, expected none"):
        task.roll_out(student, bodies, None, KEY, frozen)
