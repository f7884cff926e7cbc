import dataclasses
import types

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import tiny_world
from helpers.tiny_world import CHANNELS, CHUNK, GRID, INTRINSICS, SIZE
from mirage_jax import memory, trajectories
from mirage_jax.geometry import Camera
from mirage_jax.nn.geometry_head import Geometry, GeometryHead
from mirage_jax.nn.video_vae import LatentStats
from mirage_jax.world import (
    WorldModel,
    chunk_step,
    load_world,
    rollout,
    save_world,
)
from mirage_jax.world.conditioners import Folded, Nothing
from mirage_jax.world.latent_encoder import LatentEncoder, to_model_range
from mirage_jax.world.options import MemoryOptions, SamplerOptions
from mirage_jax.world.timeline import Timeline

CELLS = GRID[0] * GRID[1]
CAPACITY = 4 * CELLS
"""Room for all that is remembered of `PATH`: of one picture and of three chunks."""
START = trajectories.make("orbit_right", 2, angle=30, distance=2)[-1]
PATH = trajectories.make("look_and_walk", 3 * (CHUNK - 1) + 1, angle=50, distance=0.5, start=START)
PICTURE = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
KEY = jax.random.key(7)

begin_jit = jax.jit(WorldModel.begin, static_argnums=(5, 6))
advance = jax.jit(WorldModel.advance)


def begin(model, picture, camera, capacity, depth=None):
    depth = None if depth is None else depth[None]
    return begin_jit(model, to_model_range(picture)[None], camera[None], depth, None, capacity)


def walked(*arguments, **options):
    """All chunks of a rollout, and the world after it."""
    chunks = list(rollout(*arguments, **options))
    return chunks, chunks[-1].world


def camera_at(pose):
    return Camera(INTRINSICS, np.asarray(pose, np.float32), SIZE)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def model():
    return tiny_world.world_model()


@pytest.fixture(scope="module")
def started(model):
    return begin(model, PICTURE, camera_at(START), CAPACITY)


@pytest.fixture(scope="module")
def walk(model, started, tmp_path_factory):
    """PATH in one rollout, and again with the world saved and loaded after its first chunk."""
    traces = []

    def traced(*arguments, **options):
        traces.append(1)
        return read(*arguments, **options)

    read = Folded.read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Folded, "read", traced)
        chunks, final = walked(model, started[0], PATH, KEY)
        path = tmp_path_factory.mktemp("world") / "walk.world"
        parts, first = walked(model, started[0], PATH[:CHUNK], KEY)
        save_world(path, first)
        more, resumed = walked(model, load_world(path), PATH[CHUNK - 1 :], KEY)
        parts += more
    return types.SimpleNamespace(
        chunks=chunks, final=final, parts=parts, resumed=resumed, path=path, traces=len(traces)
    )


# -- the rollout ---------------------------------------------------------------------------------


def test_chunks_are_handed_over_in_order_as_they_are_made(walk):
    assert [chunk.index for chunk in walk.chunks] == [0, 1, 2]
    assert [len(chunk.video) for chunk in walk.chunks] == [5, 4, 4]  # one frame is shared
    for chunk in walk.chunks:
        assert chunk.video.dtype == np.uint8 and chunk.video.shape[1:] == (*SIZE, 3)
    assert [int(chunk.world.frames) for chunk in walk.chunks] == [5, 9, 13]
    for chunk, frame in zip(walk.chunks, (4, 8, 12), strict=True):
        np.testing.assert_allclose(chunk.world.cam2world, PATH[frame], atol=1e-6)
    assert_same(walk.chunks[-1].world, walk.final)


