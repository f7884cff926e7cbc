"""Reading checkpoints: what there is, what is in it, and whether it is what was saved."""

from __future__ import annotations

import gc
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from mirage_jax.io.orbax import DamagedCheckpoint, quiet, reason_of
from mirage_jax.training.checkpoints.checksums import tensor_name, tensor_table

FORMAT = "mirage-checkpoint-2"
FOLDER = "checkpoints"


class CheckpointError(OSError):
    """A checkpoint could not be written, or none of those present is intact."""


def saved_steps(directory: Path) -> list[int]:
    """Steps with a complete checkpoint in a `checkpoints` folder, ascending."""
    if not directory.is_dir():
        return []
    # A save in progress is named "<step>.orbax-checkpoint-tmp".
    return sorted(int(p.name) for p in directory.iterdir() if p.is_dir() and p.name.isdigit())


def read_meta(path: Path) -> dict[str, Any]:
    """The JSON part of one checkpoint folder: config, git revision, data position, tensors.

    Raises:
      DamagedCheckpoint: if it cannot be read or its CRC is wrong.
      ValueError: if it is of another format.
    """
    meta = _load(path, {"meta": None})["meta"]
    try:
        text, crc = str(meta["json"]), int(meta["crc32"])
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedCheckpoint("meta: fields json and crc32 expected") from error
    if zlib.crc32(text.encode()) != crc:
        raise DamagedCheckpoint("meta: the CRC does not match")
    meta = json.loads(text)
    if meta.get("format") != FORMAT:
        raise ValueError(f"{path}: found format {meta.get('format')!r}, expected {FORMAT!r}")
    return meta


def load_items(path: Path, abstract: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    """Loads some of {params, ema, optimizer} and compares every tensor with its checksum.

    Raises:
      DamagedCheckpoint: naming the tensor.
    """
    items = _load(path, dict(abstract))
    for name, (_, _, found) in tensor_table(items).items():
        if found != table[name][2]:
            raise DamagedCheckpoint(f"tensor {name!r}: the checksum does not match")
    return items


def load_params(workdir: str | Path, *, step: int | None = None, ema: bool = True) -> dict:
    """Parameters of a run as numpy arrays, whatever mesh it was trained on.

    Args:
      workdir: folder of the run.
      step: which checkpoint; default the newest intact one.
      ema: the averaged parameters where the run has any.

    Raises:
      ValueError: if there is no such checkpoint.
      CheckpointError: if none is intact.
    """
    directory = Path(workdir).resolve() / FOLDER
    steps = saved_steps(directory)
    if not steps or (step is not None and step not in steps):
        wanted = "a checkpoint" if step is None else f"step {step}"
        raise ValueError(f"{directory}: found the steps {steps}, expected {wanted}")
    problems = []
    for candidate in reversed(steps) if step is None else [step]:
        path = directory / str(candidate)
        try:
            meta = read_meta(path)
            table = meta["tensors"]
            part = "ema" if ema and any(n.startswith("ema/") for n in table) else "params"
            return load_items(path, {part: _abstract_from(table, part)}, table)[part]
        except DamagedCheckpoint as error:
            problems.append(f"{candidate}: {error}")
    raise CheckpointError(f"{directory}: no intact checkpoint ({'; '.join(problems)})")


def check_table(path: Path, table: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Compares the tensors that a checkpoint lists with those that are expected.

    Args:
      path: of the checkpoint, for messages.
      table: `tensor_table` of what was saved.
      expected: tree of arrays or shapes.

    Raises:
      ValueError: naming the first tensor that differs.
    """
    wanted = {
        tensor_name(key): [list(leaf.shape), str(leaf.dtype)]
        for key, leaf in jax.tree_util.tree_flatten_with_path(expected)[0]
    }
    problems = []
    for name in sorted(wanted.keys() | table.keys()):
        found = _shape_text(table[name]) if name in table else "no such tensor"
        expect = _shape_text(wanted[name]) if name in wanted else "no such tensor"
        if found != expect:
            problems.append(f"tensor {name!r}: found {found}, expected {expect}")
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ValueError(f"{path}: the checkpoint is of another architecture; {problems[0]}{more}")


def _shape_text(entry: Any) -> str:
    return f"{entry[1]} {tuple(entry[0])}"


def _abstract_from(table: Mapping[str, Any], part: str) -> dict:
    tree: dict[str, Any] = {}
    for name, (shape, dtype, _) in table.items():
        head, *parents, leaf = name.split("/")
        if head == part:
            node = tree
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = np.empty(shape, jnp.dtype(dtype))
    return tree


def _load(path: Path, abstract: dict[str, Any]) -> dict[str, Any]:
    with quiet():
        try:
            return ocp.load_checkpointables(path, abstract)
        # Damage shows as anything from KeyError to a tensorstore ValueError; shapes and names have
        # been compared before, so whatever fails here is the file's fault.
        except Exception as error:
            reason = reason_of(error)
        # Outside of the handler, where nothing holds the failed tasks: they log when collected.
        gc.collect()
    raise DamagedCheckpoint(f"unreadable, {reason}")
