"""Where a run starts: its newest intact checkpoint, the parameters of another one, or nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mirage_jax.parallel import processes
from mirage_jax.training import checkpoints
from mirage_jax.training.state import StateBuilder, TrainState
from mirage_jax.training.task import Params
from mirage_jax.weights import compare_tensors, flatten, load_export


def initial_params(
    source: str | Path | Mapping[str, Any], abstract: Params
) -> tuple[dict[str, Any], list[str], list[str]]:
    """Parameters of another run or export for those of `abstract` that it has under the same name.

    Args:
      source: an export, the workdir of a run (its averaged parameters, if any), or a nested dict of
        arrays.
      abstract: nested dict of `ShapeDtypeStruct`.

    Returns:
      A flat dict {name: array} of what fits; the names that it does not have, and those of further
      tensors of the source, which nothing here is called.

    Raises:
      ValueError: if nothing fits, or a name fits and its shape does not.
    """
    if isinstance(source, Mapping):
        name, found = "init_from", flatten(source)
    else:
        path, name = Path(source), f"init_from {source}"
        ran = (path / checkpoints.FOLDER).is_dir()
        found = flatten(checkpoints.load_params(path) if ran else load_export(path)[0])
    expected = flatten(abstract)
    loaded = sorted(found.keys() & expected.keys())
    if not loaded:
        raise ValueError(
            f"{name}: no tensor fits; found {', '.join(list(found)[:3])} ..., "
            f"expected {', '.join(list(expected)[:3])} ..."
        )
    compare_tensors(name, {n: found[n] for n in loaded}, {n: expected[n] for n in loaded})
    fresh, unused = expected.keys() - found.keys(), found.keys() - expected.keys()
    return {n: found[n] for n in loaded}, sorted(fresh), sorted(unused)


def restore_or_initialise(
    build: StateBuilder,
    store: checkpoints.Checkpoints,
    init_from: str | Path | Mapping[str, Any] | None,
    say: Callable[[str], None],
    *,
    start_over: bool = False,
) -> tuple[TrainState, dict[str, Any]]:
    """State and meta of the start of a run, resume > init_from > scratch; says which.

    Args:
      build: of the state.
      store: checkpoints of the run.
      init_from: see `initial_params`; None: scratch.
      say: called with lines of text.
      start_over: of `Checkpoints.restore`.

    Raises:
      ValueError, CheckpointError: see `initial_params` and `Checkpoints.restore`.
    """
    restored = store.restore(build.abstract, say, start_over=start_over)
    if restored is not None:
        state, meta = restored
        say(f"resuming from step {meta['step']} in {store.directory}")
        return state, meta
    state = build.initialise()
    fresh = {"step": 0, "batches": 0, "means": {}, "seconds": 0.0}
    if init_from is None:
        say("starting from scratch")
        return state, fresh
    found, missing, unused = initial_params(init_from, build.abstract.params)

    def fill(path: Any, leaf: Any, target: Any) -> Any:
        own = "/".join(str(key.key) for key in path)
        # A new buffer each time: parameters and average must not share one, they are donated.
        return processes.put(np.array(found[own]), target.sharding) if own in found else leaf

    params = jax.tree_util.tree_map_with_path(fill, state.params, build.abstract.params)
    state = dataclasses.replace(state, params=params)
    if state.ema is not None:
        ema = jax.tree_util.tree_map_with_path(fill, state.ema, build.abstract.ema)
        state = dataclasses.replace(state, ema=ema)
    source = "given parameters" if isinstance(init_from, Mapping) else init_from
    lists = {"loaded": sorted(found), "fresh": missing, "not used": unused}
    say(f"starting from {source}: " + ", ".join(f"{len(v)} tensors {k}" for k, v in lists.items()))
    for what, names in lists.items():
        for own in names:
            say(f"  {what}: {own}")
    return state, fresh