def test_noise_can_be_given(model, started, walk):
    """That of the key gives what the key gives, whatever the key."""
    shape = (1, 2, *GRID, CHANNELS)
    noise = [jax.random.normal(jax.random.fold_in(KEY, n), shape)[0] for n in range(3)]
    chunks, final = walked(model, started[0], PATH, jax.random.key(8), noise=noise)
    for found, expected in zip(chunks, walk.chunks, strict=True):
        np.testing.assert_array_equal(found.video, expected.video)
    assert_same(final, walk.final)
    with pytest.raises(ValueError, match=r"noise: found 2 arrays of shapes .*, expected one for e"):
        rollout(model, started[0], PATH, noise=noise[:2])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_latents_that_are_not_finite_stop_the_rollout_by_name(model, started, monkeypatch, value):
    """One value that the second chunk begins with is enough; the first is handed over."""
    denoise = chunk_step._denoise

    def breaks(model, given, key, number, noise):
        first = given["first"] if number == 0 else given["first"].at[0, 0, 0, 0].set(value)
        return denoise(model, given | {"first": first}, key, number, noise)

    monkeypatch.setattr(chunk_step, "_denoise", breaks)
    chunks = rollout(model, started[0], PATH, KEY)
    assert np.isfinite(np.asarray(next(chunks).world.latent)).all()
    with pytest.raises(ValueError, match=r"^chunk 1: the denoiser's latents are not all finite"):
        next(chunks)


def test_every_chunk_runs_the_same_compiled_step(walk):
    """Three chunks, and three of a world that was loaded from a file: traced once."""
    assert walk.traces == 1


def test_a_saved_world_continues_as_if_it_had_never_stopped(walk):
    assert_same(walk.resumed, walk.final)
    assert [part.index for part in walk.parts] == [0, 1, 2]
    for part, chunk in zip(walk.parts, walk.chunks, strict=True):
        np.testing.assert_array_equal(part.video, chunk.video)


def test_a_rollout_that_is_undone_and_taken_again_is_the_same_bit_for_bit(model, started, walk):
    timeline = Timeline(started[0])
    for chunk in walk.chunks:
        timeline.record(chunk.world)
    assert_same(timeline.undo(2), walk.chunks[0].world)
    chunks, final = walked(model, timeline.world, PATH[CHUNK - 1 :], KEY)
    for again, chunk in zip(chunks, walk.chunks[1:], strict=True):
        np.testing.assert_array_equal(again.video, chunk.video)
    assert_same(final, walk.final)
    assert_same(timeline.redo(2), walk.final)
    assert_same(timeline.undo(3), started[0])


def test_elements_are_where_their_frame_was_seen_from(started, walk):
    bank = walk.final.bank
    valid = np.asarray(bank.valid)
    assert set(np.asarray(bank.time)[valid].tolist()) <= {0.0, 4.0, 8.0, 12.0}
    assert (np.asarray(bank.time)[valid] == 12).any()
    for time in (0, 4, 8, 12):
        mine = valid & (np.asarray(bank.time) == time)
        np.testing.assert_allclose(
            bank.origin[mine], np.tile(PATH[time][:3, 3], (mine.sum(), 1)), atol=1e-5
        )
        points = np.asarray(bank.xyz)[mine] - PATH[time][:3, 3]
        x, y, z = (points @ PATH[time][:3, :3]).T
        fx, fy, cx, cy = INTRINSICS
        cells = np.stack([(fy * y / z + cy) / 8, (fx * x / z + cx) / 8], axis=-1)
        # In the centre of a cell of that frame, each in another.
        np.testing.assert_allclose(cells, np.floor(cells) + 0.5, atol=1e-3)
        assert ((cells >= 0) & (cells < GRID)).all()
        assert len(set(map(tuple, np.floor(cells).tolist()))) == mine.sum()
    # What is stored of the picture is its own latent: its token needs no correction.
    first = started[0]
    assert np.asarray(first.bank.valid)[:CELLS].all()
    np.testing.assert_array_equal(
        first.bank.tokens[:CELLS], np.asarray(first.latent).reshape(CELLS, CHANNELS)
    )


