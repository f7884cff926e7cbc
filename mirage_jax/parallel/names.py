"""Names of the hosts of a run, from the environment variables of its launcher."""

from __future__ import annotations

import re
from collections.abc import Mapping

_SLURM = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
_TPU = "TPU_WORKER_HOSTNAMES"


def expected_hosts(environment: Mapping[str, str]) -> tuple[str, ...]:
    """All hosts of the run, in order; () where the environment does not name them.

    A list that cannot be read counts as none: it serves messages only.
    """
    for name in _SLURM:
        if environment.get(name):
            try:
                return expand(environment[name])
            except ValueError:
                return ()
    listed = environment.get(_TPU, "")
    return tuple(filter(None, (name.strip() for name in listed.split(","))))


def missing_hosts(expected: tuple[str, ...], present: list[str]) -> list[str]:
    """Those of `expected` that are not present; none if none of them is.

    The present ones go by other names then, such as addresses, and nothing can be concluded.

    Args:
      expected: names, with or without their domain.
      present: names of hosts, each as its own `socket.gethostname` gives it.
    """
    known = {short(name) for name in present}
    if known.isdisjoint(map(short, expected)):
        return []
    return [name for name in expected if short(name) not in known]


def short(host: str) -> str:
    """The name without its domain; an address stays whole."""
    address = re.fullmatch(r"[\d.]+|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*", host)
    return host if address else host.partition(".")[0].lower()


def expand(nodes: str) -> tuple[str, ...]:
    """The names in a SLURM list such as `a[01-03,7]-ib[0-1],login`, in its order.

    Raises:
      ValueError: on brackets that do not close, or in them anything but numbers and ranges.
    """
    names: list[str] = []
    for word in _split(nodes):
        expanded = [""]
        for part in re.split(r"(\[[^\[\]]*\])", word):
            ends = _numbers(part[1:-1]) if part.startswith("[") and part.endswith("]") else [part]
            expanded = [start + end for start in expanded for end in ends]
        names += expanded
    return tuple(names)


def _split(nodes: str) -> list[str]:
    """Parts between the commas outside of brackets."""
    words = re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\])+", nodes)
    if ",".join(words) != nodes:
        raise ValueError(f"nodes: found {nodes!r}, expected names such as node[01-03,7],login")
    return words


def _numbers(ranges: str) -> list[str]:
    """The numbers of `01-03,7`, with their leading zeros."""
    found = []
    for one in ranges.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", one)
        if match is None:
            raise ValueError(f"nodes: found [{ranges}], expected numbers and ranges")
        first, last = match[1], match[2] or match[1]
        found += [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
    return found
