"""Checkpoints of a run: saved in the background, checked on the way back, portable across meshes.

A checkpoint is one Orbax step that becomes visible by a rename, so a process killed while saving
leaves the previous one.  It holds

    params/  ema/  optimizer/ (with step, key and guard)  meta/ (JSON: config, data position, ...)

Orbax does not notice a flipped byte in array data (0.12.8 loads it, different).  So the JSON lists
every tensor with its shape, dtype and a checksum of its bits, computed on the devices that hold it;
the sum is the same on every mesh.  A checkpoint whose sums do not match, or that has lost a part,
is moved aside and the one before it is used.  What cannot be read for any other reason stays.
"""

from mirage_jax.io.orbax import DamagedCheckpoint
from mirage_jax.training.checkpoints.checksums import checksum, tensor_table
from mirage_jax.training.checkpoints.reading import (
    DAMAGED,
    FOLDER,
    CheckpointError,
    load_items,
    load_params,
    read_meta,
    saved_steps,
    set_aside,
)
from mirage_jax.training.checkpoints.store import Checkpoints

__all__ = [
    "DAMAGED",
    "FOLDER",
    "CheckpointError",
    "Checkpoints",
    "DamagedCheckpoint",
    "checksum",
    "load_items",
    "load_params",
    "read_meta",
    "saved_steps",
    "set_aside",
    "tensor_table",
]
