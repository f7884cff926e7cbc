"""The text encoder against the released UMT5 module, and its parts against their definitions."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from helpers import paths
from mirage_jax.convert.umt5 import from_umt5, umt5_fields
from mirage_jax.nn.text_encoder import TextEncoder, biased_attention, relative_buckets
from mirage_jax.parallel.rules import preset

GOLDEN = paths.GOLDEN / "official_umt5"
GATE = 3e-5


@pytest.fixture(scope="module")
def umt5():
    tensors = load_file(GOLDEN / "weights.safetensors")
    with np.load(GOLDEN / "io.npz") as arrays:
        return umt5_fields(tensors), from_umt5(tensors), dict(arrays)


def encode(fields, params, ids, mask):
    model = TextEncoder(**fields)
    run = jax.jit(lambda p, i, m: model.apply({"params": p}, i, m))
    return np.asarray(run(params, jnp.asarray(ids, jnp.int32), jnp.asarray(mask)))


def test_equals_the_released_model(umt5):
    fields, params, arrays = umt5
    mask = arrays["attention_mask"].astype(bool)
    found = encode(fields, params, arrays["input_ids"], mask)
    np.testing.assert_allclose(found[mask], arrays["out"][mask], rtol=0, atol=GATE)
    # As Wan hands it on: zero at the padding.
    np.testing.assert_allclose(found, arrays["out_masked"], rtol=0, atol=GATE)
    assert not found[~mask].any() and mask.any(axis=1).all() and not mask.all(axis=1).any()


def test_padding_and_its_length_do_not_matter(umt5):
    fields, params, arrays = umt5
    ids, mask = arrays["input_ids"][:1, :60], arrays["attention_mask"][:1, :60]
    short = encode(fields, params, ids[:, :40], mask[:, :40])
    assert mask[:, :40].all() and not mask[:, 40:].any()
    other = encode(fields, params, np.where(mask, ids, 7), mask)
    np.testing.assert_allclose(other[:, :40], short, rtol=0, atol=GATE)


def test_unrolled_and_half_precision_layers(umt5):
    fields, params, arrays = umt5
    inputs = arrays["input_ids"][:, :40], arrays["attention_mask"][:, :40]
    expected = encode(fields, params, *inputs)
    unrolled = encode({**fields, "scan": False}, params, *inputs)
    np.testing.assert_allclose(unrolled, expected, rtol=0, atol=GATE)

    half = jax.tree.map(lambda p: jnp.asarray(p, jnp.bfloat16), params)
    found = encode({**fields, "dtype": jnp.bfloat16}, half, *inputs)
    assert found.dtype == np.float32
    error = np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2))
    assert 1e-4 < error < 0.05


@pytest.mark.parametrize("stored", [jnp.float32, jnp.bfloat16])
def test_half_precision_moves_no_value_far(umt5, stored):
    """By the largest difference, in whole texts, with the same weights on both sides.

    The released ones are bfloat16. Without 1 / sqrt(d) the attention of random weights is so sharp
    that rounding these golden ones alone would move a value by another 4 % of the largest.
    """
    fields, params, arrays = umt5
    inputs = arrays["input_ids"], arrays["attention_mask"]
    weights = jax.tree.map(lambda p: jnp.asarray(p, stored), params)
    expected = encode(fields, jax.tree.map(lambda p: np.asarray(p, np.float32), weights), *inputs)
    found = encode({**fields, "dtype": jnp.bfloat16}, weights, *inputs)
    scale = np.abs(expected).max()
    assert 1e-3 * scale < np.abs(found - expected).max() < 0.05 * scale


def test_an_unknown_id_is_not_taken_for_a_word(umt5):
    fields, params, _ = umt5
    ids = np.array([[3, fields["vocab_size"]], [3, 4]])
    found = encode(fields, params, ids, np.ones((2, 2), bool))
    assert np.isnan(found[0, 1]).all() and np.isfinite(found[1]).all()


def test_every_parameter_axis_has_a_rule_and_most_are_split():
    model = TextEncoder(8, 4, 2, 2, 6, depth=2)
    ids = jnp.ones((1, 3), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), ids, ids)["params"]
    known = dict(preset("full"))
    specs = jax.tree_util.tree_leaves_with_path(nn.get_partition_spec(params))
    for path, names in specs:
        assert {name for name in names if name} <= known.keys(), path
        assert any(known[name] for name in names if name), path
    assert len(specs) == 12


# ---- plain functions


def bucket(offset, buckets, max_distance):
    """One row in exact integer arithmetic: no logarithm, no rounding."""
    half, exact, distance = buckets // 2, buckets // 4, abs(offset)
    start = half if offset > 0 else 0
    if distance < exact:
        return start + distance
    # Row exact + s begins where distance >= exact * (max_distance / exact) ** (s / steps).
    steps, row = half - exact, exact
    for s in range(1, steps):
        if distance**steps * exact**s >= exact**steps * max_distance**s:
            row = exact + s
    return start + row


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 400),
    st.sampled_from([4, 8, 12, 32, 64]),
    st.integers(17, 300),
)
def test_relative_buckets(queries, keys, buckets, max_distance):
    rows = relative_buckets(queries, keys, buckets=buckets, max_distance=max_distance)
    expected = [
        [bucket(key - query, buckets, max_distance) for key in range(keys)]
        for query in range(queries)
    ]
    np.testing.assert_array_equal(rows, expected)


def test_relative_buckets_of_a_whole_text():
    rows = relative_buckets(512, 512)
    expected = {d: bucket(d, 32, 128) for d in range(-511, 512)}
    for query in (0, 200, 511):
        np.testing.assert_array_equal(rows[query], [expected[k - query] for k in range(512)])
    assert set(rows.ravel()) == set(range(32)) - {16}  # no later key is at distance 0


def test_relative_buckets_refuses():
    with pytest.raises(ValueError, match="buckets: found 6"):
        relative_buckets(2, 2, buckets=6)
    with pytest.raises(ValueError, match="max_distance: found 8, expected more than 8"):
        relative_buckets(2, 2, max_distance=8)


def test_biased_attention_is_a_sum_over_unmasked_keys():
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(3, 2, 5, 3, 4)).astype(np.float32)
    bias = rng.normal(size=(3, 5, 5)).astype(np.float32)
    mask = np.array([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1]], bool)
    expected = np.zeros_like(q)
    for b, n, h in np.ndindex(2, 5, 3):
        keys = [m for m in range(5) if mask[b, m]]
        weights = [np.exp(q[b, n, h] @ k[b, m, h] + bias[h, n, m]) for m in keys]
        values = [w * v[b, m, h] for w, m in zip(weights, keys, strict=True)]
        expected[b, n, h] = sum(values) / sum(weights)
    found = biased_attention(*map(jnp.asarray, (q, k, v, bias, mask)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    nothing = biased_attention(*map(jnp.asarray, (q, k, v, bias, np.zeros_like(mask))))
    average = np.broadcast_to(v.mean(1, keepdims=True), v.shape)
    np.testing.assert_allclose(nothing, average, rtol=1e-5, atol=1e-6)
