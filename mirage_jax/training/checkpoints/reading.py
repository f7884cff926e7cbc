"""Reading checkpoints: what there is, what is in it, and whether it is what was saved."""

from __future__ import annotations

import contextlib
import gc
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from mirage_jax.io.orbax import DamagedCheckpoint, proof_of_damage, quiet, reason_of
from mirage_jax.io.strict_json import parse_object
from mirage_jax.training.checkpoints.checksums import tensor_name, tensor_table

FORMAT = "mirage-checkpoint-2"
FOLDER = "checkpoints"
DAMAGED = "damaged_checkpoints"

T = TypeVar("T")


class CheckpointError(OSError):
    """A checkpoint could not be written or read, or none of those present is intact."""


def saved_steps(directory: Path) -> list[int]:
    """Steps with a complete checkpoint in a `checkpoints` folder, ascending."""
    if not directory.is_dir():
        return []
    # A save in progress is named "<step>.orbax-checkpoint-tmp".
    return sorted(int(p.name) for p in directory.iterdir() if p.is_dir() and p.name.isdigit())


def set_aside(directory: Path) -> list[Path]:
    """Damaged checkpoints that were moved out of a `checkpoints` folder, of ascending steps."""
    aside = directory.parent / DAMAGED
    if not aside.is_dir():
        return []
    found = [p for p in aside.iterdir() if p.is_dir() and p.name.partition("-")[0].isdigit()]
    return sorted(found, key=lambda p: (int(p.name.partition("-")[0]), p.name))


def read_meta(path: Path) -> dict[str, Any]:
    """The JSON part of one checkpoint folder: config, git revision, data position, tensors.

    Raises:
      DamagedCheckpoint: if it is missing or its CRC is wrong.
      CheckpointError: if it cannot be read, which proves nothing.
      ValueError: if it is of another format.
    """
    return _twice(lambda: _read_meta(path))


def _twice(read: Callable[[], T]) -> T:
    """What is damaged must be so twice: bytes may also go wrong on their way from the disk."""
    with contextlib.suppress(DamagedCheckpoint):
        return read()
    return read()


def _read_meta(path: Path) -> dict[str, Any]:
    meta = _load(path, {"meta": None})["meta"]
    try:
        text, crc = str(meta["json"]), int(meta["crc32"])
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedCheckpoint("meta: fields json and crc32 expected") from error
    if zlib.crc32(text.encode()) != crc:
        raise DamagedCheckpoint("meta: the CRC does not match")
    try:
        meta = parse_object(text)
    except ValueError as error:
        raise ValueError(f"{path}: meta: {error}") from error
    if meta.get("format") != FORMAT:
        raise ValueError(f"{path}: found format {meta.get('format')!r}, expected {FORMAT!r}")
    tensors = meta.get("tensors")
    if not isinstance(tensors, dict) or not all(map(_is_entry, tensors.values())):
        raise ValueError(
            f"{path}: meta.tensors: found another table than of names, each with shape, dtype and "
            "checksum"
        )
    return meta


def _is_entry(entry: Any) -> bool:
    """Whether a value is [shape, dtype, checksum]."""
    if not isinstance(entry, list) or len(entry) != 3 or not isinstance(entry[0], list):
        return False
    shape, dtype, checksum = entry
    lengths = all(type(length) is int and length >= 0 for length in shape)
    return lengths and type(dtype) is str and type(checksum) is int


def load_items(path: Path, abstract: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    """Loads some of {params, ema, optimizer} and compares every tensor with its checksum.

    Raises:
      DamagedCheckpoint: naming the tensor or the file.
      CheckpointError: if they cannot be read, which proves nothing.
    """

    def read() -> dict[str, Any]:
        items = _load(path, dict(abstract))
        for name, (_, _, found) in tensor_table(items).items():
            if found != table[name][2]:
                raise DamagedCheckpoint(f"tensor {name!r}: the checksum does not match")
        return items

    return _twice(read)


def load_params(workdir: str | Path, *, step: int | None = None, ema: bool = True) -> dict:
    """Parameters of a run as numpy arrays, whatever mesh it was trained on.

    They alone need to be intact: a checkpoint that has lost its optimizer state has them still, and
    where there is no other, so has one that was set aside.

    Args:
      workdir: folder of the run.
      step: which checkpoint; default the newest with intact parameters.
      ema: the averaged parameters where the run has any.

    Raises:
      ValueError: if there is no such checkpoint.
      CheckpointError: if none is intact, or one cannot be read.
    """
    directory = Path(workdir).resolve() / FOLDER
    steps = saved_steps(directory)
    aside = set_aside(directory) if step is None else []
    if not (steps or aside) or (step is not None and step not in steps):
        wanted = "a checkpoint" if step is None else f"step {step}"
        raise ValueError(f"{directory}: found the steps {steps}, expected {wanted}")
    problems = []
    chosen = [directory / str(s) for s in (steps if step is None else [step])]
    for path in [*reversed(chosen), *reversed(aside)]:
        try:
            table = read_meta(path)["tensors"]
            part = "ema" if ema and any(n.startswith("ema/") for n in table) else "params"
            return load_items(path, {part: _abstract_from(table, part)}, table)[part]
        except DamagedCheckpoint as error:
            problems.append(f"{path.name}: {error}")
    raise CheckpointError(f"{directory}: no intact checkpoint ({'; '.join(problems)})")


_DIFFERS = {
    "params": "of another architecture",
    "ema": "of a run that averages its parameters, or of one that does not (ema_decay)",
    "optimizer": "of another optimizer (optimizer, clip_norm, ...)",
}
"""What differs, by the part of a checkpoint whose tensors do."""


def _part_of(problem: str) -> str:
    return problem.removeprefix("tensor '").partition("/")[0]


def check_table(path: Path, table: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Compares the tensors that a checkpoint lists with those that are expected.

    Args:
      path: of the checkpoint, for messages.
      table: `tensor_table` of what was saved.
      expected: tree of arrays or shapes.

    Raises:
      ValueError: saying what was another - the architecture, the optimizer, or whether parameters
        are averaged - and naming the first tensor that differs.
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
        # Of parameters that differ the optimizer and the average differ too.
        part = next(p for p in _DIFFERS if any(_part_of(text) == p for text in problems))
        own = [text for text in problems if _part_of(text) == part]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        what, on = _DIFFERS[part], ""
        if part != "params":
            on = (
                "; the settings that it was made with go on from it, and init_from="
                f"{path.parent.parent} in another folder begins anew from its parameters"
            )
        raise ValueError(f"{path}: the checkpoint is {what}; {own[0]}{more}{on}")


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
        # Orbax raises anything. Shapes and names have been compared before, so what fails here is
        # the file's fault, or the disk's, or memory's.
        except Exception as error:
            reason = reason_of(error)
            proofs = [
                proof_of_damage(error, path / part, _names(tree)) for part, tree in abstract.items()
            ]
        # Outside of the handler, where nothing holds the failed tasks: they log when collected.
        gc.collect()
    if any(proofs):
        raise DamagedCheckpoint(next(filter(None, proofs)))
    raise CheckpointError(
        f"{path}: could not be read: {reason}; that does not prove it damaged, so nothing was "
        "changed. The same command goes on from it once it can be read; if it never can, move it "
        f"to {DAMAGED}/ of the run, and the one before it is used"
    )


def _names(tree: Any) -> list[str]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [tensor_name(path) for path, leaf in leaves if leaf is not None]
