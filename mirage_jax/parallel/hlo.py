"""What a compiled program does, read from its text: collectives, loops, kernels.

XLA's own cost analysis counts the body of a loop once and leaves out how many devices talk to each
other, so the text is read instead: every collective, as often as the loops around it run.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Iterator

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"(?:^|\s)([a-z][a-z0-9\-]*)\(")
_SHAPE = re.compile(r"\b(pred|(?:bf|f|s|u|c)\d+\w*)\[([\d,]*)\]")
_CALLED = re.compile(
    r"\b(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\s*\{"n":\s*"(\d+)"')
_CONDITION = re.compile(r"\bcondition=%?([\w.\-]+)")
_CONSTANT = re.compile(r"\b[su]32\[\]\S* constant\((\d+)\)")
_GROUPS = re.compile(r"replica_groups=\[\d+,(\d+)\]|replica_groups=\{\{([\d,]*)\}")


@dataclasses.dataclass(frozen=True)
class Traffic:
    """One kind of collective in one execution of the program, on one device.

    Attributes:
      static: how many are written in the program.
      executed: how often they run, loops counted.
      payload: bytes of the whole array concerned, before it is scattered or after it is gathered.
      wire: bytes that leave the device when done in a ring: (n - 1) / n of the payload among n
        devices, twice that for an all-reduce, all of it for a permutation.
    """

    static: int = 0
    executed: int = 0
    payload: float | int = 0.0
    wire: float | int = 0.0

    def add(self, times: int, payload: float, wire: float) -> Traffic:
        return Traffic(
            self.static + 1,
            self.executed + times,
            self.payload + times * payload,
            self.wire + times * wire,
        )


@dataclasses.dataclass(frozen=True)
class Program:
    """Collectives and kernels in the text of a compiled program.

    Attributes:
      collectives: traffic of every kind that occurs.
      kernels: custom calls by target, and by kernel where it has a name: times executed.
      unknown_loops: loops without a known trip count; counted as one iteration.
    """

    collectives: dict[str, Traffic]
    kernels: dict[str, int]
    unknown_loops: int


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    opcode: str
    result: str
    operands: tuple[str, ...]
    text: str


def read(text: str, devices: int) -> Program:
    """Reads the text of an optimised module, `compiled.as_text()`.

    Args:
      text: in XLA's long form.
      devices: devices of the program, the group of a collective that names none.

    Raises:
      ValueError: if there is no entry computation.
    """
    computations, entry = _parse(text)
    times, unknown = _executions(computations, entry)
    collectives: dict[str, Traffic] = defaultdict(Traffic)
    kernels: dict[str, int] = defaultdict(int)
    for name, instructions in computations.items():
        if not times[name]:
            continue
        types = {i.name: i.result for i in instructions}
        for instruction in instructions:
            if instruction.opcode == "custom-call":
                kernels[_kernel(instruction)] += times[name]
            kind = instruction.opcode.removesuffix("-start")
            if kind not in COLLECTIVES:
                continue
            operands = sum(nbytes(types.get(operand, "")) for operand in instruction.operands)
            payload = float(max(operands, _result(instruction, kind, operands)))
            if kind == "all-reduce" and "all-reduce-scatter" in name:
                kind = "reduce-scatter"  # what the TPU backend makes of one
            wire = payload * _share(kind, _group(instruction.text, devices))
            collectives[kind] = collectives[kind].add(times[name], payload, wire)
    return Program(dict(collectives), dict(kernels), unknown)


def nbytes(shapes: str) -> int:
    """Bytes of all arrays in the text of a type, such as "(bf16[2,3]{1,0}, u32[])"."""
    total = 0
    for dtype, sides in _SHAPE.findall(shapes):
        bits = 8 if dtype == "pred" else int(re.findall(r"\d+", dtype)[0])
        total += bits * math.prod(int(side) for side in sides.split(",") if side)
    return total // 8


def _parse(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    computations: dict[str, list[_Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            current = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif current is not None and (match := _INSTRUCTION.match(line)):
            name, rest = match.groups()
            if opcode := _OPCODE.search(rest):
                arguments = rest[opcode.end() :].split(")", 1)[0]
                operands = tuple(re.findall(r"%([\w.\-]+)", arguments))
                current.append(
                    _Instruction(name, opcode[1], rest[: opcode.start()], operands, rest)
                )
    if not entry:
        raise ValueError("compiled program: found no entry computation in its text")
    return computations, entry


def _executions(
    computations: dict[str, list[_Instruction]], entry: str
) -> tuple[dict[str, int], int]:
    """How often every computation runs, each branch of a condition counted as taken."""
    calls = {name: list(_calls(body, computations)) for name, body in computations.items()}
    times: dict[str, int] = defaultdict(int)
    unknown = 0

    def visit(name: str, count: int) -> None:
        nonlocal unknown
        times[name] += count
        for called, rounds in calls.get(name, ()):
            unknown += rounds is None
            visit(called, count * (1 if rounds is None else rounds))

    visit(entry, 1)
    return times, unknown // 2  # a loop calls its body and its condition


def _calls(
    instructions: list[_Instruction], computations: dict[str, list[_Instruction]]
) -> Iterator[tuple[str, int | None]]:
    for instruction in instructions:
        if instruction.opcode.endswith(("-done", "-update")):
            continue  # repeats what its start calls
        called = _CALLED.findall(instruction.text)
        for branches in _BRANCHES.findall(instruction.text):
            called += re.findall(r"[\w.\-]+", branches)
        rounds: int | None = 1
        if instruction.opcode == "while":
            trips = _TRIPS.search(instruction.text)
            rounds = int(trips[1]) if trips else _limit(instruction, computations)
        for name in called:
            yield name, rounds


def _limit(loop: _Instruction, computations: dict[str, list[_Instruction]]) -> int | None:
    """The constant that the counter of a loop has to stay below; loops of JAX count from 0 by 1.

    TPU compilers write no trip count.
    """
    name = _CONDITION.search(loop.text)
    condition = computations.get(name[1], []) if name else []
    if not condition or "direction=LT" not in condition[-1].text:
        return None
    constants = {i.name: int(m[1]) for i in condition if (m := _CONSTANT.search(i.text))}
    return constants.get(condition[-1].operands[-1])


def _result(instruction: _Instruction, kind: str, operands: int) -> int:
    """Bytes that a collective makes; a started one also hands its operands on."""
    size = nbytes(instruction.result)
    if not instruction.opcode.endswith("-start") or kind == "all-reduce":
        return size
    return operands if kind == "collective-permute" else size - operands


def _group(text: str, devices: int) -> int:
    match = _GROUPS.search(text)
    if match is None:
        return devices
    return int(match[1]) if match[1] else len(match[2].split(","))


def _share(kind: str, group: int) -> float:
    if kind in ("collective-permute", "collective-broadcast"):
        return 1.0
    return (2.0 if kind == "all-reduce" else 1.0) * (group - 1) / group


def _kernel(call: _Instruction) -> str:
    target = re.search(r'custom_call_target="([^"]*)"', call.text)
    scope = re.search(r'op_name="([^"]*)"', call.text)
    known = re.search(r"splash[a-z_]*", f"{call.name} {scope[1] if scope else ''}")
    return known[0] if known else (target[1] if target else "unknown")
