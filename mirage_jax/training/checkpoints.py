"""Checkpoints of a run: saved in the background, checked on the way back, portable across meshes.

A checkpoint is one Orbax step that becomes visible by a rename, so a process killed while saving
leaves the previous one.  It holds

    params/  ema/  optimizer/ (with step, key and guard)  meta/ (JSON: config, data position, ...)

Orbax does not notice a flipped byte in array data (0.12.8 loads it, different).  So the JSON lists
every tensor with its shape, dtype and a checksum of its bits, computed on the devices that hold it;
the sum is the same on every mesh.  A checkpoint whose sums do not match is moved aside and the one
before it is used.
"""

import contextlib
import errno
import functools
import gc
import json
import logging
import shutil
import subprocess
import time
import warnings
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped, UInt32
from orbax.checkpoint import v1 as ocp

from mirage_jax.training.state import TrainState

FORMAT = "mirage-checkpoint-2"
FOLDER = "checkpoints"
DAMAGED = "damaged_checkpoints"

# Writing a copied tensor together compiles a slice for its shape: worth it for large ones only.
_ARRAYS = ocp.options.ArrayOptions(
    saving=ocp.options.ArrayOptions.Saving(min_slice_bytes_for_replica_parallel=1 << 24)
)


class CheckpointError(OSError):
    """A checkpoint could not be written, or none of those present is intact."""


class DamagedCheckpoint(ValueError):
    """The bytes of a checkpoint are not those that were saved."""


