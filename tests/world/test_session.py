"""A session is a rollout that is steered, and everything in it can be taken back."""

import dataclasses

import jax
import numpy as np
import pytest

from helpers import tiny_world
from helpers.tiny_world import INTRINSICS, SIZE
from mirage_jax import Controls, Session, SessionOptions, memory, rollout
from mirage_jax.geometry import Camera, project
from mirage_jax.memory import movers, regions
from mirage_jax.origin import Origin
from mirage_jax.trajectories import make
from mirage_jax.world.latent_encoder import to_uint8
from mirage_jax.world.options import ContextFrameOptions, MemoryOptions
from mirage_jax.world.plan import TokenColours, decode_frame, of_memory
from mirage_jax.world.warming import denoise_steps
from mirage_jax.world.world_file import read_world_file

START = make("orbit_right", 2, angle=30, distance=2)[-1]
PICTURE = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
OPTIONS = SessionOptions(walls=False, seed=3)
HELD = (["w"], ["w", "right"], ["left", "up"], [], ["s", "a", "e"])


def bits(tree):
    return [(np.asarray(leaf).dtype, np.asarray(leaf).tobytes()) for leaf in jax.tree.leaves(tree)]


@pytest.fixture(scope="module")
def model():
    longer = tiny_world.world_model(memory=MemoryOptions(capacity=30))
    return longer.replace(chunk_frames=17)  # as trained; sessions take shorter chunks


@pytest.fixture(scope="module")
def world(model):
    return model.start(PICTURE, Camera(INTRINSICS, START, SIZE))


@pytest.fixture
def session(model, world):
    return Session(model, world, options=OPTIONS)


def states(session, steps=HELD):
    """The world, pose and last frame before any step and after each."""
    found = [(bits(session.world), session.pose, session.picture)]
    for held in steps:
        session.step(held)
        found.append((bits(session.world), session.pose, session.picture))
    return found


def assert_at(session, state):
    world, pose, picture = state
    assert bits(session.world) == world
    np.testing.assert_array_equal(session.pose, pose)
    np.testing.assert_array_equal(session.picture, picture)


# -- going on --------------------------------------------------------------------------------------


@pytest.mark.parametrize("far", [0.0, 4_500_000.0])
def test_keys_give_the_frames_of_a_rollout_along_their_path(model, far):
    start = START.copy()
    start[0, 3] += far
    world = model.start(PICTURE, Camera(INTRINSICS, start, SIZE))
    session = Session(model, world, options=OPTIONS)
    steps = [session.step(held) for held in HELD]
    chunks = list(rollout(session.model, world, session.path, jax.random.key(OPTIONS.seed)))
    assert [step.number for step in steps] == [chunk.index for chunk in chunks]
    for step, chunk in zip(steps, chunks, strict=True):
        np.testing.assert_array_equal(step.video, chunk.video[-4:])
        written = {name: int(getattr(chunk.report, name)) for name in step.report}
        assert step.report == written and sum(written.values()) >= 6
    assert bits(session.world) == bits(chunks[-1].world)
    assert session.world.origin == chunks[-1].world.origin
    assert (session.world.origin == Origin()) == (far == 0)
    np.testing.assert_array_equal(session.path[1:], np.concatenate([s.poses for s in steps]))
    np.testing.assert_allclose(session.path[0], start, atol=1e-6)
    assert [step.moved for step in steps] == [True, True, True, False, True]


@pytest.mark.long
def test_longer_chunks_hold_keys_for_longer(model, world):
    longer = Session(model, world, options=dataclasses.replace(OPTIONS, chunk_frames=9))
    step = longer.step("w")
    assert step.video.shape == (8, *SIZE, 3) and len(longer.path) == 9
    assert np.linalg.norm(longer.pose[:3, 3] - START[:3, 3]) == pytest.approx(1.5 * 8 / 16)
    with pytest.raises(ValueError, match=r"chunk_frames: .* expected 1 \+ 4 n"):
        SessionOptions(chunk_frames=8)


def test_a_wall_of_what_is_remembered_stops_the_walker(model, world):
    ahead = START[:3, 3] + 0.3 * START[:3, 2]
    bank = world.bank.replace(
        xyz=world.bank.xyz.at[0].set(ahead), size=world.bank.size.at[0].set(0)
    )
    session = Session(model, world.replace(bank=bank), options=SessionOptions(radius=0.2))
    step = session.step("w")
    assert step.blocked and np.linalg.norm(ahead - session.pose[:3, 3]) >= 0.2 - 1e-6
    assert not session.step("s").blocked


