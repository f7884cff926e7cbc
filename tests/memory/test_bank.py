import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax import memory
from mirage_jax.geometry import Camera

SIZE = (16, 24)
H, W, C, T = 2, 3, 4, 3


def scene(seed=0, frames=T):
    rng = np.random.default_rng(seed)
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, :3, 3] = rng.normal(size=(frames, 3))
    camera = Camera(np.tile([20.0, 20.0, 12.0, 8.0], (frames, 1)), poses, SIZE)
    tokens = rng.normal(size=(frames, H, W, C)).astype(np.float32)
    depth = rng.uniform(1, 5, (frames, H, W)).astype(np.float32)
    return tokens, depth, camera


write = jax.jit(memory.write)


def counts(report):
    return [int(x) for x in (report.written, report.unknown_depth, report.moving, report.dropped)]


def test_elements_are_the_kept_cells_in_order():
    tokens, depth, camera = scene()
    static = np.ones((T, H, W), np.float32)
    depth[0, 0, 0], depth[1, 1, 2], depth[2, 0, 1], depth[2, 1, 0] = 0, np.nan, np.inf, -1
    static[0, 1, 1] = static[0, 0, 0] = 0
    mem, report = write(
        memory.create(32, C),
        tokens,
        depth,
        camera,
        static=static,
        times=np.array([1.5, 2.5, 9.0], np.float32),
    )
    kept = [
        (t, i, j)
        for t in range(T)
        for i in range(H)
        for j in range(W)
        if np.isfinite(depth[t, i, j]) and depth[t, i, j] > 0 and static[t, i, j]
    ]
    assert counts(report) == [len(kept), 4, 1, 0] and len(kept) == T * H * W - 5
    assert int(mem.count) == len(kept) and int(mem.frames) == T and int(mem.dropped) == 0
    np.testing.assert_array_equal(mem.valid, np.arange(32) < len(kept))
    for slot, (t, i, j) in enumerate(kept):
        d = depth[t, i, j]
        x, y = ((j + 0.5) * 8 - 12) / 20 * d, ((i + 0.5) * 8 - 8) / 20 * d
        np.testing.assert_allclose(mem.xyz[slot], camera.cam2world[t, :3, 3] + [x, y, d], atol=1e-5)
        np.testing.assert_array_equal(mem.tokens[slot], tokens[t, i, j])
        np.testing.assert_allclose(mem.origin[slot], camera.cam2world[t, :3, 3], rtol=1e-6)
        assert int(mem.frame[slot]) == t and float(mem.time[slot]) == [1.5, 2.5, 9.0][t]
        assert float(mem.confidence[slot]) == 1


@pytest.mark.parametrize("capacity", [1, 17, 25, 34, 40])
def test_writing_past_the_capacity_keeps_the_first_and_reports_the_rest(capacity):
    """Two writes into any capacity: the result is the first `capacity` elements of both."""
    a, b = scene(0), scene(1)
    a[1][1, 0, 0] = b[1][0, 1, 1] = 0
    mem, first = write(memory.create(capacity, C), *a)
    mem, second = write(mem, *b)
    rows = [s[0][s[1] > 0] for s in (a, b)]
    everything = np.concatenate(rows)
    assert int(first.written) == min(17, capacity)
    assert int(first.dropped) == 17 - min(17, capacity)
    assert int(first.written + second.written) == min(34, capacity) == int(mem.count)
    assert int(mem.dropped) == max(0, 34 - capacity) == int(first.dropped + second.dropped)
    assert sum(counts(second)) == T * H * W
    np.testing.assert_array_equal(mem.tokens[: int(mem.count)], everything[:capacity])
    frames = np.concatenate([np.nonzero(s[1] > 0)[0] + n * T for n, s in enumerate((a, b))])
    np.testing.assert_array_equal(mem.frame[: int(mem.count)], frames[:capacity])
    np.testing.assert_array_equal(mem.valid, np.arange(capacity) < int(mem.count))
    assert not np.asarray(mem.tokens[int(mem.count) :]).any()