class Checkpoints:
    """The checkpoints of one run, in `<workdir>/checkpoints/<step>`.

    Use as a context manager: leaving it waits for a save in progress.

    Args:
      workdir: folder of the run.
      keep: how many of the newest to keep.
      keep_best: how many to keep beside them of those that were saved with the lowest value.
    """

    def __init__(self, workdir: str | Path, *, keep: int = 2, keep_best: int = 0) -> None:
        if keep < 1:
            raise ValueError(f"keep: found {keep}, expected at least 1")
        self.directory = Path(workdir).resolve() / FOLDER
        self._keep, self._keep_best = keep, keep_best
        self._checkpointer: Any = None
        self._pending: tuple[int, Any] | None = None

    def __enter__(self) -> "Checkpoints":
        logging.getLogger("absl").addFilter(_not_from_orbax)
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            self._leave(error)
        finally:
            logging.getLogger("absl").removeFilter(_not_from_orbax)

    def _leave(self, error: BaseException | None) -> None:
        if error is None:
            self.close()
            return
        # The first error is the one to report.
        try:
            self.close()
        except CheckpointError as second:
            error.add_note(str(second))

    def steps(self) -> list[int]:
        """Steps with a complete checkpoint, ascending."""
        return saved_steps(self.directory)

    def save(
        self, state: TrainState, meta: Mapping[str, Any], *, value: float | None = None
    ) -> int:
        """Starts saving `state`; returns its step once the state may be changed.

        The arrays are copied off the devices before this returns; writing goes on in the background
        and its errors come up at the next `save`, `wait` or `close`.

        Args:
          state: the state, all leaves on devices.
          meta: JSON-serialisable; comes back from `restore`.
          value: by which the best are found, lower being better; None: unknown.

        Raises:
          CheckpointError: if this or the previous save failed, e.g. for want of space. Checkpoints
            that were complete stay.
        """
        self.wait()
        step = int(state.step)
        if step in self.steps():
            return step
        items = _items(state)
        table = tensor_table(items)
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(items) if hasattr(leaf, "nbytes"))
        self.directory.mkdir(parents=True, exist_ok=True)
        checkpointer = self._open()  # removes what an unfinished save has left, so comes first
        _check_space(self.directory, step, needed)
        text = json.dumps({**meta, "format": FORMAT, "step": step, "tensors": table})
        items["meta"] = {"json": text, "crc32": zlib.crc32(text.encode())}
        with self._translated(step), ocp.Context(array_options=_ARRAYS):
            metrics = None if value is None else {"value": value}
            response = checkpointer.save_checkpointables_async(
                step, items, force=True, metrics=metrics
            )
        self._pending = (step, response)
        return step

    def wait(self) -> None:
        """Returns when the save in progress, if any, is complete.

        Raises:
          CheckpointError: if it failed.
        """
        if self._pending is None:
            return
        step, response = self._pending
        self._pending = None
        with self._translated(step):
            response.result()

    def close(self) -> None:
        """Waits and releases Orbax's threads."""
        self.wait()
        checkpointer, self._checkpointer = self._checkpointer, None
        if checkpointer is not None:
            checkpointer.close()

    def restore(self, abstract: TrainState, say: Any = print) -> tuple[TrainState, dict] | None:
        """The newest intact checkpoint, or None where there is none at all.

        Args:
          abstract: `ShapeDtypeStruct` leaves with the sharding wanted; any mesh will do.
          say: called with a line of text for each checkpoint that had to be passed over.

        Returns:
          The state and what `save` was given as `meta`.

        Raises:
          ValueError: if the newest one is of another format or architecture; names what differs.
          CheckpointError: if checkpoints exist and none is intact.
        """
        steps = self.steps()
        for step in reversed(steps):
            path = self.directory / str(step)
            try:
                meta = read_meta(path)
                expected = _items(abstract)
                _check_table(path, meta["tensors"], expected)
                items = load_items(path, expected, meta["tensors"])
            except DamagedCheckpoint as error:
                say(f"checkpoint {step} is damaged ({error}); moved to {self._set_aside(path)}")
                continue
            return _state(items), meta
        if steps:
            raise CheckpointError(
                f"{self.directory}: none of the checkpoints {steps} is intact, they are now in "
                f"{self.directory.parent / DAMAGED}; start again to train from scratch"
            )
        return None

    def _open(self) -> Any:
        if self._checkpointer is None:
            policies = ocp.training.preservation_policies
            best = policies.BestN(
                get_metric_fn=lambda metrics: -metrics["value"],  # the last in order are kept
                n=self._keep_best,
                keep_checkpoints_without_metrics=False,
            )
            self._checkpointer = ocp.training.Checkpointer(
                self.directory,
                preservation_policy=policies.AnyPreservationPolicy(
                    [policies.LatestN(self._keep), best]
                ),
                cleanup_tmp_directories=True,
            )
        return self._checkpointer

    def _discard_checkpointer(self) -> None:
        # After a failed save Orbax raises the same error from whatever is called next.
        checkpointer, self._checkpointer = self._checkpointer, None
        with contextlib.suppress(Exception):
            if checkpointer is not None:
                checkpointer.close()

    def _set_aside(self, path: Path) -> Path:
        aside = self.directory.parent / DAMAGED / f"{path.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        if jax.process_index() == 0:
            aside.parent.mkdir(exist_ok=True)
            shutil.move(path, aside)
        return aside

    @contextlib.contextmanager
    def _translated(self, step: int) -> Iterator[None]:
        # Orbax passes errors of tensorstore on as ValueError, of the file system as OSError, each
        # possibly wrapped; whatever went wrong, this save did.
        try:
            yield
        except Exception as error:
            self._discard_checkpointer()
            # At best: Orbax's threads may still be writing. The next start removes the rest.
            for partial in self.directory.glob(f"{step}.*tmp*"):
                shutil.rmtree(partial, ignore_errors=True)
            kept = self.steps()
            raise CheckpointError(
                f"{self.directory}: saving step {step} failed: {reason_of(error)}; "
                + (f"the checkpoints {kept} are untouched" if kept else "there is no earlier one")
            ) from error


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


def tensor_table(tree: Any) -> dict[str, list]:
    """{name: [shape, dtype, checksum]} for every leaf; names join the path with '/'."""
    named = {_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}
    host = jax.device_get({name: checksum(leaf) for name, leaf in named.items()})
    return {
        name: [list(leaf.shape), str(leaf.dtype), int(host[name])] for name, leaf in named.items()
    }


def checksum(array: Shaped[Array | np.ndarray, "..."]) -> UInt32[Array, ""] | np.uint32:
    """Sum of the array's 32-bit words, each times an odd number of its position, modulo 2^32.

    A change of any one word changes the sum.  Addition of integers is exact in any order, so the
    number does not depend on how the array is split over devices.  What host memory holds is summed
    by numpy, which has nothing to compile.
    """
    if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    on_host = not isinstance(array, jax.Array) or (
        array.is_fully_addressable and all(d.platform == "cpu" for d in array.devices())
    )
    return _weighted_sum(np.asarray(array), np) if on_host else _sum_on_devices(array)


