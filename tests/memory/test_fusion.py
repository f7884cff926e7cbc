"""Fused writing against loops over elements and cells, and on walks through an empty room."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import surface
from mirage_jax import memory, parallel
from mirage_jax.evaluation import efficiency
from mirage_jax.geometry import Camera
from mirage_jax.memory import eviction, fusion
from mirage_jax.memory.bank import COUNTERS, ELEMENT_FIELDS

GRID = H, W = 3, 4
SIZE = (8 * H, 8 * W)
C = 2
CAPACITY = 30
FOCAL = 0.6 * W  # in cells
OPTIONS = fusion.FusionOptions(match=0.5, misses=2)
FLOAT = np.float32

write = jax.jit(fusion.write, static_argnames="options")
worth_of = jax.jit(eviction.worth)  # see test_eviction.py


def cameras(origins):
    poses = np.tile(np.eye(4, dtype=FLOAT), (len(origins), 1, 1))
    poses[:, :3, 3] = origins
    return Camera(
        np.tile(FLOAT([8 * FOCAL, 8 * FOCAL, 4 * W, 4 * H]), (len(poses), 1)), poses, SIZE
    )


def lifted(cell, depth, origin):
    row, column = divmod(cell, W)
    ray = FLOAT([(column + 0.5 - W / 2) / FOCAL, (row + 0.5 - H / 2) / FOCAL, 1.0])
    return (ray * FLOAT(depth) + origin).astype(FLOAT)


def outcomes(report):
    """The five counts that sum to all cells."""
    names = ("written", "unknown_depth", "moving", "dropped", "fused")
    return np.array([int(getattr(report, name)) for name in names])


# -- the rule, one element and one cell after the other ------------------------------------------


def by_hand(mem, tokens, depth, origins, static, confidence, options):
    """`fusion.write` of cameras without rotation; `mem` is a dict of arrays that is changed."""
    totals = dict.fromkeys(("written", "fused", "dropped", "contradicted", "evicted"), 0)
    first, scales = mem["frames"], []
    for t in range(len(tokens)):
        counts, scale = frame_by_hand(
            mem, first + t, tokens[t].reshape(H * W, C), depth[t].reshape(-1), origins[t],
            static[t].reshape(-1), confidence[t].reshape(-1), options,
        )  # fmt: skip
        scales.append(scale)
        for name in totals:
            totals[name] += counts[name]
    return totals, scales


def frame_by_hand(mem, number, tokens, depth, origin, static, confidence, o):
    kept = [c for c in range(H * W) if np.isfinite(depth[c]) and depth[c] > 0 and static[c]]
    cell_of, z_of = {}, {}
    for slot in np.flatnonzero(mem["valid"]):
        x, y, z = mem["xyz"][slot] - origin
        if z <= 1e-3:
            continue
        u, v = FOCAL * x / z + W / 2, FOCAL * y / z + H / 2
        if 0 <= u < W and 0 <= v < H:
            cell_of[slot], z_of[slot] = int(v) * W + int(u), z
    scale = scale_by_hand(cell_of, z_of, {c: depth[c] for c in kept}, o.align)
    point = {c: lifted(c, depth[c] * scale, origin) for c in kept}
    size = {c: FLOAT(depth[c] * scale / FOCAL) for c in kept}
    kept_depth = np.zeros(H * W, FLOAT)
    kept_depth[kept] = depth[kept] * scale
    lens = (FOCAL, FOCAL, W / 2, H / 2)
    tangents = surface.tangents(kept_depth.reshape(H, W), lens).reshape(H * W, 2, 3)

    mismatch = {}
    for slot, c in cell_of.items():
        if c not in point:
            continue
        ray = point[c] - origin
        reach, range_ = o.match * size[c], np.linalg.norm(ray)
        offset = mem["xyz"][slot] - point[c]
        along = offset @ ray / range_
        across = np.linalg.norm(offset - along * ray / range_)
        known = mem["size"][slot] or size[c]
        off = (across / reach) ** 2 + (along / (reach + o.depth_error * range_)) ** 2
        if off <= 1 and abs(np.log2(known / size[c])) <= o.octaves:
            mismatch[slot] = off
    winner = {}
    for slot in sorted(mismatch):
        c = cell_of[slot]
        # Equal but for rounding: then the lower slot, which came first.
        if c not in winner or mismatch[slot] < mismatch[winner[c]] - 1e-6:
            winner[c] = slot

    counts = {"contradicted": 0, "fused": len(winner)}
    for slot, c in cell_of.items():
        if slot in mismatch:
            mem["seen"][slot] += 1
            mem["missed"][slot] = 0
            continue
        around = [
            depth[r * W + k] * scale if r * W + k in point else 0.0
            for r in range(max(c // W - 1, 0), min(c // W + 2, H))
            for k in range(max(c % W - 1, 0), min(c % W + 2, W))
        ]
        if z_of[slot] < min(around) * (1 - o.clearance):
            mem["missed"][slot] += 1
            if not mem["pinned"][slot]:
                mem["confidence"][slot] *= FLOAT(0.7)
                if mem["missed"][slot] >= o.misses:
                    mem["valid"][slot] = False
                    counts["contradicted"] += 1

    new = [c for c in kept if c not in winner]
    may_go = [s for s in np.flatnonzero(mem["valid"] & ~mem["pinned"]) if s not in mismatch]
    lacking = min(len(new) - int((~mem["valid"]).sum()), len(may_go))
    counts["evicted"] = max(lacking, 0)
    if lacking > 0:
        bank = memory.LatentMemory(**jax.tree.map(jnp.asarray, mem))
        worth = np.asarray(worth_of(bank))
        mem["valid"][sorted(may_go, key=lambda s: (worth[s], s))[:lacking]] = False

    def place(slot, c, history):
        row = {
            "xyz": point[c], "tokens": tokens[c], "valid": True, "confidence": confidence[c],
            "frame": number, "time": number, "origin": origin, "size": size[c], "missed": 0,
            "tangents": tangents[c],
        }  # fmt: skip
        for name, value in (row | history).items():
            mem[name][slot] = value

    free = np.flatnonzero(~mem["valid"]).tolist()
    for c, slot in winner.items():
        now, before = confidence[c] / size[c], mem["confidence"][slot] / (mem["size"][slot] or 1e-9)
        if mem["size"][slot] > 0 and now > 1.1 * before and not mem["pinned"][slot]:
            place(slot, c, {})
    for c, slot in zip(new, free, strict=False):
        place(slot, c, {"seen": 1, "pinned": False})
        mem["count"] = max(mem["count"], slot + 1)
    counts["written"] = min(len(new), len(free))
    counts["dropped"] = len(new) - counts["written"]
    mem["frames"] += 1
    mem["dropped"] += counts["dropped"]
    mem["evicted"] += counts["evicted"]
    return counts, scale


def scale_by_hand(cell_of, z_of, depth, gain):
    shown = {}
    for slot, c in cell_of.items():
        shown[c] = min(shown.get(c, np.inf), z_of[slot])
    ratios = sorted(shown[c] / depth[c] for c in shown if c in depth)
    if len(ratios) < 0.25 * H * W:
        return 1.0
    scale = ratios[(len(ratios) + 1) // 2 - 1]
    if not 1 / 3 <= scale <= 3:
        return 1.0
    agree = [sum(abs(np.log(r / s)) < 0.15 for r in ratios) for s in (scale, 1.0)]
    return scale if agree[0] - agree[1] > gain * len(ratios) else 1.0


def random_case(seed):
    """A memory, half of it near what the frames show, with copies; and two frames."""
    rng = np.random.default_rng(seed)
    origins = FLOAT([[0, 0, 0], [0.25, 0, 0.5]])
    depth = rng.uniform(2, 5, (2, H, W)).astype(FLOAT)
    depth[rng.random(depth.shape) < 0.1] = rng.choice([0, np.nan, np.inf])
    static = rng.random(depth.shape) < 0.9
    confidence = rng.choice(FLOAT([0.25, 0.5, 1.0]), depth.shape)
    tokens = rng.normal(size=(2, H, W, C)).astype(FLOAT)
    empty = memory.create(CAPACITY, C)
    mem = {f.name: np.array(getattr(empty, f.name)) for f in dataclasses.fields(empty)}
    used = int(rng.integers(10, CAPACITY + 1))
    off = rng.choice([1.0, 1.0, 1.4])  # of all depths, to be aligned
    for slot in range(used):
        t, c = rng.integers(2), int(rng.integers(H * W))
        true = np.nan_to_num(depth[t].reshape(-1)[c], posinf=0) or 3.0
        far = true * off * rng.choice([1.0, 1.0, 1.03, 0.4, 0.5, 2.0])
        mem["xyz"][slot] = lifted(c, far, origins[t]) + rng.normal(scale=0.05, size=3)
        mem["size"][slot] = rng.choice([far / FOCAL, far / FOCAL, 5 * far / FOCAL, 0])
        if slot and rng.random() < 0.25:
            other = rng.integers(slot)
            for name in ("xyz", "size"):
                mem[name][slot] = mem[name][other]
    mem["valid"][:used] = rng.random(used) < 0.9
    mem["tokens"][:] = rng.normal(size=(CAPACITY, C))
    mem["confidence"][:] = rng.choice([0.25, 0.5, 1.0], CAPACITY)
    mem["frame"][:] = rng.integers(0, 9, CAPACITY)
    mem["missed"][:] = rng.integers(0, 2, CAPACITY)
    mem["seen"][:] = rng.integers(1, 4, CAPACITY)
    mem["pinned"][:] = rng.random(CAPACITY) < rng.choice([0.1, 0.95])
    mem |= {"count": np.int32(used), "frames": np.int32(9)}
    return mem, tokens, depth, origins, static, confidence


def test_the_rule_is_that_of_loops_over_elements_and_cells():
    happened = {}
    for seed in range(40):
        mem, tokens, depth, origins, static, confidence = random_case(seed)
        bank = memory.LatentMemory(**jax.tree.map(jnp.asarray, mem))
        found, report = write(
            bank, tokens, depth, cameras(origins), static=static, confidence=confidence,
            options=OPTIONS,
        )  # fmt: skip
        counts, scales = by_hand(mem, tokens, depth, origins, static, confidence, OPTIONS)
        for name, count in counts.items():
            assert int(getattr(report, name)) == count, (seed, name)
            happened[name] = happened.get(name, 0) + count
        np.testing.assert_allclose(report.depth_scale, scales, rtol=1e-5)
        happened["scaled"] = happened.get("scaled", 0) + sum(scale != 1 for scale in scales)
        for name in COUNTERS:
            assert int(getattr(found, name)) == mem[name], (seed, name)
        np.testing.assert_array_equal(found.valid, mem["valid"], err_msg=str(seed))
        for name in ELEMENT_FIELDS:
            np.testing.assert_allclose(
                np.asarray(getattr(found, name))[mem["valid"]], mem[name][mem["valid"]],
                rtol=1e-4, atol=1e-5, err_msg=f"{name}, seed {seed}",
            )  # fmt: skip
        assert outcomes(report).sum() == depth.size
        # Under vmap, a branch is a choice between both of its results.
        two = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), bank)
        both = in_pairs(two, tokens, depth, origins, static, confidence)[0]
        for one, many in zip(jax.tree.leaves(found), jax.tree.leaves(both), strict=True):
            np.testing.assert_array_equal(one, many[1])
    # None of it was left untried.
    assert all(count > 0 for count in happened.values()), happened


@jax.jit
def in_pairs(banks, tokens, depth, origins, static, confidence):
    poses = jnp.tile(jnp.eye(4), (2, 1, 1)).at[:, :3, 3].set(origins)
    camera = Camera(jnp.asarray(cameras(np.zeros((2, 3))).intrinsics), poses, SIZE)
    return jax.vmap(
        lambda bank: fusion.write(
            bank, tokens, depth, camera, static=static, confidence=confidence, options=OPTIONS
        )
    )(banks)


@pytest.mark.devices(8)
def test_a_memory_in_parts_is_written_as_one_and_stays_in_parts():
    """Six devices of five slots each."""
    mesh = parallel.make_mesh(data=1, context=6, devices=jax.devices()[:6])
    parts = memory.sharded.shardings(mesh, ("context",))
    happened, program = {}, None
    for seed in range(12):
        mem, tokens, depth, origins, static, confidence = random_case(seed)
        bank = memory.LatentMemory(**jax.tree.map(jnp.asarray, mem))
        named = {"static": static, "confidence": confidence}
        alone = write(bank, tokens, depth, cameras(origins), **named, options=OPTIONS)
        for name, count in alone[1].counts.items():
            happened[name] = happened.get(name, 0) + int(count)
        with jax.set_mesh(mesh):
            split = jax.device_put(bank, parts), tokens, depth, cameras(origins)
            program = program or write.lower(*split, **named, options=OPTIONS).compile()
            together = program(*split, **named)
        assert_same_bits(alone, together)
        for name in ELEMENT_FIELDS:
            assert getattr(together[0], name).sharding.is_equivalent_to(getattr(parts, name), 2)
    assert all(count > 0 for count in happened.values()), happened
    text = program.as_text()
    assert f"f32[{CAPACITY},{C}]" not in text and f"f32[{CAPACITY // 6},{C}]" in text


def assert_same_bits(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        a, b = np.atleast_1d(a), np.atleast_1d(b)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a.view(np.uint8), b.view(np.uint8))


# -- what follows from it ------------------------------------------------------------------------

LAP = 12


@functools.cache
def lap():
    camera, depth = efficiency.room(LAP, SIZE, GRID)
    tokens = np.random.default_rng(0).normal(size=(LAP, H, W, C)).astype(FLOAT)
    return tokens, depth, Camera(FLOAT(camera.intrinsics), FLOAT(camera.cam2world), SIZE)


def still(depths):
    """Frames seen from one place; their tokens are their numbers."""
    frames = len(depths)
    tokens = np.broadcast_to(np.arange(frames, dtype=FLOAT)[:, None, None, None], (frames, H, W, C))
    depth = np.broadcast_to(FLOAT(depths)[:, None, None], (frames, H, W))
    return tokens, depth, cameras(np.zeros((frames, 3), FLOAT))


def test_what_is_seen_again_takes_no_room():
    fused = appended = memory.create(3 * LAP * H * W, C)
    append = jax.jit(memory.write)
    elements = []
    for _ in range(3):
        fused, report = write(fused, *lap())
        appended, _ = append(appended, *lap())
        assert outcomes(report).sum() == LAP * H * W
        elements.append(int(fused.valid.sum()))
    assert int(appended.valid.sum()) == 3 * LAP * H * W
    assert elements[2] <= 1.02 * elements[0] and elements[0] <= LAP * H * W
    assert int(report.fused) == LAP * H * W - int(report.written) and int(report.dropped) == 0
    # Nothing of the room is lost by it.
    view = jax.tree.map(jnp.asarray, lap()[2])
    shown = jax.jit(memory.read, static_argnames="grid")
    assert shown(fused, view, GRID).visible.mean() >= shown(appended, view, GRID).visible.mean()


def test_the_same_frame_again_adds_nothing_and_is_counted():
    mem, report = write(memory.create(60, C), *still([2.0, 2.0, 2.0]))
    assert outcomes(report).tolist() == [H * W, 0, 0, 0, 2 * H * W]
    assert int(mem.valid.sum()) == int(mem.count) == H * W
    assert (np.asarray(mem.seen)[:12] == 3).all() and not np.asarray(mem.missed).any()
    # No view was better than the first, whose tokens stay as they were.
    assert (np.asarray(mem.tokens)[:12] == 0).all()


def test_a_frame_whose_depth_is_wrong_as_a_whole_is_aligned():
    mem, report = write(memory.create(60, C), *still([2.0, 2.6, 2.0]))
    np.testing.assert_allclose(report.depth_scale, [1, 1 / 1.3, 1], rtol=1e-6)
    assert int(mem.valid.sum()) == H * W
    never = fusion.FusionOptions(align=1.0, depth_error=0.1)
    mem, report = write(memory.create(60, C), *still([2.0, 2.6, 2.0]), options=never)
    np.testing.assert_array_equal(report.depth_scale, [1, 1, 1])
    assert int(mem.valid.sum()) == 2 * H * W


def test_what_frame_after_frame_looks_through_goes_unless_it_is_pinned():
    mem, _ = write(memory.create(60, C), *still([6.0, 1.5, 6.0]))
    wall = np.asarray(mem.xyz)[:, 2] == 1.5
    assert (np.asarray(mem.valid) & wall).sum() == H * W
    pinned = np.flatnonzero(wall)[5]
    trust = mem.confidence[pinned]
    mem = mem.replace(pinned=mem.pinned.at[pinned].set(True))
    mem, report = write(mem, *still([6.0, 6.0, 6.0]))
    assert int(report.contradicted) == H * W - 1
    left = np.flatnonzero(np.asarray(mem.valid) & wall)
    assert left.tolist() == [pinned] and mem.confidence[pinned] == trust
    assert (np.asarray(mem.valid) & ~wall).sum() == H * W


def test_agreement_makes_up_for_what_looked_through():
    """Twice in a row is not three times: an open door is not forgotten for being looked through."""
    mem, _ = write(memory.create(60, C), *still([1.5, 6.0, 6.0]))
    mem, report = write(mem, *still([1.5, 6.0, 6.0]))
    assert int(report.contradicted) == 0 and int(mem.valid.sum()) == 2 * H * W


def test_a_small_memory_keeps_the_newest_and_what_is_pinned():
    tokens, depth, camera = lap()
    mem, report = write(memory.create(CAPACITY, C), tokens, depth, camera)
    assert int(report.evicted) == int(mem.evicted) > 0 and int(mem.dropped) == 0
    assert int(mem.valid.sum()) == CAPACITY and outcomes(report).sum() == LAP * H * W
    assert int(report.written) == CAPACITY + int(report.evicted) + int(report.contradicted)
    newest = jax.tree.map(jnp.asarray, camera[LAP - 1 :])
    assert np.asarray(memory.read(mem, newest, GRID).visible).all()
    # Pinned ones stay and are as they were; where they are all there is room for, cells are lost.
    full = mem.replace(pinned=jnp.ones(CAPACITY, bool))
    again, report = write(full, tokens, depth, camera)
    assert np.asarray(again.valid).all() and int(report.evicted) == int(report.written) == 0
    assert int(report.dropped) == int(again.dropped) > 0
    assert outcomes(report).sum() == LAP * H * W


def test_a_matrix_of_intrinsics_is_understood():
    camera = cameras(np.zeros((1, 3), FLOAT))
    depth = np.full((1, H, W), 2.0, FLOAT)
    tokens = np.ones((1, H, W, C), FLOAT)
    fx, fy, cx, cy = camera.intrinsics[0]
    matrix = camera.replace(intrinsics=FLOAT([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]))
    expected = fusion.write(memory.create(CAPACITY, C), tokens, depth, camera)
    found = fusion.write(memory.create(CAPACITY, C), tokens, depth, matrix)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize(("name", "value"), [("match", 0.0), ("misses", 0), ("clearance", 1.0)])
def test_options_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}: found {value}"):
        fusion.FusionOptions(**{name: value})