def test_every_cell_of_a_walk_is_accounted_for(started, walk):
    reports = [started[1], *(chunk.report for chunk in walk.chunks)]
    elements = 0
    for report in reports:
        assert int(report.written) + int(report.fused) == CELLS and int(report.dropped) == 0
        elements += int(report.written) - int(report.contradicted) - int(report.evicted)
    bank = walk.final.bank
    assert elements == int(bank.valid.sum()) <= CAPACITY and int(bank.dropped) == 0
    assert int(bank.evicted) == sum(int(report.evicted) for report in reports)
    # The camera goes on to what was seen before: some of it is known.
    assert sum(int(report.fused) for report in reports) > 0


@pytest.mark.parametrize("fuse", [True, False])
def test_a_full_memory_keeps_the_newest_or_counts_what_it_cannot_hold(model, fuse):
    """Two pictures back to back, and room for one and two cells more."""
    back = trajectories.make("orbit_right", 2, angle=180, distance=2)[-1]
    poses = np.stack([np.eye(4), back @ np.eye(4)]).astype(np.float32)
    poses[1, :3, 3] = 0
    camera = Camera(np.tile(INTRINSICS, (2, 1)), poses, SIZE)
    options = dataclasses.replace(model.memory, fuse=fuse)
    pictures = to_model_range(np.stack([PICTURE, PICTURE]))
    capacity = CELLS + 2
    world, report = begin_jit(model.replace(memory=options), pictures, camera, None, None, capacity)
    assert int(world.bank.valid.sum()) == int(world.bank.count) == capacity
    newest = int((np.asarray(world.bank.time) == 1).sum())
    lost, made_room = int(report.dropped), int(report.evicted)
    assert (newest, lost, made_room) == ((CELLS, 0, CELLS - 2) if fuse else (2, CELLS - 2, 0))
    assert int(report.written) == 2 * CELLS - lost
    assert (int(world.bank.dropped), int(world.bank.evicted)) == (lost, made_room)


def test_a_chunk_begins_with_the_latent_it_was_given(model, started, walk):
    world = walk.chunks[0].world
    _, latents, _ = advance(model, world, jnp.asarray(PATH[4:9], jnp.float32), KEY)
    np.testing.assert_array_equal(latents[0], world.latent)
    # So the first frame is that of the picture, wherever the camera goes next.
    elsewhere = trajectories.make("pan_left", CHUNK, start=START)
    other, _ = walked(model, started[0], elsewhere, jax.random.key(8))
    np.testing.assert_array_equal(other[0].video[0], walk.chunks[0].video[0])
    assert (other[0].video[1:] != walk.chunks[0].video[1:]).any()


def test_what_is_generated_depends_on_what_is_remembered(model, started):
    world, poses = started[0], jnp.asarray(PATH[:CHUNK], jnp.float32)
    _, latents, _ = advance(model, world, poses, KEY)
    emptied = world.replace(bank=world.bank.replace(valid=jnp.zeros(CAPACITY, bool)))
    _, without, _ = advance(model, emptied, poses, KEY)
    _, blank, _ = advance(model, world.replace(bank=memory.create(CAPACITY, CHANNELS)), poses, KEY)
    assert np.abs(np.asarray(latents - without)).max() > 1e-2
    np.testing.assert_array_equal(without, blank)


def test_moving_the_whole_world_changes_nothing_that_is_seen(model, walk):
    move = trajectories.make("orbit_left", 2, angle=110, distance=3)[-1]
    there, _ = begin(model, PICTURE, camera_at(move @ START), CAPACITY)
    chunks, _ = walked(model, there, move @ PATH, KEY)
    for chunk, other in zip(walk.chunks, chunks, strict=True):
        difference = chunk.video.astype(int) - other.video
        assert np.abs(difference).max() <= 1


class Told(tiny_world.stand_in(GeometryHead)):
    """Two metres away; one cell moves, one is sky; a token is one more than its latent."""

    def apply(self, variables, latents, image):
        still = jnp.full((1, latents.shape[1], *GRID), -5.0)
        return Geometry(
            log_depth=jnp.full(still.shape, np.log(2.0)),
            log_scale=jnp.full(still.shape, np.log(0.25)),
            mover_logit=still.at[:, :, 0, 0].set(5.0),
            sky_logit=still.at[:, :, 1, 2].set(5.0),
            image_tokens=latents + 1,
        )


