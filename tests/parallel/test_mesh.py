"""Sizes of the mesh, and its devices in order of slices."""

import types

import jax
import numpy as np
import pytest

from mirage_jax import parallel
from mirage_jax.parallel import mesh


def test_defaults_put_all_devices_on_the_data_axis():
    mesh = parallel.make_mesh()
    assert mesh.axis_names == ("data", "fsdp", "context", "tensor")
    assert mesh.shape["data"] == jax.device_count()
    assert parallel.batch_shards(mesh) == jax.device_count()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"data": 3}, "needs 3 devices, found 2"),
        ({"data": -1, "fsdp": -1}, "at most one -1"),
        ({"fsdp": 0}, "mesh.fsdp: found 0"),
        ({"tensor": 3}, "2 devices cannot be split into groups of 3"),
    ],
)
def test_impossible_sizes_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        parallel.make_mesh(**sizes, devices=jax.devices() * 2)


@pytest.mark.parametrize(
    ("shape", "crossing"), [((2, 2, 2, 1), 0), ((1, 4, 1, 2), 1), ((1, 1, 4, 2), None)]
)
def test_slices_are_joined_along_one_axis(shape, crossing):
    devices = [
        types.SimpleNamespace(slice_index=number % 2, id=number, device_kind="x", platform="cpu")
        for number in range(8)
    ]
    found = mesh.by_slice(shape, devices)
    if crossing is None:
        assert found is None
        return
    assert found.shape == shape and len({device.id for device in found.flat}) == 8
    # Along every other axis all devices are of one slice.
    slices = np.vectorize(lambda device: device.slice_index)(found)
    assert np.ptp(slices, axis=tuple(a for a in range(4) if a != crossing)).max() == 0
    assert slices.max() == 1
    assert mesh.by_slice(shape, devices[::2]) is None
