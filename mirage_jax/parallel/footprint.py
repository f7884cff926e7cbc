"""Compiles a traced program for devices and measures it: memory, collectives, roofline time."""

from __future__ import annotations

import dataclasses
import re
import time
from typing import Any

import jax

from mirage_jax.parallel import hlo
from mirage_jax.parallel.flops import matmul_flops
from mirage_jax.parallel.topology import GIB, Slice

ASSUMES = (
    "at best: matrix products at the bfloat16 peak; arguments read once, results written once, "
    "temporaries written and read once; all links of a chip sending at once. From everything "
    "hidden behind the largest to nothing hidden; nothing was run."
)

_SIZE = r"([\d.]+)([KMG])"
_EXHAUSTED = (
    re.compile(f"Used {_SIZE} of {_SIZE} hbm"),
    re.compile(rf"HLO temporaries \({_SIZE}\) exceeds available HBM \({_SIZE}\)"),
)
"""How the TPU compiler refuses a program; by the second, for its temporaries alone."""
_UNITS = {"K": 2**10, "M": 2**20, "G": GIB}


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    Attributes:
      arguments: state, frozen parameters and batch.
      outputs: results.
      reused: the part of them that takes over the memory of an argument.
      temporaries: everything between, at its largest.
      code: the program.
      peak: largest use according to the compiler; only TPU compilers report it. None elsewhere.
      needed: all of it, or a lower bound from the compiler's message where it refused.
      capacity: of the device; from the compiler's message where it refused, which is less than
        the table's by what the compiler reserves. None where unknown.
    """

    arguments: int
    outputs: int
    reused: int
    temporaries: int
    code: int
    peak: int | None
    needed: int
    capacity: int | None

    @property
    def fits(self) -> bool | None:
        return None if self.capacity is None else self.needed <= self.capacity

    def __str__(self) -> str:
        parts = (("arguments", self.arguments), ("temporaries", self.temporaries))
        named = ", ".join(f"{name} {size / GIB:.3g}" for name, size in parts)
        return f"{self.needed / GIB:.3g} GiB on a device ({named})"


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds of one execution if nothing but one thing took time; the rates are the chip's peaks.

    Attributes:
      compute: matrix products alone, at the bfloat16 peak, spread evenly over the devices.
      hbm: arguments read once, results written once, temporaries written and read once. A lower
        bound: what is read again from memory within a layer does not count.
      ici: bytes on the wire with all links of a chip busy in one direction.
    """

    compute: float
    hbm: float
    ici: float

    @property
    def overlapped(self) -> float:
        """The largest: everything else hides behind it."""
        return max(self.compute, self.hbm, self.ici)

    @property
    def serial(self) -> float:
        """The sum: nothing hides."""
        return self.compute + self.hbm + self.ici

    @property
    def bound(self) -> str:
        return max(("compute", "hbm", "ici"), key=lambda name: getattr(self, name))


@dataclasses.dataclass(frozen=True)
class Footprint:
    """What `measure` found.

    Attributes:
      devices: devices compiled for.
      memory: see `Memory`.
      flops: of matrix products on one device, everything that is repeated included.
      xla_flops: of XLA's cost analysis, which counts the body of a loop once and no kernel.
      program: collectives and kernels; None where the program does not fit.
      roofline: None where the chip is unknown or the program does not fit.
      seconds: of tracing and lowering, and of compiling.
    """

    devices: int
    memory: Memory
    flops: float
    xla_flops: float | None
    program: hlo.Program | None
    roofline: Roofline | None
    seconds: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        out = dataclasses.asdict(self)
        out["memory"]["fits"] = self.memory.fits
        if self.roofline is not None:
            for name in ("overlapped", "serial", "bound"):
                out["roofline"][name] = getattr(self.roofline, name)
            out["roofline"]["assumes"] = ASSUMES
        return out


def measure(traced: jax.stages.Traced, target: Slice) -> Footprint:
    """Compiles a program that was traced with shardings on the devices of `target`.

    A program that does not fit is no error: `Memory` holds by how much it exceeds the device.
    """
    devices = len(target.devices)
    started = time.monotonic()
    flops = matmul_flops(traced.jaxpr) / devices
    lowered = traced.lower()
    between = time.monotonic()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        memory = exhausted(str(error))
        if memory is None:
            raise
        seconds = (between - started, time.monotonic() - between)
        return Footprint(devices, memory, flops, None, None, None, seconds)
    seconds = (between - started, time.monotonic() - between)
    memory = memory_of(compiled.memory_analysis(), target.hbm_bytes)
    cost = compiled.cost_analysis() or {}
    program = hlo.read(compiled.as_text(), devices)
    roofline = None if target.chip is None else roofline_of(target, flops, memory, program)
    return Footprint(devices, memory, flops, cost.get("flops"), program, roofline, seconds)


def memory_of(stats: Any, capacity: int | None) -> Memory:
    """Memory from the compiler's own account (`compiled.memory_analysis()`)."""
    arguments, outputs = stats.argument_size_in_bytes, stats.output_size_in_bytes
    reused, temporaries = stats.alias_size_in_bytes, stats.temp_size_in_bytes
    code = stats.generated_code_size_in_bytes
    needed = arguments + outputs - reused + temporaries + code
    peak = getattr(stats, "peak_memory_in_bytes", None)
    return Memory(arguments, outputs, reused, temporaries, code, peak, needed, capacity)


def exhausted(message: str) -> Memory | None:
    """Memory from the message with which the TPU compiler refuses a program, None for others."""
    match = next(filter(None, (pattern.search(message) for pattern in _EXHAUSTED)), None)
    if match is None:
        return None
    needed, capacity = (int(float(match[i]) * _UNITS[match[i + 1]]) for i in (1, 3))
    return Memory(0, 0, 0, 0, 0, None, needed, capacity)


def roofline_of(target: Slice, flops: float, memory: Memory, program: hlo.Program) -> Roofline:
    """Time at best of a program on one device of `target`."""
    chip, share = target.chip, target.devices_per_chip
    assert chip is not None
    moved = memory.arguments + memory.outputs + 2 * memory.temporaries
    wire = sum(traffic.wire for traffic in program.collectives.values())
    return Roofline(
        compute=flops / (chip.bf16_flops / share),
        hbm=moved / (chip.hbm_bandwidth / share),
        ici=wire / (chip.ici_bandwidth / share),
    )
