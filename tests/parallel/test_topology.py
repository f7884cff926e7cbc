"""Slices by name, their meshes, and what is said where they cannot be had."""

import importlib.util

import jax
import pytest

from mirage_jax.parallel import topology
from mirage_jax.parallel.topology import CHIPS, GIB, Slice


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("v5p:4x4x8", ("v5p", (4, 4, 8))),
        ("v5e:16x16", ("v5e", (16, 16))),
        ("cpu:8", ("cpu", (8,))),
    ],
)
def test_names_of_slices(name, expected):
    assert topology.parse(name) == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5p-128", r"topology: found 'v5p-128', expected KIND:AxB .* such as v5p:4x4x8"),
        ("v5p:4x4x", "expected KIND:AxB"),
        ("v5p:4x4x4x4", "expected KIND:AxB"),
        ("v9z:2x2", r"found kind 'v9z', expected one of v5e, v5p, v6e, tpu7x, cpu"),
    ],
)
def test_other_names_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        topology.open_slice(name)


def test_without_libtpu_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"libtpu.* pip install 'mirage_jax\[tpu\]'"):
        topology.open_slice("v5e:4x4")


def test_more_cpu_devices_than_there_are_is_refused():
    count = jax.device_count("cpu") + 1
    with pytest.raises(ValueError, match=rf"'cpu:{count}': found {count - 1} CPU devices"):
        topology.open_slice(f"cpu:{count}")


def test_a_rehearsal_on_cpu_devices_has_no_chip():
    target = topology.open_slice("cpu:1")
    assert target.chip is None and target.hbm_bytes is None
    assert topology.make_mesh(target, {"data": 1, "fsdp": -1}).shape["fsdp"] == 1


def test_two_devices_of_a_chip_share_its_memory():
    assert Slice("tpu7x:1x1x1", (), CHIPS["tpu7x"], 2).hbm_bytes == 96 * GIB
    assert Slice("v5e:1x1", (), CHIPS["v5e"]).hbm_bytes == 16 * GIB


@pytest.mark.parametrize("kind", CHIPS)
def test_chips_do_more_sums_than_they_can_fetch_numbers(kind):
    chip = CHIPS[kind]
    # Between 150 and 700 operations for every byte of memory, and memory faster than links: figures
    # in other units than stated would be out by 8, or by 1000.
    assert 150 < chip.bf16_flops / chip.hbm_bandwidth < 700
    assert 3 < chip.hbm_bandwidth / chip.ici_bandwidth < 15
    assert chip.source.endswith(kind)


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_slices_of_tpus_that_are_not_there():
    target = topology.open_slice("v5e:4x4")
    mesh = topology.make_mesh(target, {"data": 2, "fsdp": -1})
    assert dict(mesh.shape) == {"data": 2, "fsdp": 8, "context": 1, "tensor": 1}
    assert len({device.id for device in mesh.devices.flat}) == 16
    assert topology.open_slice("tpu7x:2x2x2").devices_per_chip == 2
    with pytest.raises(ValueError, match="'v5p:3x5x7': libtpu knows no such slice"):
        topology.open_slice("v5p:3x5x7")
    # No order of these devices follows the torus; any will do.
    assert (
        topology.make_mesh(
            topology.open_slice("v5e:8x8"), {"data": 4, "fsdp": 4, "context": 4}
        ).size
        == 64
    )