def test_without_memory_chunks_are_those_of_an_empty_one_and_are_written(session, model, world):
    empty = world.replace(bank=model.conditioner.create(world.bank.capacity))
    session.memory_on = False
    step = session.step("w")
    remembering = Session(model, world, options=OPTIONS)
    assert (remembering.step("w").video != step.video).any()
    np.testing.assert_array_equal(
        Session(model, empty, options=OPTIONS).step("w").video, step.video
    )
    assert int(session.world.bank.valid.sum()) > int(world.bank.valid.sum())


def test_a_step_that_fails_leaves_all_as_it_was(session, monkeypatch):
    session.step("w")
    before = bits(session.world), session.pose
    with pytest.raises(ValueError, match="keys: found 'x'"):
        session.step("x")
    monkeypatch.setattr("mirage_jax.world.chunk_step._denoise", lambda *_: (np.zeros(1), False))
    monkeypatch.setattr("mirage_jax.world.chunk_step._decode", lambda *_: np.zeros(1))
    with pytest.raises(ValueError, match="chunk 1: the denoiser's latents are not all finite"):
        session.step("w")
    assert bits(session.world) == before[0] and session.timeline.undoable == 1
    np.testing.assert_array_equal(session.pose, before[1])


def test_stages_are_timed_and_sum_up(session):
    stages = session.step("w").stages
    assert list(stages) == ["input", "read", "denoise", "decode", "geometry_write", "total"]
    total = stages.pop("total")
    assert all(seconds > 0 for seconds in stages.values()) and sum(stages.values()) <= total


def test_starts_that_do_not_fit_are_refused(model, world):
    with pytest.raises(ValueError, match="camera: found one beside a world"):
        Session(model, world, camera=Camera(INTRINSICS, START, SIZE))
    with pytest.raises(ValueError, match="memory of 7 channels"):
        Session(model, world.replace(bank=memory.create(4, 7)))


# -- nothing is compiled while somebody walks ------------------------------------------------------


def everything(session, tmp_path):
    """All that one can do in a session."""
    near = regions.Sphere(session.pose[:3, 3].astype(np.float32), np.float32(9))
    for held in HELD[:3]:
        session.step(held)
    session.memory_on = False
    session.step("w")
    session.memory_on = True
    session.undo(2)
    session.redo()
    session.mark("here")
    session.step(Controls(yaw=0.3))
    session.go("here")
    session.step("w")
    session.edit(lambda bank: memory.edit.delete(bank, near))
    session.picture, session.read_out(), session.statistics()
    session.add_keyframe()
    mask = np.zeros(session.plan().capacity, bool)
    mask[session.plan().slot[:2]] = True
    session.edit(lambda bank: memory.edit.pin(bank, mask))
    for _ in range(3):
        session.step("a")
    session.undo(4)
    other, branch = session.share(), session.branch()
    for walker in (other, session, branch):
        walker.step("e")
    other.leave()
    session.undo()
    session.save(tmp_path / "walk.world")


@pytest.mark.parametrize(
    "context",
    [
        ContextFrameOptions(),
        pytest.param(ContextFrameOptions(references=2, preceding=5), marks=pytest.mark.long),
    ],
    ids=["memory alone", "context frames"],
)
def test_nothing_is_compiled_while_somebody_walks(context, tmp_path):
    compiled = []

    def note(name, seconds, **details):
        if "backend_compile" in name:
            compiled.append(details)

    model = tiny_world.world_model(context_frames=context, memory=MemoryOptions(capacity=31))
    session = Session(model, PICTURE, options=OPTIONS)
    before, shares = bits(session.world), []
    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        session.warm_up(lambda what, share: shares.append(share))
        warm = len(compiled)
        everything(session, tmp_path)
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert warm > 5 and compiled[warm:] == []
    assert shares[0] == 0 and shares[-1] == 1 and shares == sorted(shares)
    assert len(before) == len(bits(session.world))


# -- going back ------------------------------------------------------------------------------------


