"""Several processes as one program: how they find each other, share out a batch and take turns.

Nothing here schedules anything: `jax.distributed` connects the processes, and whatever starts them
(SLURM, Kubernetes, a shell) gives their number.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from orbax.checkpoint import multihost

from mirage_jax.parallel.heartbeat import Heartbeat
from mirage_jax.parallel.mesh import batch_shards
from mirage_jax.parallel.names import expected_hosts
from mirage_jax.parallel.rules import batch_sharding

AUTO = "auto"

_COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
"""Variables with the number of processes that a launcher has started."""

_A_DAY = 24 * 3600


def initialize(
    coordinator: str = "",
    *,
    processes: int = 0,
    process: int = -1,
    timeout: int = 300,
    folder: Path | None = None,
    heartbeat_every: float = 20.0,
    environment: Mapping[str, str] = os.environ,
) -> bool:
    """Connects this process with the others of its run. Call it before anything asks for devices.

    Args:
      coordinator: "host:port" of process 0, with `processes` and `process`; "auto" leaves all three
        to what JAX finds in the environment (Cloud TPU, GKE, SLURM, Open MPI, Kubernetes); "" does
        so where a launcher has started several processes or JAX_COORDINATOR_ADDRESS is set, and
        otherwise runs alone.
      processes: number of all.
      process: which of them this is, from 0.
      timeout: seconds to wait for the others. Then JAX ends the process, with a trace of its own.
      folder: that all of them share, for the `Heartbeat` while this one waits.
      heartbeat_every: seconds between its lines on standard error.
      environment: for tests.

    Returns:
      Whether there are others.

    Raises:
      ValueError: if the arguments do not fit each other, or connecting failed.
    """
    if not coordinator:
        if processes or process >= 0:
            raise ValueError(
                f"processes: found {processes} (this one {process}) without a coordinator, "
                "expected host:port of process 0"
            )
        several = any(int(environment.get(name, "1")) > 1 for name in _COUNTS)
        if not several and "JAX_COORDINATOR_ADDRESS" not in environment:
            return False
        coordinator = AUTO
    found = environment.get("JAX_COORDINATOR_ADDRESS", "") if coordinator == AUTO else ""
    explicit: dict[str, Any] = {}
    if coordinator != AUTO:
        if not re.fullmatch(r".+:\d+", coordinator):
            raise ValueError(f"coordinator: found {coordinator!r}, expected host:port or {AUTO!r}")
        if not 0 <= process < processes:
            raise ValueError(
                f"process: found {process} of {processes}, expected 0 <= process < processes"
            )
        explicit = {
            "coordinator_address": coordinator,
            "num_processes": processes,
            "process_id": process,
        }
    waiting: Any = contextlib.nullcontext()
    if folder is not None:
        hosts = expected_hosts(environment)
        waiting = Heartbeat(
            folder, process, processes, _to_stderr, every=heartbeat_every, hosts=hosts
        )
    try:
        with waiting:
            jax.distributed.initialize(
                **explicit, initialization_timeout=timeout, shutdown_timeout_seconds=60
            )
    except (RuntimeError, ValueError) as error:
        alone = ""
        if found:
            alone = f"; JAX_COORDINATOR_ADDRESS is {found!r}: unset it for a run of one process"
        raise ValueError(
            f"the processes of this run did not come together (coordinator {coordinator}): "
            f"{' '.join(str(error).split())[:300]}{alone}"
        ) from error
    return jax.process_count() > 1


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def batch_share(mesh: Mesh) -> tuple[int, int]:
    """(i, n): this process feeds the i-th of n equal runs of samples of every batch.

    Processes that share the tokens or the layers of the same samples feed the same run.

    Raises:
      ValueError: if its devices do not hold one such run; give the mesh its devices in order.
    """
    shards = batch_shards(mesh)
    indices = batch_sharding(mesh).addressable_devices_indices_map((shards,))
    starts = sorted({index[0].start or 0 for index in indices.values() if index is not None})
    first, count = starts[0], len(starts)
    if starts != list(range(first, first + count)) or first % count or shards % count:
        raise ValueError(
            f"mesh: process {jax.process_index()} holds the parts {starts} of a batch in {shards}, "
            "expected neighbours, as many on every process"
        )
    return first // count, shards // count


def put(tree: Any, shardings: Any) -> Any:
    """Arrays that every process has, on devices; `shardings` is a tree alike or one for all."""
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)
    if isinstance(shardings, jax.sharding.Sharding):
        shardings = jax.tree.map(lambda _: shardings, tree)

    def one(leaf: Any, sharding: Any) -> jax.Array:
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(one, tree, shardings)


def put_share(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    """Arrays of which every process has its share along the split axes, on devices.

    Arrays that are on devices already are whole, and only moved where they lie otherwise.
    """

    def one(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array):
            return jax.device_put(leaf, sharding)
        return jax.make_array_from_process_local_data(sharding, np.asarray(leaf))

    return jax.tree.map(one, tree)


def fetch(tree: Any) -> Any:
    """Whole arrays on the host of every process, whatever devices hold them."""

    def one(leaf: Any) -> Any:
        if leaf.is_fully_addressable or leaf.is_fully_replicated:
            return jax.device_get(leaf)
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(one, tree)


def first_alone(name: str, action: Callable[[], Any]) -> None:
    """Has process 0 do something, such as writing a file, while the others wait for it.

    Args:
      name: of the wait, used once in a run.
      action: what is to be done.
    """
    if jax.process_index() == 0:
        action()
    if jax.process_count() > 1:
        # All of them by name: without, the wait would be a collective, which times out sooner.
        everyone = set(range(jax.process_count()))
        multihost.sync_global_processes(name, timeout=_A_DAY, processes=everyone)
