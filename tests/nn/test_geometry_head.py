"""The geometry head: what it looks at, what a new one says, and losses in closed form."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mirage_jax.nn import geometry_head
from mirage_jax.nn.geometry_head import CellMLP, Geometry, GeometryHead, logit_loss


def latents_and_flags(seed=0, b=2, t=3, h=3, w=4, c=5):
    latents = np.random.default_rng(seed).normal(size=(b, t, h, w, c))
    flags = jnp.zeros((b, t), bool).at[:, 0].set(True)
    return jnp.asarray(latents, jnp.float32), flags


def randomised(module, *inputs):
    params = nn.unbox(jax.eval_shape(module.init, jax.random.key(0), *inputs))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    pairs = zip(keys, leaves, strict=True)
    return jax.tree.unflatten(tree, [0.2 * jax.random.normal(k, x.shape) for k, x in pairs])


@pytest.mark.parametrize(("up", "mlp_ratio"), [(1, 0), (2, 2)])
def test_new_head(up, mlp_ratio):
    latents, flags = latents_and_flags()
    head = GeometryHead(width=8, cells_up=up, mlp_ratio=mlp_ratio, initial_depth=4.0)
    out, _ = jax.jit(head.init_with_output)(jax.random.key(0), latents, flags)
    assert out.depth.shape == out.confidence.shape == (2, 3, 3 * up, 4 * up)
    np.testing.assert_allclose(out.depth, 4.0, rtol=1e-5)
    np.testing.assert_allclose(out.mover_logit, 0.0)
    np.testing.assert_array_equal(out.image_tokens, latents)


def test_it_looks_at_this_latent_and_the_one_before():
    latents, flags = latents_and_flags(t=4)
    head = GeometryHead(width=8)
    params = randomised(head, latents, flags)
    apply = jax.jit(head.apply)
    base = apply(params, latents, flags)
    for t in range(4):
        moved = apply(params, latents.at[:, t].add(1.0), flags)
        change = jnp.abs(moved.log_depth - base.log_depth).max(axis=(0, 2, 3)) > 1e-5
        assert change.tolist() == [s in (t, t + 1) for s in range(4)]


def test_bfloat16_convolutions_stay_close():
    latents, flags = latents_and_flags()
    head = GeometryHead(width=8)
    params = randomised(head, latents, flags)
    expected = jax.jit(head.apply)(params, latents, flags)
    found = jax.jit(head.clone(dtype=jnp.bfloat16).apply)(params, latents, flags)
    for ours, exact in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == jnp.float32
        assert 0 < float(jnp.abs(ours - exact).max() / jnp.abs(exact).max()) < 0.05


def test_image_latents_do_not_look_back_and_keep_their_token():
    latents, _ = latents_and_flags()
    head = GeometryHead(width=8)
    flags = jnp.ones((2, 3), bool)
    params = randomised(head, latents, flags)
    apply = jax.jit(head.apply)
    together = apply(params, latents, flags)
    for t in range(3):
        alone = apply(params, latents[:, t : t + 1], flags[:, :1])
        np.testing.assert_allclose(alone.log_depth[:, 0], together.log_depth[:, t], atol=1e-5)
    np.testing.assert_array_equal(together.image_tokens, latents)
    clip = apply(params, latents, flags.at[:, 1:].set(False))
    assert jnp.abs(clip.image_tokens - latents)[:, 1:].max() > 1e-3


def test_finer_maps_stay_in_their_cell():
    """Sub-cell (y, x) of cell (i, j) is at (2 i + y, 2 j + x)."""
    latents, flags = latents_and_flags()
    head = GeometryHead(width=8, cells_up=2)
    params = randomised(head, latents, flags)
    kernel = jnp.zeros_like(params["params"]["maps"]["kernel"])
    bias = jnp.arange(16.0).reshape(2, 2, 4)
    params["params"]["maps"] = {"kernel": kernel, "bias": bias.ravel()}
    out = jax.jit(head.apply)(params, latents, flags)
    expected = np.tile(bias[..., 2], (3, 4))
    np.testing.assert_allclose(out.mover_logit[0, 0], expected)


@pytest.mark.parametrize("cell_hidden", [0, 3])
def test_mover_logits_can_be_finer_than_the_rest_without_changing_it(cell_hidden):
    latents, flags = latents_and_flags()
    plain = GeometryHead(width=8, cell_hidden=cell_hidden)
    fine = GeometryHead(width=8, movers_up=4, cell_hidden=cell_hidden)
    params = randomised(fine, latents, flags)
    bias = jnp.arange(16.0)
    movers = params["params"]["movers"]
    params["params"]["movers"] = {"kernel": 0 * movers["kernel"], "bias": bias}
    found = jax.jit(fine.apply)(params, latents, flags)
    np.testing.assert_allclose(found.mover_logit[1, 2], np.tile(bias.reshape(4, 4), (3, 4)))
    coarse = randomised(plain, latents, flags)["params"].get("movers")
    without = {n: p for n, p in params["params"].items() if n != "movers"}
    without |= {"movers": coarse} if cell_hidden else {}
    expected = jax.jit(plain.apply)({"params": without}, latents, flags)
    for name in ("log_depth", "log_scale", "sky_logit", "image_tokens"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_what_moves_may_be_told_by_a_latent_that_the_other_maps_do_not_look_at():
    """A cell moves in part s where channel s differs from the latent before."""
    latents, flags = latents_and_flags(c=4)
    head = GeometryHead(width=8, cells_up=2, cell_hidden=8)
    params = jax.tree.map(jnp.zeros_like, randomised(head, latents, flags))
    eye = jnp.eye(4)
    first = jnp.zeros((4 + 4 + 8, 8)).at[:8].set(jnp.block([[eye, -eye], [-eye, eye]]))
    params["params"]["cells"]["kernel"] = first[None, None]
    params["params"]["movers"]["kernel"] = jnp.concatenate([eye, eye])[None, None]
    found = head.apply(params, latents, flags).mover_logit
    before = np.pad(latents[:, :-1], ((0, 0), (1, 0), (0, 0), (0, 0), (0, 0)))
    d = np.asarray(latents) - before
    expected = d / (1 + np.exp(-d)) - d / (1 + np.exp(d))  # silu(d) + silu(-d)
    for y, x in np.ndindex(2, 2):
        part = found[:, :, y::2, x::2]
        np.testing.assert_allclose(part, expected[..., 2 * y + x], rtol=1e-4, atol=1e-5)


def test_a_weighted_logit_is_positive_from_a_smaller_share_on():
    share, weight = 0.02, 60.0
    slope = jax.grad(lambda x: logit_loss(jnp.full(4, x), share, weight=weight))
    best = np.log(weight * share / (1 - share))
    assert best > 0 > np.log(share / (1 - share))
    np.testing.assert_allclose(slope(jnp.float32(best)), 0.0, atol=1e-5)
    assert float(slope(jnp.float32(best - 0.5))) < -1e-3 < 1e-3 < float(slope(best + 0.5))


def test_depth_and_confidence_are_finite_whatever_the_network_says():
    shape = (1, 1, 1, 4)
    out = Geometry(
        log_depth=jnp.asarray([-1e9, 1e9, 0.0, 1.0]).reshape(shape),
        log_scale=jnp.asarray([-1e9, 1e9, 0.0, -3.0]).reshape(shape),
        mover_logit=jnp.zeros(shape),
        sky_logit=jnp.asarray([-1.0, -1.0, -1.0, 2.0]).reshape(shape),
        image_tokens=jnp.zeros((*shape, 2)),
    )
    assert np.isfinite(out.depth).all() and (out.depth > 0).all()
    assert ((out.confidence >= 0) & (out.confidence <= 1)).all()
    assert float(out.confidence.ravel()[3]) == pytest.approx(np.exp(-np.exp(-3.0)))


def test_losses_ignore_what_is_unknown():
    depth = jnp.asarray([2.0, 0.0, jnp.inf, jnp.nan, -1.0, 4.0])
    log_depth = jnp.log(jnp.asarray([2.5, 9.0, 9.0, 9.0, 9.0, 9.0]))
    log_scale = jnp.full(6, -1.0)
    mask = jnp.asarray([1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    # Negative log of the Laplace density, from its definition.
    b = np.exp(-1.0)
    expected = -np.log(np.exp(-abs(np.log(2.5 / 2.0)) / b) / (2 * b))

    def loss(log_depth):
        return geometry_head.depth_loss(log_depth, log_scale, depth, mask)

    assert float(loss(log_depth)) == pytest.approx(expected, rel=1e-5)
    gradient = jax.grad(loss)(log_depth)
    assert np.isfinite(gradient).all()
    assert np.count_nonzero(gradient) == 1
    error = geometry_head.abs_rel(jnp.exp(log_depth), depth, mask)
    assert float(error) == pytest.approx(0.25, rel=1e-4)
    nothing = geometry_head.depth_loss(log_depth, log_scale, depth, jnp.zeros(6))
    assert float(nothing) == 0.0


def test_logit_and_token_losses():
    logit = jnp.asarray([-30.0, 0.5, 40.0])
    target = jnp.asarray([False, True, True])
    p = 1 / (1 + np.exp(-0.5))
    assert float(geometry_head.logit_loss(logit, target)) == pytest.approx(-np.log(p) / 3, rel=1e-4)
    one = geometry_head.logit_loss(logit, target, jnp.asarray([0.0, 1.0, 0.0]))
    assert float(one) == pytest.approx(-np.log(p), rel=1e-4)
    tokens, target = jnp.zeros((1, 1, 1, 2, 3)), jnp.ones((1, 1, 1, 2, 3)) * 2
    mask = jnp.asarray([1.0, 0.0]).reshape(1, 1, 1, 2)
    target = target.at[..., 1, :].set(9.0)
    assert float(geometry_head.token_loss(tokens, target, mask)) == pytest.approx(4.0)


def test_it_learns_depth_and_tokens():
    """Depth set by channel 0, image token by the previous latent: both are within reach."""
    latents, flags = latents_and_flags(b=4)
    depth = jnp.exp(0.5 * latents[..., 0])
    tokens = latents.at[:, 1:].add(-0.5 * latents[:, :-1])
    head = GeometryHead(width=16, layers=1, initial_depth=1.0)
    params = nn.unbox(jax.jit(head.init)(jax.random.key(0), latents, flags))
    optimiser = optax.adam(5e-3)

    def loss(params):
        out = head.apply(params, latents, flags)
        fit = geometry_head.depth_loss(out.log_depth, out.log_scale, depth)
        return fit + geometry_head.token_loss(out.image_tokens, tokens)

    @jax.jit
    def train(params):
        def step(carry, _):
            params, state = carry
            updates, state = optimiser.update(jax.grad(loss)(params), state)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimiser.init(params)), length=300)[0][0]

    apply = jax.jit(head.apply)
    before, after = apply(params, latents, flags), apply(train(params), latents, flags)
    first = geometry_head.abs_rel(before.depth, depth)
    last = geometry_head.abs_rel(after.depth, depth)
    assert float(last) < 0.5 * float(first)
    error = geometry_head.token_loss(after.image_tokens, tokens)
    assert float(error) < 0.3 * float(geometry_head.token_loss(latents, tokens))


@pytest.mark.parametrize("mlp_ratio", [0, 2])
def test_an_mlp_sees_the_whole_column_and_frame(mlp_ratio):
    """Convolutions alone do not see from one end of a wide frame to the other."""
    latents, flags = latents_and_flags(b=1, t=1, h=3, w=12)
    head = GeometryHead(width=8, layers=1, mlp_ratio=mlp_ratio)
    params = randomised(head, latents, flags)
    apply = jax.jit(head.apply)
    moved = apply(params, latents.at[0, 0, 0, 0].add(3.0), flags).log_depth
    far = jnp.abs(moved - apply(params, latents, flags).log_depth)[..., -1].max()
    assert (float(far) > 0) == (mlp_ratio > 0)


def test_an_mlp_adds_products_of_cell_column_and_frame():
    x = jnp.asarray(np.random.default_rng(5).normal(size=(2, 1, 3, 4, 8)), jnp.float32)
    mlp = CellMLP(6)
    shapes = nn.unbox(jax.eval_shape(mlp.init, jax.random.key(0), x))
    rng = np.random.default_rng(6)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes
    )
    weights = params["params"]
    scaled = (
        np.asarray(x) / np.sqrt(np.square(x).mean(-1, keepdims=True)) * weights["norm"]["gamma"]
    )
    column, frame = scaled.mean(2, keepdims=True), scaled.mean((2, 3), keepdims=True)
    parts = {"cell": scaled, "column": column, "frame": frame}
    hidden = sum(part @ weights[name]["kernel"][0, 0] for name, part in parts.items())
    hidden = hidden + weights["cell"]["bias"]
    out = weights["out"]
    expected = hidden / (1 + np.exp(-hidden)) @ out["kernel"][0, 0] + out["bias"]
    np.testing.assert_allclose(mlp.apply(params, x), expected, rtol=1e-4, atol=1e-4)
