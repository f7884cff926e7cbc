"""Exports of ours as Orbax checkpoints, written and read layer by layer.

    folder/            `orbax.checkpoint.v1.load(folder)` gives the nested parameters, on any mesh
      checksums.json   of the architecture and of every chunk; Orbax notices no flipped byte

The architecture is in Orbax's custom metadata. Orbax itself saves and loads arrays whole, and keeps
a second copy of what it has compressed. A parameter of all layers may be too large for that, so
here Orbax writes the checkpoint with zeros, which take no memory, and tensorstore, in whose format
Orbax stores arrays (zarr3 in OCDBT), fills in and reads the values.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore
from orbax.checkpoint import v1 as ocp

from mirage_jax.convert.tensor_files import Pieces, Spec, Specs, TensorFiles
from mirage_jax.io.atomic import replacing
from mirage_jax.io.orbax import DamagedCheckpoint, proof_of_damage, quiet, reason_of
from mirage_jax.io.strict_json import parse_object
from mirage_jax.weights import architecture_text, flatten, unflatten

FORMAT = "mirage-orbax-1"
CHECKSUMS = "checksums.json"

_STATE = "state"  # the name that `ocp.load` expects
_MARKERS = ("orbax.checkpoint", "_CHECKPOINT_METADATA")
_LARGE = 64 * 2**20  # bytes from which a parameter is stored and read by layer


@dataclasses.dataclass(frozen=True)
class OrbaxTensor:
    """A `LazyTensor` in an Orbax checkpoint; what is read is compared with its checksums.

    They are one for each layer, if layers are chunks of their own, or one for all values.
    """

    folder: Path
    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    checksums: tuple[int, ...]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if len(self.checksums) == 1:
            return _read(self).astype(dtype or self.dtype, copy=False)
        values = np.empty(self.shape, dtype or self.dtype)
        for layer in range(len(values)):
            values[layer] = self[layer]
        return values

    def __getitem__(self, index: int) -> np.ndarray:
        return _read(self)[index] if len(self.checksums) == 1 else _read(self, index)


def by_layer(spec: Spec) -> bool:
    """Whether a parameter is so large that its layers (first axis) are chunks of their own."""
    dtype, shape = spec
    return len(shape) > 2 and math.prod(shape) * dtype.itemsize > _LARGE


def is_orbax(path: str | Path) -> bool:
    """Whether a path is a folder with an Orbax checkpoint, ours or not."""
    # `ocp.is_orbax_checkpoint` is true of nearly any folder with a folder in it.
    return any((Path(path) / marker).is_file() for marker in _MARKERS)


def open_orbax(path: str | Path) -> TensorFiles:
    """Opens what `save_orbax` wrote, reading no value; metadata are those of an export.

    Raises:
      DamagedCheckpoint: if files are missing or damaged. So does reading a tensor, naming it.
      OSError: if they cannot be read, which proves no damage.
      ValueError: if it is another Orbax checkpoint, without an architecture.
    """
    path = Path(path)
    with quiet():
        try:
            found = ocp.checkpointables_metadata(path.absolute())
            own = dict(found.custom_metadata or {})
            parameters = (found.metadata or {}).get(_STATE)
        except Exception as error:
            raise _unreadable(f"{path}", path / _STATE, error) from error
    if own.get("format") != FORMAT:
        raise ValueError(
            f"{path}: an Orbax checkpoint of format {own.get('format')!r}, expected {FORMAT!r}, "
            "with the architecture, as mirage convert writes it"
        )
    if not parameters:
        raise DamagedCheckpoint(f"{path}: unreadable, found no parameters in {_STATE}")
    architecture, stored = own.get("architecture"), flatten(parameters)
    if not isinstance(architecture, dict):
        raise ValueError(
            f"{path}: architecture: found {architecture!r} in the custom metadata, expected "
            "named fields"
        )
    text, sums = architecture_text(architecture), _checksums(path)
    if zlib.crc32(text.encode()) != sums["architecture"]:
        raise DamagedCheckpoint(f"{path}: architecture: the checksum does not match")
    tensors = {}
    for name in sorted(stored.keys() | sums["tensors"].keys()):
        if name not in stored or name not in sums["tensors"]:
            where = "checkpoint" if name not in stored else CHECKSUMS
            raise DamagedCheckpoint(f"{path}: tensor {name!r} is missing from the {where}")
        dtype, shape = np.dtype(stored[name].dtype), tuple(stored[name].shape)
        checksums = tuple(sums["tensors"][name])
        if len(checksums) not in (1, *shape[:1]):
            raise DamagedCheckpoint(
                f"{path}: tensor {name!r}: found {len(checksums)} checksums, expected 1 or one for "
                f"each layer of {shape}"
            )
        tensors[name] = OrbaxTensor(path, name, dtype, shape, checksums)
    return TensorFiles(path, tensors, {"format": FORMAT, "architecture": text}, {})


def _checksums(path: Path) -> dict[str, Any]:
    try:
        sums = parse_object((path / CHECKSUMS).read_bytes())
        architecture, tensors = sums["architecture"], sums["tensors"]
        if type(architecture) is not int or not isinstance(tensors, dict):
            raise ValueError("expected a number, and sums of tensors by name")
        if not all(
            isinstance(sums, list) and all(type(number) is int for number in sums)
            for sums in tensors.values()
        ):
            raise ValueError("expected a list of numbers for every tensor")
        return {"architecture": architecture, "tensors": tensors}
    except (FileNotFoundError, ValueError, KeyError) as error:
        raise DamagedCheckpoint(f"{path / CHECKSUMS}: unreadable, {reason_of(error)}") from error


def _unreadable(what: str, part: Path, error: Exception) -> DamagedCheckpoint | OSError:
    """The error to raise for one of Orbax or tensorstore: of damage, if that can be proven."""
    if proof := proof_of_damage(error, part):
        return DamagedCheckpoint(f"{what}: unreadable, {proof}")
    return OSError(f"{what}: could not be read: {reason_of(error)}; that does not prove it damaged")


def save_orbax(out: Path, specs: Specs, pieces: Pieces, architecture: Mapping[str, Any]) -> None:
    """Writes an Orbax checkpoint that takes its place once it is complete.

    Args:
      out: folder to make.
      specs: dtype and shape of every parameter by its path, "outer/inner/kernel".
      pieces: gives, for a path, arrays that are the parameter's values in order: whole layers.
      architecture: JSON-serialisable fields that determine the modules.

    Raises:
      FileExistsError: if `out` exists.
      ValueError: if pieces are not as many values as their spec says, or Orbax has no place for
        a parameter.
      OSError: if writing fails, e.g. on a full disk.
    """
    if out.exists():
        raise FileExistsError(f"{out}: is there already; expected a new folder")
    for name, (_, shape) in specs.items():
        if not math.prod(shape):
            raise ValueError(f"tensor {name!r}: found shape {shape}, Orbax stores no empty arrays")
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as partial:
        with _translated(out):
            _save_zeros(partial, specs, architecture)
        sums: dict[str, list[int]] = {name: [] for name in specs}
        waiting: list[tuple[str, int | None, np.ndarray]] = []
        for name, spec in specs.items():
            for index, chunk in enumerate(_chunks(name, spec, pieces(name))):
                sums[name].append(_crc(chunk))
                waiting.append((name, index if by_layer(spec) else None, chunk))
                if sum(chunk.nbytes for _, _, chunk in waiting) > _LARGE:
                    with _translated(out):
                        _fill(partial, waiting)
                    waiting = []
        with _translated(out):
            _fill(partial, waiting)
        text = architecture_text(architecture)
        own = {"architecture": zlib.crc32(text.encode()), "tensors": sums}
        (partial / CHECKSUMS).write_text(json.dumps(own) + "\n", encoding="utf-8")


def _save_zeros(folder: Path, specs: Specs, architecture: Mapping[str, Any]) -> None:
    saving = ocp.options.ArrayOptions.Saving

    def storage(_: Any, zeros: np.ndarray) -> Any:
        stacked = by_layer((zeros.dtype, zeros.shape))
        return saving.StorageOptions(shard_axes=(0,)) if stacked else None

    zeros = {name: np.broadcast_to(np.zeros((), dtype), s) for name, (dtype, s) in specs.items()}
    context = ocp.Context(
        array_options=ocp.options.ArrayOptions(
            saving=saving(scoped_storage_options_creator=storage)
        ),
        # A copy would be as large as what the zeros stand for.
        memory_options=ocp.options.MemoryOptions(deepcopy_host_arrays=False),
    )
    own = {"format": FORMAT, "architecture": json.loads(architecture_text(architecture))}
    rest = f"{folder.name}.orbax-checkpoint-tmp"  # what Orbax leaves behind if it fails
    try:
        with context:
            ocp.save(
                folder.absolute(),
                unflatten(zeros),
                checkpointable_name=_STATE,
                overwrite=True,  # what a process that was killed has left
                custom_metadata=own,
            )
    finally:
        shutil.rmtree(folder.with_name(rest), ignore_errors=True)


def _chunks(name: str, spec: Spec, pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The pieces as what is stored together: a layer, or all of a small parameter."""
    dtype, shape = spec
    values = 0
    if by_layer(spec):
        for piece in pieces:
            values += piece.size
            yield from np.asarray(piece, dtype, order="C").reshape(-1, *shape[1:])
    else:
        joined = np.concatenate([np.ravel(np.asarray(piece, dtype)) for piece in pieces])
        values = joined.size
        if values == math.prod(shape):
            yield joined.reshape(shape)
    if values != math.prod(shape):
        raise ValueError(f"tensor {name!r}: found {values} values for shape {shape}")