def test_steps_are_undone_and_taken_again_bit_for_bit(session):
    walked = states(session)
    for state in reversed(walked[:-1]):
        session.undo()
        assert_at(session, state)
    session.redo(len(HELD))
    assert_at(session, walked[-1])
    session.undo(2)
    assert len(session.path) == 1 + 4 * 3
    again = states(session, HELD[3:])
    assert_at(session, walked[-1])
    assert again[-1][0] == walked[-1][0]
    with pytest.raises(ValueError, match="undo: found 9 steps, expected 1 to 5"):
        session.undo(9)


def test_marks_lead_to_another_branch_and_its_path(session, model, tmp_path):
    walked = states(session, HELD[:2])
    session.mark("corner")
    session.undo()
    other = states(session, (["q"], ["d"]))
    path = session.path
    session.go("corner")
    assert_at(session, walked[2])
    assert len(session.path) == 9 and (session.path[5:] != path[5:9]).any()
    session.save(tmp_path / "marks.world")
    loaded = Session.load(model, tmp_path / "marks.world", options=OPTIONS)
    loaded.step("w")
    loaded.go("corner")
    assert bits(loaded.world) == walked[2][0]
    assert other[0][0] == walked[1][0]


def test_the_past_takes_no_more_room_than_it_may(model, world):
    session = Session(model, world, options=dataclasses.replace(OPTIONS, undo_steps=2))
    states(session)
    session.undo(session.timeline.undoable)
    assert len(session.path) == 1 + 4 * (len(HELD) - 2)
    assert len(session._trails) == len(session.timeline.kept) <= 4
    assert session.statistics()["forgotten"] > 0


def test_edits_are_steps_too(session):
    walked = states(session, HELD[:2])
    everywhere = regions.Box(np.full(3, -1e3, np.float32), np.full(3, 1e3, np.float32))
    outcome = session.edit(lambda bank: memory.edit.delete(bank, everywhere))
    assert outcome.memory["removed"] > 0 == session.statistics()["elements"]
    assert not session.read_out().any() and not len(session.plan().xyz)
    session.undo()
    assert_at(session, walked[2])


# -- beside each other -----------------------------------------------------------------------------


def test_a_branch_goes_on_by_itself(session):
    walked = states(session, HELD[:2])
    branch = session.branch()
    assert_at(branch, walked[2])
    found = states(branch, HELD[2:])
    assert_at(session, walked[2])
    assert states(session, HELD[2:])[-1][0] == found[-1][0]
    branch.undo(3)
    assert_at(branch, walked[2])
    with pytest.raises(ValueError, match="undo: found 1 steps, expected 1 to 0"):
        branch.undo()


def test_what_one_has_written_the_other_sees(session, model):
    session.step("w")
    before = bits(session.world)
    other = session.share()
    session.step(["right"])
    assert bits(other.world.bank) == bits(session.world.bank)
    np.testing.assert_array_equal(other.pose, session.path[4])
    # The other's next chunk is that of a world with this memory.
    alone = Session(model, other.world, options=OPTIONS).step("a")
    np.testing.assert_array_equal(other.step("a").video, alone.video)
    assert bits(other.world.bank) == bits(session.world.bank)
    for refused in (session.undo, other.redo, lambda: session.mark("x"), lambda: other.go("x")):
        with pytest.raises(ValueError, match="found 2 who walk in this memory, expected one"):
            refused()
    other.leave()
    session.step("w")
    assert bits(other.world.bank) != bits(session.world.bank)
    session.undo(2)  # the step alone, and all of the time together
    assert bits(session.world) == before


# -- what is remembered ----------------------------------------------------------------------------


def test_the_read_out_is_black_where_nothing_is_remembered(session, model):
    session.step("w")
    half = np.arange(session.plan().capacity) % 2 == 0
    session.edit(lambda bank: memory.edit.delete(bank, half))
    shown = memory.read(session.world.bank, session.camera, model.grid)
    decoded = to_uint8(decode_frame(model.encoder, shown.tokens)).astype(int)
    visible = np.asarray(shown.visible).repeat(8, axis=0).repeat(8, axis=1)[..., None] > 0
    assert visible.any() and not visible.all()
    assert np.abs(session.read_out() - decoded * visible).max() <= 1