@flax.struct.dataclass
class Dreamer(WorldModel):
    """Generates noise, whatever its context."""

    def denoise(self, first, context, rays, key):
        noise = 3 * jax.random.normal(key, (1, 2, *GRID, 3))
        return noise.at[:, 0].set(first)


@pytest.fixture(scope="module")
def dreamer(model):
    unit = LatentStats(mean=jnp.zeros(3), std=jnp.ones(3))
    fields = {f.name: getattr(model, f.name) for f in dataclasses.fields(model)}
    encoder = LatentEncoder(None, unit, tiny_world.Darkens())
    memory_options = MemoryOptions(sky_depth=50.0)
    fields["conditioner"] = Folded(3, 8)
    return Dreamer(**fields | {"encoder": encoder, "head": Told(), "memory": memory_options})


def test_sky_is_remembered_far_away_and_movers_are_not(dreamer):
    world, report = begin(dreamer, PICTURE, camera_at(np.eye(4)), CELLS)
    assert (int(report.written), int(report.moving)) == (CELLS - 1, 1)
    bank = world.bank
    np.testing.assert_allclose(bank.xyz[: CELLS - 1, 2], [2, 2, 2, 2, 50], rtol=1e-5)
    colours = PICTURE.reshape(2, 8, 3, 8, 3).mean((1, 3)).reshape(CELLS, 3) / 127.5 - 1
    np.testing.assert_allclose(bank.tokens[:5], colours[1:] + 1, atol=1e-5)
    np.testing.assert_allclose(bank.confidence[:5], np.exp(-0.25), rtol=1e-5)


def test_a_given_depth_stands_in_for_that_of_the_head(dreamer):
    """2 m is what the head says; a cell of unknown depth, one of sky and a mover among the rest."""
    depth = np.linspace(3, 8, CELLS, dtype=np.float32).reshape(GRID)
    depth[0, 1], depth[0, 2] = 0.0, np.inf
    pixels = depth.repeat(8, axis=0).repeat(8, axis=1)
    pixels[8:12, :8] = 1.0  # just the half of a cell: still a depth that occurs there
    world, report = begin(dreamer, PICTURE, camera_at(START), CELLS, pixels)
    assert (int(report.written), int(report.moving), int(report.unknown_depth)) == (CELLS - 2, 1, 1)
    seen = (np.asarray(world.bank.xyz[: CELLS - 2]) - START[:3, 3]) @ START[:3, :3]
    np.testing.assert_allclose(seen[:, 2], [50.0, 1.0, depth[1, 1], depth[1, 2]], rtol=1e-5)
    np.testing.assert_allclose(world.bank.confidence[: CELLS - 2], [1, 0.5, 1, 1], rtol=1e-5)


@pytest.mark.parametrize("reencode", [False, True])
def test_what_is_remembered_comes_from_latents_or_from_decoded_frames(dreamer, reencode):
    world, _ = begin(dreamer, PICTURE, camera_at(np.eye(4)), CELLS)
    dreamer = dreamer.replace(memory=dataclasses.replace(dreamer.memory, reencode=reencode))
    hold = jnp.tile(jnp.eye(4), (CHUNK, 1, 1))
    after, latents, _ = advance(dreamer, world.replace(bank=memory.create(CELLS, 3)), hold, KEY)
    # The paper's way: decode, clip, encode the frame alone.
    seen = jnp.clip(0.5 * latents[1], -1, 1) if reencode else latents[1]
    np.testing.assert_allclose(after.latent, seen + 1, atol=1e-5)
    stored = np.asarray(after.bank.tokens[: CELLS - 1])
    np.testing.assert_allclose(stored, (seen + 1).reshape(CELLS, 3)[1:], atol=1e-5)
    assert set(np.asarray(after.bank.time)[:5].tolist()) == {4.0}