def _fill(folder: Path, chunks: Iterable[tuple[str, int | None, np.ndarray]]) -> None:
    """Writes chunks (name, layer or None, values) together: every commit waits for the disk."""
    context, transaction = tensorstore.Context(), tensorstore.Transaction()
    for name, layer, values in chunks:
        store = _open(folder, name, context).with_transaction(transaction)
        (store if layer is None else store[layer]).write(values).result()
    transaction.commit_sync()


def _open(folder: Path, name: str, context: Any = None) -> Any:
    base = {"driver": "file", "path": f"{folder.absolute() / _STATE}/"}
    store = {"driver": "ocdbt", "base": base, "path": name.replace("/", ".") + "/"}
    # Orbax takes a chunk of zeros that is not stored for one that is lost.
    spec = {"driver": "zarr3", "kvstore": store, "store_data_equal_to_fill_value": True}
    return tensorstore.open(spec, open=True, context=context).result()


@functools.lru_cache(maxsize=1)  # layers of a small parameter are asked for one after another
def _read(tensor: OrbaxTensor, layer: int | None = None) -> np.ndarray:
    what = f"{tensor.folder}: tensor {tensor.name!r}"
    try:
        store = _open(tensor.folder, tensor.name)
        values = (store if layer is None else store[layer]).read().result()
    except (ValueError, OSError, MemoryError) as error:
        raise _unreadable(what, tensor.folder / _STATE, error) from error
    if _crc(values) != tensor.checksums[layer or 0]:
        raise DamagedCheckpoint(f"{what}: the checksum does not match")
    values.setflags(write=False)  # they are kept
    return values


def _crc(values: np.ndarray) -> int:
    return zlib.crc32(np.ravel(values).view(np.uint8).data)


@contextlib.contextmanager
def _translated(out: Path) -> Iterator[None]:
    """Errors of Orbax and tensorstore, mostly of a full disk, as an OSError that names `out`."""
    with quiet():
        try:
            yield
        except Exception as error:
            raise OSError(f"{out}: could not be written: {reason_of(error)}") from error