def test_the_plan_shows_elements_where_they_are_and_how_they_look(model):
    far = np.eye(4)
    far[0, 3] = 3_000_000.0
    world = model.start(PICTURE, Camera(INTRINSICS, far, SIZE))
    session = Session(model, world, options=OPTIONS)
    session.step("w")
    shown, bank = session.plan(), session.world.bank
    statistics = session.statistics()
    assert len(shown.xyz) == len(shown.slot) == statistics["elements"]
    assert shown.capacity == statistics["capacity"] == 30
    np.testing.assert_allclose(
        shown.xyz, np.asarray(bank.xyz, np.float64)[shown.slot] + session.world.origin.space
    )
    assert shown.colour.shape == (len(shown.xyz), 3) and shown.colour.dtype == np.uint8
    assert set(shown.age.tolist()) <= {0.0, 4.0}
    np.testing.assert_allclose(shown.pose, session.pose, atol=1e-6)
    # The corners of the picture, seen from the camera, are the corners of the picture.
    local = (shown.frustum[1:] - session.pose[:3, 3]) @ session.pose[:3, :3]
    uv, z = project(np.float32(local), Camera(INTRINSICS, np.eye(4, dtype=np.float32), SIZE))
    np.testing.assert_allclose(uv, [[0, 0], [24, 0], [24, 16], [0, 16]], atol=1e-4)
    np.testing.assert_allclose(z, 1, atol=1e-5)


def test_the_plan_names_bodies_that_are_known(model):
    world = model.start(PICTURE)
    table = movers.create(world.bank.channels, np.float32([0, -1, 0]))
    table = table.replace(
        status=table.status.at[:2].set(np.int32([movers.TENTATIVE, movers.CONFIRMED])),
        id=table.id.at[1].set(7),
        position=table.position.at[1].set(np.float32([1, 2, 3])),
    )
    camera, colours = (
        Camera(INTRINSICS, np.eye(4, dtype=np.float32), SIZE),
        TokenColours(world.bank.channels),
    )
    shown = of_memory(world.bank, Origin((10.0, 0.0, 0.0)), camera, colours, np.eye(3)[1], table)
    [body] = shown.entities
    assert body["name"] == "body 7" and body["track"].tolist() == [[11, 2, 3]]


def test_colours_that_are_linear_in_tokens_are_told():
    rng = np.random.default_rng(0)
    linear = rng.uniform(-40, 40, (5, 3))
    colours = TokenColours(5)

    def looks(tokens):
        return np.round(tokens @ linear + 128).astype(np.uint8)

    for _ in range(4):
        tokens = rng.uniform(-0.5, 0.5, (6, 4, 5)).astype(np.float32)
        colours.add(tokens, looks(tokens).repeat(8, 0).repeat(8, 1))
    tokens = rng.uniform(-0.5, 0.5, (50, 5)).astype(np.float32)
    np.testing.assert_allclose(colours(tokens), looks(tokens), atol=2)


def test_a_keyframe_stays_whatever_is_written(session):
    pinned = session.add_keyframe()
    assert pinned == session.statistics()["pinned"] > 0
    kept = np.flatnonzero(np.asarray(session.world.bank.pinned))
    tokens = np.asarray(session.world.bank.xyz)[kept]
    for _ in range(8):  # more than fit
        session.step(["right"])
    assert session.statistics()["evicted"] > 0
    found = np.asarray(session.world.bank.xyz)[np.asarray(session.world.bank.pinned)]
    assert len(found) == len(tokens)


def test_a_session_goes_on_from_its_file_bit_for_bit(session, model, tmp_path):
    states(session, HELD[:2])
    session.save(tmp_path / "walk.world")
    loaded = Session.load(model, tmp_path / "walk.world", options=OPTIONS)
    assert bits(loaded.world) == bits(session.world)
    known = read_world_file(tmp_path / "walk.world").camera_path
    np.testing.assert_array_equal(known.cam2world, session.path)
    np.testing.assert_allclose(np.diff(known.times), 1 / 16)
    ours, theirs = session.step("w"), loaded.step("w")
    np.testing.assert_array_equal(ours.video, theirs.video)
    loaded.save(tmp_path / "more.world")
    path = read_world_file(tmp_path / "more.world").camera_path
    assert len(path.cam2world) == 13
    np.testing.assert_allclose(path.cam2world, session.path, atol=1e-6)


def test_timing_the_denoising_steps_changes_nothing(session):
    (state,) = states(session, [])
    steps = denoise_steps(session)
    assert len(steps) == session.model.sampler.steps
    assert min(steps) > 0
    assert_at(session, state)
