"""Depth Anything against transformers, and what it makes of a picture."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from safetensors.numpy import load_file

from helpers import paths
from mirage_jax.convert.depth_anything import from_depth_anything
from mirage_jax.nn import depth_anything
from mirage_jax.nn.depth_anything import PRESETS, DepthAnything, estimate, network_size, prepare
from mirage_jax.nn.dinov2 import position_table

GOLDEN = paths.GOLDEN / "transformers_depth_anything_relative"
GATE = 2e-5
MAX_DEPTH = 20.0


def golden_model():
    config = json.loads((GOLDEN / "config.json").read_text())
    backbone = config["backbone_config"]
    return DepthAnything(
        width=backbone["hidden_size"],
        layers=backbone["num_hidden_layers"],
        heads=backbone["num_attention_heads"],
        mlp_width=backbone["mlp_ratio"] * backbone["hidden_size"],
        # There, stage n is what comes out of block n, counted from 1.
        taps=tuple(stage - 1 for stage in backbone["out_indices"]),
        neck_widths=tuple(config["neck_hidden_sizes"]),
        fusion_width=config["fusion_hidden_size"],
        hidden_width=config["head_hidden_size"],
        table_side=backbone["image_size"] // backbone["patch_size"],
    )


@pytest.fixture(scope="module")
def golden():
    """The network, its parameters, and what it and its variants say of the golden pictures."""
    model = golden_model()
    params = from_depth_anything(load_file(GOLDEN / "weights.safetensors"), model)
    with np.load(GOLDEN / "io.npz") as arrays:
        arrays = dict(arrays)

    @jax.jit
    def look(params, pictures):
        inside = lambda module, x: module.backbone(x)  # noqa: E731
        variables = {"params": params}
        return (
            model.apply(variables, pictures),
            model.apply(variables, pictures, method=inside),
            model.clone(max_depth=MAX_DEPTH).apply(variables, pictures),
        )

    found = look(params, jnp.asarray(np.moveaxis(arrays["pixel_values"], 1, -1)))
    return model, params, arrays, found


def test_equals_transformers_where_positions_are_interpolated(golden):
    _, _, arrays, (disparity, features, _) = golden
    for i, feature in enumerate(features):
        np.testing.assert_allclose(feature, arrays[f"feature{i}"], rtol=0, atol=GATE)
    np.testing.assert_allclose(disparity, arrays["predicted_depth"], rtol=0, atol=GATE)
    assert (arrays["predicted_depth"] > 0).mean() > 0.1  # not all behind the relu


def test_equals_transformers_at_the_native_size(golden):
    model, params, arrays, _ = golden
    pictures = jnp.asarray(np.moveaxis(arrays["pixel_values_sq"], 1, -1))
    found = jax.jit(model.apply)({"params": params}, pictures)
    np.testing.assert_allclose(found, arrays["predicted_depth_sq"], rtol=0, atol=GATE)


def test_half_precision_stays_close(golden):
    model, params, arrays, (expected, *_) = golden
    pictures = jnp.asarray(np.moveaxis(arrays["pixel_values"], 1, -1))
    found = jax.jit(model.clone(dtype=jnp.bfloat16).apply)({"params": params}, pictures)
    assert found.dtype == jnp.float32
    error = float(jnp.abs(found - expected).max() / expected.max())
    assert 1e-3 < error < 0.05


def test_metric_depth_is_a_sigmoid_where_disparity_is_a_relu(golden):
    *_, (disparity, _, metres) = golden
    disparity, metres = np.asarray(disparity, np.float64), np.asarray(metres)
    shown = disparity > 0
    assert shown.any() and not shown.all()
    expected = MAX_DEPTH / (1 + np.exp(-disparity[shown]))
    np.testing.assert_allclose(metres[shown], expected, rtol=1e-5)
    assert (metres[~shown] <= MAX_DEPTH / 2).all() and (metres > 0).all()


def test_an_estimate_has_the_size_of_its_picture(golden):
    """Looked at at 70 x 98 and brought back to 35 x 49."""
    model, params, _, _ = golden
    picture = np.random.default_rng(0).integers(0, 256, (35, 49, 3), np.uint8)
    prepared = prepare(picture, 70)
    assert prepared.shape == (70, 98, 3)
    found = np.asarray(estimate(model, params, picture, 70))
    assert found.shape == (35, 49)
    whole = np.asarray(jax.jit(model.apply)({"params": params}, prepared[None]))[0]
    # Corners stay in place; what lies between is within the range of its neighbours.
    np.testing.assert_allclose(found[::34, ::48], whole[::69, ::97], atol=1e-5)
    assert whole.min() - 1e-5 <= found.min() and found.max() <= whole.max() + 1e-5
    # Further pictures of a size run the same program.
    programs = depth_anything._run._cache_size()
    estimate(model.clone(), params, 255 - picture, 70)
    assert depth_anything._run._cache_size() == programs


@pytest.mark.parametrize(("name", "millions"), [("small", 24.8), ("base", 97.5), ("large", 335.3)])
def test_presets_are_as_large_as_the_released_networks(name, millions):
    """Counts published with the release; its mask token and unused first unit counted too."""
    model = DepthAnything(**PRESETS[name])
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 14, 14, 3)))
    count = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(nn.unbox(shapes)))
    assert count / 1e6 == pytest.approx(millions, abs=0.06)


def test_other_sizes_are_refused(golden):
    model, params, _, _ = golden
    with pytest.raises(ValueError, match="found 28 x 30 pixels, expected multiples of 14"):
        jax.eval_shape(model.apply, {"params": params}, jnp.zeros((1, 28, 30, 3)))


def test_positions_of_the_native_grid_are_the_table_itself():
    table = jnp.asarray(np.random.default_rng(0).normal(size=(10, 4)), jnp.float32)
    for offset in (0.0, 0.1):
        np.testing.assert_array_equal(position_table(table, (3, 3), offset), table)
    found = position_table(table, (3, 5))
    assert found.shape == (16, 4)
    np.testing.assert_array_equal(found[0], table[0])
    # Rows are not resized: the middle one of five columns is the middle one of three.
    np.testing.assert_allclose(found[1:].reshape(3, 5, 4)[:, 2], table[2::3][:3], atol=1e-6)
    shifted = position_table(table, (3, 5), 0.1)
    assert 1e-3 < float(jnp.abs(shifted - found).max()) < 0.5


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [
        ((480, 640), 518, (518, 686)),  # what transformers and the release make of a COCO picture
        ((640, 480), 518, (686, 518)),
        ((518, 518), 518, (518, 518)),
        ((100, 100), 500, (504, 504)),  # nearest is 504
        ((100, 100), 510, (518, 518)),  # nearest is 504, below the side asked for
        ((10, 1000), 14, (14, 1400)),
    ],
)
def test_sizes_are_multiples_of_a_patch(size, side, expected):
    assert network_size(size, side) == expected


def test_pictures_are_normalised_by_the_statistics_of_imagenet():
    grey = np.full((5, 8, 3), (0, 128, 255), np.uint8)
    found = prepare(grey, 14)
    assert found.shape == (14, 28, 3) and found.dtype == np.float32
    expected = [-0.485 / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), rtol=1e-5)


def test_a_picture_of_the_right_size_is_not_resized():
    picture = np.random.default_rng(0).integers(0, 256, (14, 28, 3), np.uint8)
    found = prepare(picture, 14) * depth_anything._STD + depth_anything._MEAN
    np.testing.assert_allclose(found * 255, picture, atol=1e-3)