def test_pixel_depth_is_pooled_and_pixel_movers_have_no_say():
    tokens, _, camera = scene(frames=1)
    depth = np.full((1, *SIZE), 4.0, np.float32)
    static = np.ones((1, *SIZE), bool)
    depth[0, :8, :5], static[0, :8, :5] = 1.0, False  # a figure over most of cell (0, 0)
    depth[0, 8:, :3], static[0, 8:, :3] = 1.0, False  # and over less than half of cell (1, 0)
    mem, report = write(memory.create(8, C), tokens, depth, camera[:1], static=static)
    assert counts(report) == [5, 0, 1, 0]
    distance = np.asarray(mem.xyz[:5, 2]) - camera.cam2world[0, 2, 3]
    np.testing.assert_allclose(distance, 4.0, rtol=1e-6)
    share = np.asarray(mem.confidence[:5])
    assert share[2] == pytest.approx(5 / 8) and (np.delete(share, 2) == 1).all()


def test_confidence_can_be_given_and_dtype_is_kept():
    tokens, depth, camera = scene()
    given = np.linspace(0, 1, T * H * W, dtype=np.float32).reshape(T, H, W)
    mem, _ = write(memory.create(18, C, jnp.bfloat16), tokens, depth, camera, confidence=given)
    np.testing.assert_array_equal(mem.confidence, given.reshape(-1))
    assert mem.tokens.dtype == jnp.bfloat16 and mem.xyz.dtype == jnp.float32
    assert memory.nbytes(mem) == 18 * (2 * C + 3 * 4 + 3 * 4 + 6 * 4 + 2 * 1 + 6 * 4)


def test_vmapped_write_equals_separate_writes():
    scenes = [scene(n) for n in range(2)]
    scenes[1][1][0, 0, 0] = 0
    batch = jax.tree.map(lambda *x: np.stack(x), *scenes)
    start = jax.vmap(lambda _: memory.create(20, C))(jnp.arange(2))
    mapped, _ = jax.jit(jax.vmap(memory.write))(start, *batch)
    for n in range(2):
        alone, _ = write(memory.create(20, C), *scenes[n])
        jax.tree.map(
            np.testing.assert_array_equal, jax.tree.map(lambda x, at=n: x[at], mapped), alone
        )


def test_gradient_flows_into_the_tokens():
    tokens, depth, camera = scene()
    weights = np.random.default_rng(5).normal(size=(32, C)).astype(np.float32)
    gradient = jax.grad(
        lambda t: (write(memory.create(32, C), t, depth, camera)[0].tokens * weights).sum()
    )(jnp.asarray(tokens))
    np.testing.assert_array_equal(np.asarray(gradient).reshape(-1, C), weights[: T * H * W])


def test_bad_shapes_are_named():
    tokens, depth, camera = scene()
    with pytest.raises(ValueError, match="4 channels, the memory holds 5"):
        memory.write(memory.create(8, 5), tokens, depth, camera)
    with pytest.raises(ValueError, match=r"leading dimensions \(2,\), expected \(3,\)"):
        memory.write(memory.create(8, C), tokens, depth, camera[:2])
    with pytest.raises(ValueError, match=r"\(16, 25\).*multiples"):
        memory.write(memory.create(8, C), tokens, np.ones((T, 16, 25), np.float32), camera)
    with pytest.raises(ValueError, match="expected 2 whole numbers from 1"):
        memory.create(0, 3)
    unchecked = inspect.unwrap(memory.write)  # past the signature's own check, as users call it
    mem = memory.create(8, C)
    for options, message in (
        ({"static": np.ones((1, H, W))}, "3 frames of tokens but 1 frames of static"),
        ({"confidence": np.ones((T, W, H))}, r"confidence has shape \(3, 3, 2\), expected \(3, 2"),
        ({"times": np.zeros(2)}, r"times has shape \(2,\), expected \(3,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            unchecked(mem, tokens, depth, camera, **options)
    with pytest.raises(ValueError, match="3 frames of tokens but 2 frames of depth"):
        unchecked(mem, tokens, depth[:2], camera)
