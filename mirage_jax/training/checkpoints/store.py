"""The checkpoints of a run: saved in the background, restored from the newest intact one."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from mirage_jax.io.orbax import DamagedCheckpoint, reason_of
from mirage_jax.training.checkpoints import reading
from mirage_jax.training.checkpoints.checksums import tensor_table
from mirage_jax.training.checkpoints.reading import DAMAGED, CheckpointError
from mirage_jax.training.state import TrainState

# Writing a copied tensor together compiles a slice for its shape: worth it for large ones only.
_ARRAYS = ocp.options.ArrayOptions(
    saving=ocp.options.ArrayOptions.Saving(min_slice_bytes_for_replica_parallel=1 << 24)
)


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
        self.directory = Path(workdir).resolve() / reading.FOLDER
        self._keep, self._keep_best = keep, keep_best
        self._checkpointer: Any = None
        self._pending: tuple[int, Any] | None = None

    def __enter__(self) -> Checkpoints:
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
        return reading.saved_steps(self.directory)

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
        text = json.dumps({**meta, "format": reading.FORMAT, "step": step, "tensors": table})
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

    def restore(
        self, abstract: TrainState, say: Any = print, *, start_over: bool = False
    ) -> tuple[TrainState, dict] | None:
        """The newest intact checkpoint, or None where there is none at all.

        Damaged ones that are newer are moved aside, once an intact one is found.

        Args:
          abstract: `ShapeDtypeStruct` leaves with the sharding wanted; any mesh will do.
          say: called with a line of text for each checkpoint that had to be passed over.
          start_over: None, too, where all checkpoints are damaged; they are moved aside.

        Returns:
          The state and what `save` was given as `meta`.

        Raises:
          ValueError: if the newest one is of another format or architecture; names what differs.
          CheckpointError: if one cannot be read, or all that there are or ever were are damaged;
            all of them stay where they are.
        """
        damaged: dict[int, DamagedCheckpoint] = {}
        for step in reversed(self.steps()):
            path = self.directory / str(step)
            try:
                meta = reading.read_meta(path)
                expected = _items(abstract)
                reading.check_table(path, meta["tensors"], expected)
                items = reading.load_items(path, expected, meta["tensors"])
            except DamagedCheckpoint as error:
                damaged[step] = error
                continue
            self._set_aside(damaged, say)
            return _state(items), meta
        if start_over:
            self._set_aside(damaged, say)
        elif damaged or reading.set_aside(self.directory):
            raise CheckpointError(self._nothing_intact(damaged))
        return None

    def _nothing_intact(self, damaged: Mapping[int, DamagedCheckpoint]) -> str:
        run = self.directory.parent
        if damaged:
            why = "; ".join(f"{step}: {error}" for step, error in damaged.items())
            text = f"{self.directory}: none of the checkpoints {self.steps()} is intact ({why})"
        else:
            text = (
                f"{run / DAMAGED}: the checkpoints of this run were set aside there, and there is "
                "no other"
            )
        text += "; they stay where they are. start_over=true (--config.start_over=true) begins anew"
        try:
            reading.load_params(run)
        except CheckpointError:
            return text
        return (
            f"{text}; their parameters are intact, and init_from={run} "
            f"(--config.geometry_training.init_from=..., or of the section that this is) together "
            "with it begins from those"
        )

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

    def _set_aside(self, damaged: Mapping[int, DamagedCheckpoint], say: Any) -> None:
        now = time.strftime("%Y%m%d-%H%M%S")
        for step, error in damaged.items():
            aside = self.directory.parent / DAMAGED / f"{step}-{now}"
            if jax.process_index() == 0:
                aside.parent.mkdir(exist_ok=True)
                shutil.move(self.directory / str(step), aside)
            say(f"checkpoint {step} is damaged ({error}); moved to {aside}")

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


def _not_from_orbax(record: logging.LogRecord) -> bool:
    """Drops the tracebacks that Orbax's threads log of errors that are raised here as well."""
    return "orbax" not in record.pathname or record.levelno >= logging.CRITICAL


def _check_space(directory: Path, step: int, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise CheckpointError(
            f"{directory}: no space left for the checkpoint of step {step}: it needs "
            f"about {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free; "
            "earlier checkpoints are untouched"
        )