def _weighted_sum(array: Any, xp: Any) -> Any:
    """`checksum` in numpy or jax.numpy (`xp`)."""
    words = _words(array)
    position = xp.zeros(words.shape, xp.uint32)
    stride = 1
    # Position from one range per axis: flattening a sharded array would gather it.
    for axis in reversed(range(words.ndim)):
        along = [-1 if other == axis else 1 for other in range(words.ndim)]
        steps = xp.arange(words.shape[axis], dtype=xp.uint32).reshape(along)
        position = position + steps * xp.uint32(stride % 2**32)
        stride *= words.shape[axis]
    # Twice the golden ratio of 2^32: even, so that weights are odd, with no further factor of two.
    weight = position * xp.uint32(1013904226) + xp.uint32(1)
    return xp.sum(words * weight, dtype=xp.uint32)


_sum_on_devices = jax.jit(functools.partial(_weighted_sum, xp=jnp))


def git_revision(folder: str | Path) -> str:
    """Commit of the working tree that `folder` lies in, `+changes` where it is not clean."""
    try:
        run = dict(cwd=folder, capture_output=True, text=True, timeout=10, check=True)
        commit = subprocess.run(["git", "rev-parse", "HEAD"], **run).stdout.strip()  # type: ignore[call-overload]
        status = ["git", "status", "--porcelain", "--untracked-files=no"]
        changes = subprocess.run(status, **run).stdout.strip()  # type: ignore[call-overload]
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return commit + ("+changes" if changes else "")


def _items(state: TrainState) -> dict[str, Any]:
    items = {
        "params": state.params,
        "optimizer": {
            "state": state.opt_state,
            "step": state.step,
            "key": state.key,
            "guard": state.guard,
        },
    }
    if state.ema is not None:
        items["ema"] = state.ema
    return items


def _state(items: Mapping[str, Any]) -> TrainState:
    optimizer = items["optimizer"]
    return TrainState(
        step=optimizer["step"],
        params=items["params"],
        opt_state=optimizer["state"],
        ema=items.get("ema"),
        key=optimizer["key"],
        guard=optimizer["guard"],
    )


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _words(array: Any) -> Any:
    """The array's bits as uint32, one word per element (two for 64-bit ones)."""
    if array.dtype == bool:
        return array.astype(np.uint32)
    width = np.dtype(array.dtype).itemsize
    words: Any
    unsigned = {1: np.uint8, 2: np.uint16}.get(width, np.uint32)
    if isinstance(array, np.ndarray):
        bits = array[..., None].view(unsigned)
        words = bits if width > 4 else bits[..., 0]
    else:
        words = jax.lax.bitcast_convert_type(array, unsigned)
    return words.astype(np.uint32)


def _check_table(path: Path, table: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    wanted = {
        _name(key): [list(leaf.shape), str(leaf.dtype)]
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


def _not_from_orbax(record: logging.LogRecord) -> bool:
    """Drops the tracebacks that Orbax's threads log of errors that are raised here as well."""
    return "orbax" not in record.pathname or record.levelno >= logging.CRITICAL


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences the screens of tracebacks that Orbax's background tasks log about a damaged file."""
    loggers = [logging.getLogger(name) for name in ("asyncio", "absl")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _check_space(directory: Path, step: int, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise CheckpointError(
            f"{directory}: no space left for the checkpoint of step {step}: it needs "
            f"about {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free; "
            "earlier checkpoints are untouched"
        )


def reason_of(error: BaseException) -> str:
    """One line: the first cause that tells a person something."""
    seen: BaseException | None = error
    text = f"{type(error).__name__}: {error}"
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno == errno.ENOSPC:
            return "no space left on the device"
        if "No space left" in str(seen) or "RESOURCE_EXHAUSTED" in str(seen):
            return "no space left on the device"
        text = f"{type(seen).__name__}: {seen}"
        seen = seen.__cause__ or seen.__context__
    return " ".join(text.split())[:200]
