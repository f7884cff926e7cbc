"""Where the depth of generated frames comes from, if not from the head."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from safetensors.numpy import save_file

from helpers import geometry_npz
from helpers.geometry_npz import SIZE
from mirage_jax.convert import depth_anything as weights_of_depth
from mirage_jax.convert.depth_anything import to_depth_anything
from mirage_jax.convert.incoming import import_checkpoint
from mirage_jax.geometry import Camera
from mirage_jax.io.geometry_npz import read_geometry
from mirage_jax.nn import depth_anything
from mirage_jax.world import depth_estimators

CAMERA = Camera(
    np.tile(np.float32([25.6, 25.6, 16, 8]), (2, 1)), np.tile(np.eye(4), (2, 1, 1)), SIZE
)
PICTURES = np.zeros((2, *SIZE, 3), np.uint8)
NOTHING = np.zeros((2, 2, 4), np.float32)


def test_a_file_tells_the_depth_of_its_own_frames(tmp_path):
    arrays = geometry_npz.arrays()
    depths = arrays["depths"] + np.arange(len(arrays["depths"]), dtype=np.float32)[:, None, None]
    masks = arrays["masks"].copy()
    masks[9, :, :16] = False
    geometry = read_geometry(geometry_npz.save(tmp_path / "g.npz", depths=depths, masks=masks))
    depth, static = depth_estimators.from_file(geometry, 1)(PICTURES, [4, 8], CAMERA, NOTHING)
    np.testing.assert_array_equal(depth, depths[[5, 9]])
    np.testing.assert_array_equal(static, masks[[5, 9]])
    smaller = depth_estimators.from_file(geometry, 1, (8, 16))
    depth, static = smaller(PICTURES, [4, 8], CAMERA, NOTHING)
    assert depth.shape == static.shape == (2, 8, 16)
    assert (static[1, :, :8] == 0).all() and (static[1, :, 8:] == 1).all()


def test_a_network_is_brought_to_the_scale_of_what_is_held():
    shape = np.linspace(1, 2, SIZE[1], dtype=np.float32) * np.ones((SIZE[0], 1), np.float32)
    look = depth_estimators.from_network(lambda picture: shape)
    depth, static = look(PICTURES, [4, 8], CAMERA, NOTHING)
    np.testing.assert_array_equal(depth, np.stack([shape, shape]))  # metric, with nothing to fit to
    assert static is None
    truth = np.median(shape.reshape(2, 8, 4, 8), axis=(1, 3)) * 3
    held = np.stack([truth, 0 * truth]).astype(np.float32)
    held[0, 0, 0] = 50.0  # one element that is elsewhere does not count
    depth, _ = look(PICTURES, [4, 8], CAMERA, held)
    np.testing.assert_allclose(depth, 3 * np.stack([shape, shape]), rtol=0.05)


def test_weights_of_depth_anything_tell_which_network_they_are(tmp_path, monkeypatch):
    fields = {
        "width": 16,
        "layers": 2,
        "heads": 2,
        "mlp_width": 16,
        "taps": (0, 0, 1, 1),
        "neck_widths": (4, 4, 4, 4),
        "fusion_width": 4,
    }
    monkeypatch.setattr(weights_of_depth, "PRESETS", {"tiny": fields})
    network = depth_anything.DepthAnything(**fields, max_depth=10.0)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 14, 14, 3)))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: 0.1 * rng.normal(size=leaf.shape).astype(np.float32), nn.unbox(shapes)
    )
    save_file(to_depth_anything(params), tmp_path / "depth.safetensors")
    pictures = np.random.default_rng(1).integers(0, 256, PICTURES.shape, np.uint8)
    at_14 = functools.partial(depth_anything.estimate, side=14)
    # Weights that are loaded say of a picture what those that were saved do.
    with monkeypatch.context() as small:
        small.setattr(depth_estimators, "estimate", at_14)
        look = depth_estimators.depth_anything(tmp_path / "depth.safetensors", 10.0)
        depth, static = look(pictures, [4, 8], CAMERA, NOTHING)
        import_checkpoint([tmp_path / "depth.safetensors"], tmp_path / "ours")
        of_export = depth_estimators.depth_anything(tmp_path / "ours", 10.0)
        np.testing.assert_array_equal(of_export(pictures, [4, 8], CAMERA, NOTHING)[0], depth)
        expected = np.stack([at_14(network, params, one) for one in pictures])
    assert static is None and depth.shape == (2, *SIZE)
    np.testing.assert_allclose(depth, expected, rtol=1e-6)
    assert depth.min() > 0 and depth.max() < 10 and np.ptp(depth) > 1e-3
    assert np.abs(depth[0] - depth[1]).max() > 1e-4
    monkeypatch.setattr(weights_of_depth, "PRESETS", {"tiny": fields | {"width": 8}})
    with pytest.raises(ValueError, match=r"depth\.safetensors: found a class token of 16 channels"):
        depth_estimators.depth_anything(tmp_path / "depth.safetensors", 10.0)