def test_a_denoiser_without_memory_rolls_out_too(model, started):
    world, network = started[0], tiny_world.denoiser(0)
    params = tiny_world.random_params(
        network, 0, jnp.zeros((1, 2, *GRID, CHANNELS)), jnp.zeros((1, 2))
    )
    plain = model.replace(
        denoiser=network, denoiser_params=params, conditioner=Nothing(CHANNELS, tiny_world.STRIDE)
    )
    empty = world.replace(bank=memory.create(CAPACITY, CHANNELS))
    poses = jnp.asarray(PATH[:CHUNK], jnp.float32)
    after, latents, _ = advance(plain, world, poses, KEY)
    np.testing.assert_allclose(latents[0], world.latent, atol=1e-6)
    np.testing.assert_array_equal(latents, advance(plain, empty, poses, KEY)[1])
    still = jnp.tile(poses[:1], (CHUNK, 1, 1))
    assert np.abs(latents[1] - advance(plain, world, still, KEY)[1][1]).max() > 1e-3
    # What nobody reads is not stored.
    assert_same(after.bank, world.bank)
    np.testing.assert_array_equal(after.frames, world.frames + CHUNK - 1)


# -- paths that cannot be walked -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: p[:-1], "found 4 poses, expected 1 \\+ 4 n, for example 5 or 9"),
        (lambda p: p[:1], "found 1 poses"),
        (lambda p: p + 0.1 * np.eye(4, k=3), "first pose is 0.1 away"),
        (lambda p: p @ np.diag([1.0, 1, -1, 1]), r"camera path\[0\].*right-handed"),
        (
            lambda p: np.where(np.arange(5)[:, None, None] == 2, np.nan, p),
            r"camera path\[2\].*finite",
        ),
    ],
)
def test_bad_paths_are_refused_before_anything_is_generated(model, started, spoil, message):
    with pytest.raises(ValueError, match=message):
        rollout(model, started[0], spoil(PATH[:CHUNK]), KEY)


@pytest.mark.parametrize(
    ("intrinsics", "message"),
    [
        (
            np.tile(INTRINSICS, (CHUNK - 1, 1)),
            r"intrinsics: found shape \(4, 4\), expected \(5, 4\)",
        ),
        (np.tile(-INTRINSICS, (CHUNK, 1)), r"intrinsics\[0\]: .*focal lengths fx, fy above 0"),
    ],
)
def test_intrinsics_that_do_not_fit_the_path_are_refused(model, started, intrinsics, message):
    with pytest.raises(ValueError, match=message):
        rollout(model, started[0], PATH[:CHUNK], KEY, intrinsics=intrinsics)


def test_guidance_without_a_text_is_refused(model, started):
    guided = model.replace(sampler=SamplerOptions(cfg_scale=3.0))
    with pytest.raises(ValueError, match=r"cfg_scale: found 3\.0 without a text, expected 1"):
        rollout(guided, started[0], PATH[:CHUNK], KEY)


def test_model_world_and_chunk_print_in_a_line_and_not_as_their_arrays(model, walk, started):
    chunk = walk.chunks[0]
    for thing, words in (
        (model, f"size={SIZE}"),
        (chunk.world, f"frames={int(chunk.world.frames)}, "),
        (chunk, f"video of {chunk.video.shape}, World(frames=5, "),
    ):
        assert words in repr(thing) and "array" not in repr(thing).lower()
        assert len(repr(thing)) < 500 and "\n" not in repr(thing)
    jax.eval_shape(lambda world: (repr(world), world)[1], started[0])  # of traced arrays too


def test_a_head_with_a_finer_grid_than_the_latents_writes_a_cell_each():
    head = GeometryHead(width=8, layers=1, cells_up=2)
    latents = jnp.zeros((1, 2, *GRID, CHANNELS))
    params = tiny_world.random_params(head, 0, latents, jnp.zeros((1, 2), bool))
    model = tiny_world.world_model().replace(head=head, head_params=params)
    world = model.start(PICTURE)
    _, _, report = advance(model, world, jnp.asarray(PATH[:CHUNK], jnp.float32), KEY)
    assert sum(int(number) for number in report.counts.values()) == CELLS
