"""Described TPU slices: devices to compile for without owning them, and the peaks of a chip.

libtpu holds the compiler, and describes any slice by name, so a program can be compiled for
hundreds of chips on a machine that has none. No array may be made on such devices.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils, topologies
from jax.sharding import AxisType, Mesh

from mirage_jax.parallel import mesh as meshes

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """Data sheet of one chip.

    Attributes:
      hbm_bytes: memory.
      bf16_flops: peak of the matrix units per second, in bfloat16.
      hbm_bandwidth: bytes per second to and from memory.
      ici_bandwidth: bytes per second sent to other chips over all links together; half of what the
        tables call bidirectional.
      source: page the figures are from, read in November 2026.
    """

    hbm_bytes: int
    bf16_flops: float
    hbm_bandwidth: float
    ici_bandwidth: float
    source: str


_DOCS = "https://docs.cloud.google.com/tpu/docs"
CHIPS = {
    "v5e": Chip(16 * GIB, 197e12, 819e9, 200e9, f"{_DOCS}/v5e"),
    "v5p": Chip(95 * GIB, 459e12, 2765e9, 600e9, f"{_DOCS}/v5p"),
    "v6e": Chip(32 * GIB, 918e12, 1600e9, 400e9, f"{_DOCS}/v6e"),
    "tpu7x": Chip(192 * GIB, 2307e12, 7380e9, 600e9, f"{_DOCS}/tpu7x"),
}

_BY_KIND = {
    "TPU v5 lite": CHIPS["v5e"].bf16_flops,
    "TPU v5e": CHIPS["v5e"].bf16_flops,
    "TPU v5": CHIPS["v5p"].bf16_flops,
    "TPU v5p": CHIPS["v5p"].bf16_flops,
    "TPU v6 lite": CHIPS["v6e"].bf16_flops,
    "TPU v6e": CHIPS["v6e"].bf16_flops,
    "TPU7x": CHIPS["tpu7x"].bf16_flops / 2,  # each core is a device of its own
    # NVIDIA's data sheets, without sparsity.
    "NVIDIA A100": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40S": 362e12,
}


def peak_flops(kind: str) -> float | None:
    """Peak of bfloat16 products per second of a device, by `jax.Device.device_kind`.

    Returns:
      None where the kind is not in the table, CPUs for one.
    """
    known = [name for name in _BY_KIND if f"{kind} ".startswith((f"{name} ", f"{name}-"))]
    return _BY_KIND[max(known, key=len)] if known else None


LIBTPU_ARGS = "--xla_jf_spmd_threshold_for_windowed_einsum_mib=1000000"
"""Flags of the compiler, unless the environment has others; training is to be run with the same.

By itself the compiler cuts products with a gathered kernel into loops that pass the kernel's parts
from device to device: 45 of them in the training step of the 5B model, slow to compile."""

KIND_ARGS = {
    "tpu7x": " ".join(
        f"--xla_tpu_enable_sparse_core_collective_offload_{kind}=false"
        for kind in ("all_gather", "all_reduce", "reduce_scatter")
    )
}
"""Further flags of a kind of chip: where it moves collectives to the sparse cores, the compiler of
libtpu 0.0.42.1 ends with a failed check of its own."""


@dataclasses.dataclass(frozen=True)
class Slice:
    """Devices to compile for.

    Attributes:
      name: as it was requested, such as "v5p:4x4x8".
      devices: as JAX describes them; those of "cpu:N" exist, those of a TPU do not.
      chip: what a chip can do, None for "cpu:N".
      devices_per_chip: 2 where each core of a chip is a device of its own (tpu7x).
    """

    name: str
    devices: Sequence[jax.Device]
    chip: Chip | None
    devices_per_chip: int = 1

    @property
    def hbm_bytes(self) -> int | None:
        """Memory of a device."""
        return None if self.chip is None else self.chip.hbm_bytes // self.devices_per_chip


def open_slice(name: str) -> Slice:
    """The slice called `name`: "KIND:AxB" or "KIND:AxBxC" in chips, or "cpu:N" for a rehearsal.

    Fake CPU devices must have been requested before JAX started (`jax_num_cpu_devices`).

    Raises:
      ValueError: if the name is of another form, the kind has no entry in `CHIPS`, libtpu is not
        installed, or it knows no such slice.
    """
    kind, extent = parse(name)
    if kind == "cpu":
        count = math.prod(extent)
        devices = jax.devices("cpu")
        if len(devices) < count:
            raise ValueError(f"topology {name!r}: found {len(devices)} CPU devices")
        return Slice(name, devices[:count], None)
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            f"topology {name!r}: libtpu, which holds the TPU compiler, is not installed; "
            "pip install 'mirage_jax[tpu]'"
        )
    # Else libtpu asks the metadata server of Google Cloud which machine this is, for minutes, and
    # lets one process in at a time, as if it were to take devices.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("LIBTPU_INIT_ARGS", f"{LIBTPU_ARGS} {KIND_ARGS.get(kind, '')}".strip())
    try:
        description = topologies.get_topology_desc(topology_name=name, platform="tpu")
    except (jax.errors.JaxRuntimeError, RuntimeError) as error:
        raise ValueError(f"topology {name!r}: libtpu knows no such slice: {error}") from error
    devices = description.devices
    return Slice(name, devices, CHIPS[kind], max(len(devices) // math.prod(extent), 1))


def parse(name: str) -> tuple[str, tuple[int, ...]]:
    """Kind of chip and extent of a slice's name.

    Raises:
      ValueError: see `open_slice`.
    """
    match = re.fullmatch(r"([a-z0-9]+):(\d+(?:x\d+){0,2})", name)
    kinds = ", ".join((*CHIPS, "cpu"))
    if match is None:
        raise ValueError(
            f"topology: found {name!r}, expected KIND:AxB or KIND:AxBxC, such as v5p:4x4x8, "
            f"with KIND one of {kinds}"
        )
    if match[1] not in (*CHIPS, "cpu"):
        raise ValueError(f"topology {name!r}: found kind {match[1]!r}, expected one of {kinds}")
    return match[1], tuple(int(side) for side in match[2].split("x"))


def make_mesh(target: Slice, axes: Mapping[str, int]) -> Mesh:
    """A mesh over the slice, laid along its torus where that can be done.

    Raises:
      ValueError: see `parallel.make_mesh`.
    """
    # Sizes, -1 filled in, and a mesh in the order of the devices.
    plain = meshes.make_mesh(**axes, devices=target.devices)
    if target.chip is None:
        return plain
    shape = tuple(plain.shape.values())
    try:
        devices: Any = mesh_utils.create_device_mesh(shape, list(target.devices))
    except (NotImplementedError, AssertionError, ValueError):
        # Some shapes do not map onto the torus, such as (4, 4, 4) onto 8x8.
        devices = np.asarray(target.devices).reshape(shape)
    return Mesh(devices, plain.axis_names, axis_types=(AxisType.Auto,) * len(shape))
