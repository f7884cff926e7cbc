"""Trained parameters as folders others can read: model.safetensors and architecture.json.

The architecture, whatever a caller needs to build the same modules again, travels in the header of
the safetensors file, so that one rename replaces both; architecture.json repeats it for people.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from safetensors import SafetensorError, safe_open
from safetensors.flax import save_file

from mirage_jax.io.atomic import read_unchanged, replacing
from mirage_jax.io.exports import (
    ARCHITECTURE,
    FORMAT,
    WEIGHTS,
    architecture_of,
    check_export,
    check_target,
    weights_file,
)
from mirage_jax.io.safetensors_header import sort_metadata
from mirage_jax.io.sealed import FIELD, UNSEALED, seal

T = TypeVar("T")


def export(path: str | Path, params: Mapping[str, Any], architecture: Mapping[str, Any]) -> Path:
    """Writes `<path>/model.safetensors` and `<path>/architecture.json`.

    An export that is already there is replaced in one step or, if writing fails, not at all; one
    that holds the same is left untouched, with its time.

    Args:
      path: folder, made if needed.
      params: nested dict of arrays, boxed or not; names become `outer/inner/kernel`.
      architecture: JSON-serialisable fields that determine the modules.

    Returns:
      The folder.

    Raises:
      ValueError: if a name contains '/', the architecture cannot be written as JSON, or another
        program's file is there.
      OSError: if writing fails, e.g. on a full disk.
    """
    path = Path(path)
    tensors = {name: jax.numpy.asarray(leaf) for name, leaf in flatten(nn.unbox(params)).items()}
    if _holds(path, tensors, architecture_text(architecture)):
        return path

    def write(file: Path, header: dict[str, str]) -> None:
        save_tensors(file, tensors, header, path / WEIGHTS)

    return export_with(path, write, architecture)


def export_with(
    path: str | Path,
    write: Callable[[Path, dict[str, str]], None],
    architecture: Mapping[str, Any],
) -> Path:
    """`export` for weights that are never all in memory.

    Args:
      path: folder, made if needed.
      write: makes a safetensors file at the given path with the given metadata.
      architecture: JSON-serialisable fields that determine the modules.

    Raises:
      ValueError: if the architecture cannot be written as JSON, or another program's file is there.
      OSError: if writing fails, e.g. on a full disk.
    """
    path, text = Path(path), architecture_text(architecture)
    check_target(str(path), path)
    path.mkdir(parents=True, exist_ok=True)
    with replacing(path / WEIGHTS) as weights, replacing(path / ARCHITECTURE) as fields:
        write(weights, {"format": FORMAT, "architecture": text, FIELD: UNSEALED})
        seal(weights)
        fields.write_text(text + "\n", encoding="utf-8")
    return path


def architecture_text(architecture: Mapping[str, Any]) -> str:
    """The architecture as JSON, the same for the same fields; ValueError if it has other values."""
    try:
        return json.dumps(architecture, indent=2, sort_keys=True)
    except TypeError as error:
        raise ValueError(f"architecture: {error}; expected numbers, texts and tuples") from error


def save_tensors(
    partial: Path, tensors: Mapping[str, Any], metadata: Mapping[str, str], path: Path
) -> None:
    """Writes a safetensors file that is to be renamed to `path` once it is complete.

    Raises:
      OSError: naming `path`, if writing fails, e.g. on a full disk.
    """
    try:
        # safetensors lets nobody but the owner read its files; keep the mode of any new file.
        partial.touch()
        mode = partial.stat().st_mode
        # It also writes under a name of its own choice first, which nobody would know for garbage.
        folder = partial.with_name(f"{partial.name}.tmp")
        folder.mkdir(exist_ok=True)
        try:
            save_file(dict(tensors), str(folder / WEIGHTS), metadata=dict(metadata))
            sort_metadata(folder / WEIGHTS)
            os.replace(folder / WEIGHTS, partial)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        partial.chmod(mode)
    except (OSError, SafetensorError) as error:  # the second is what safetensors makes of the first
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"{path}: could not be written: {reason}") from error


def fingerprint(path: str | Path) -> str:
    """A digest of all that an export holds: equal for equal tensors and architecture.

    Not of the file: older ones have their metadata in any order. Errors are those of `load_export`.
    """
    params, architecture = load_export(path)
    return _digest(flatten(params), architecture)


def _digest(tensors: Mapping[str, Any], architecture: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(architecture, sort_keys=True).encode())
    for name, leaf in sorted(tensors.items()):
        digest.update(f"{name} {_describe(leaf)}".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def _holds(path: Path, tensors: Mapping[str, Any], text: str) -> bool:
    try:
        repeated = (path / ARCHITECTURE).read_text(encoding="utf-8") == text + "\n"
        return repeated and fingerprint(path) == _digest(tensors, json.loads(text))
    except (FileNotFoundError, ValueError):
        return False


def load_export(
    path: str | Path,
    expected_params_abstract: Any = None,
    expected_architecture: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads what `export` wrote.

    Args:
      path: the folder, or the safetensors file in it.
      expected_params_abstract: tree with `.shape` and `.dtype` leaves, boxed or not, that the
        parameters must match name by name.
      expected_architecture: fields the export must agree with; further fields are let pass.

    Returns:
      Parameters (nested dict of arrays) and architecture (JSON types: tuples come back as lists).

    Raises:
      FileNotFoundError: if there is no export.
      ValueError: if the file is damaged or not an export, or is of another architecture; names the
        field or tensor, what was found and what was expected.
    """
    file, tensors, architecture = _load_tensors(path, expected_architecture)
    if expected_params_abstract is not None:
        compare_tensors(str(file), tensors, flatten(nn.unbox(expected_params_abstract)))
    return _on_device(file, tensors), architecture


def _load_tensors(
    path: str | Path, expected_architecture: Mapping[str, Any] | None
) -> tuple[Path, dict[str, np.ndarray], dict[str, Any]]:
    """The file, its tensors by name in the host's memory, and the architecture."""
    file = weights_file(path)
    if not file.is_file():
        raise FileNotFoundError(f"{path}: no {WEIGHTS} there; expected a folder written by export")
    header, tensors = read_unchanged(file, lambda: _read(file))
    architecture = architecture_of(file, header)
    if expected_architecture is not None:
        _compare_fields(file, architecture, json.loads(json.dumps(expected_architecture)))
    return file, tensors, architecture


def _on_device(file: Path, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The nested dict, all at once: a program for each shape would be compiled otherwise."""
    try:
        tree = unflatten(tensors)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    moved: dict[str, Any] = jax.device_put(tree)
    return moved


def _read(file: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    try:
        with safe_open(str(file), framework="numpy") as opened:
            header = dict(opened.metadata() or {})
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{file}: damaged or not a safetensors file ({error})") from error
    check_export(file, header)
    return header, tensors


def flatten(params: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dict -> {"outer/inner": leaf}, sorted by name.

    Raises:
      ValueError: if a name contains '/' or a leaf is not an array.
    """
    flat: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        names = [str(getattr(key, "key", key)) for key in path]
        if any("/" in name for name in names):
            raise ValueError(f"parameter {names}: a name contains '/'")
        if not hasattr(leaf, "shape"):
            raise ValueError(f"parameter {'/'.join(names)}: found {type(leaf)}, expected an array")
        flat["/".join(names)] = leaf
    return dict(sorted(flat.items()))


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of `flatten`; ValueError for names that are no tree's: empty, or "a" beside "a/b"."""
    tree: dict[str, Any] = {}
    for name, leaf in flat.items():
        *parents, own = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ValueError(f"tensor {name!r}: found another called {parent!r} above it")
        if not own or "" in parents or own in node:
            raise ValueError(f"tensor {name!r}: expected a name of its own, parts joined by '/'")
        node[own] = leaf
    return tree


def compare_tensors(source: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Compares two flat dicts of arrays by name, shape and dtype.

    Raises:
      ValueError: naming the first tensor that differs, and how many more do.
    """
    problems = []
    for name in sorted(found.keys() | expected.keys()):
        has = _describe(found.get(name))
        wants = _describe(expected.get(name))
        if has != wants:
            problems.append(f"tensor {name!r}: found {has}, expected {wants}")
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ValueError(f"{source}: another architecture; {problems[0]}{more}")


def _describe(leaf: Any) -> str:
    return "no such tensor" if leaf is None else f"{np.dtype(leaf.dtype)} {tuple(leaf.shape)}"


def _compare_fields(file: Path, found: Any, expected: Any, prefix: str = "") -> None:
    for name, value in expected.items():
        own = found.get(name, "nothing")
        if isinstance(value, dict) and isinstance(own, dict):
            _compare_fields(file, own, value, f"{prefix}{name}.")
        elif own != value:
            raise ValueError(
                f"{file}: another architecture; field {prefix}{name}: found {own!r}, "
                f"expected {value!r}"
            )


def load_module(
    path: Path,
    expected: Mapping[str, Any],
    field: str,
    module_class: type[T],
    init: Callable[[T], Any],
    *,
    keep_float: bool = False,
) -> tuple[dict[str, Any], T, dict[str, Any]]:
    """Reads an export and rebuilds the module that its parameters belong to.

    Args:
      path: folder of the export.
      expected: fields that its architecture must agree with.
      field: where in the architecture the module's own fields are.
      module_class: the module to build.
      init: from the module to everything the export should hold; only shapes are computed.
      keep_float: leave floating-point tensors in the type they are stored in, not the module's.

    Returns:
      Parameters, module and architecture.

    Raises:
      FileNotFoundError: if there is no export.
      ValueError: naming the file and the field or tensor that does not fit.
    """
    file, found, architecture = _load_tensors(path, expected)
    module = from_fields(path, architecture, field, module_class)
    try:
        abstract = jax.eval_shape(lambda: init(module))
    except (TypeError, ValueError, KeyError, ArithmeticError) as error:
        raise ValueError(
            f"{path}: field {field}: found what makes no {module_class.__name__} ({error})"
        ) from error
    wanted = flatten(nn.unbox(abstract))
    as_stored = {name: _in_float_of(found.get(name), leaf) for name, leaf in wanted.items()}
    compare_tensors(str(path), found, as_stored)
    if not keep_float:
        found = {name: x.astype(wanted[name].dtype) for name, x in found.items()}
    return _on_device(file, found), module, architecture


def _in_float_of(found: Any, wanted: Any) -> Any:
    floats = found is not None and all(
        jnp.issubdtype(x.dtype, jnp.floating) for x in (found, wanted)
    )
    return jax.ShapeDtypeStruct(wanted.shape, found.dtype) if floats else wanted


def from_fields(path: Path, architecture: Mapping[str, Any], field: str, kind: type[T]) -> T:
    """A module, or any dataclass, from the fields that an architecture stores under `field`.

    Raises:
      ValueError: naming the file and the field that is missing, unknown or of another type.
    """
    stored = stored_field(path, architecture, field, dict)
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init}  # type: ignore[arg-type]
    for name in sorted(stored.keys() - fields.keys()):
        raise ValueError(
            f"{path}: field {field}.{name}: found {stored[name]!r}, but a {kind.__name__} has no "
            "such field; the export may be of another version"
        )
    for name, f in fields.items():
        if name not in stored and f.default is f.default_factory is dataclasses.MISSING:
            raise ValueError(f"{path}: field {field}.{name}: found nothing, expected a value")
    try:
        return kind(**as_fields(stored))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: field {field}: {error}") from error


def stored_field(
    path: Path, architecture: Mapping[str, Any], name: str, kind: type | tuple[type, ...]
) -> Any:
    """A field of an export's architecture.

    Raises:
      ValueError: naming the file and the field, if it is missing or of another type.
    """
    kinds = kind if isinstance(kind, tuple) else (kind,)
    found = architecture.get(name)
    if not isinstance(found, kinds) or isinstance(found, bool):
        expected = " or ".join(k.__name__ for k in kinds)
        raise ValueError(f"{path}: field {name}: found {found!r}, expected {expected}")
    return found


def module_fields(module: Any) -> dict[str, Any]:
    """The plain fields of a Linen module, for an export's architecture; a dtype by its name."""
    skipped = ("parent", "name")
    fields = {
        f.name: getattr(module, f.name) for f in dataclasses.fields(module) if f.name not in skipped
    }
    return {k: jnp.dtype(v).name if k == "dtype" else v for k, v in fields.items()}


def as_fields(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """Module fields as JSON gives them back: lists made tuples again, a dtype's name a type.

    Raises:
      ValueError: if the dtype has no name that is known.
    """
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in architecture.items()}
    if "dtype" in fields:
        try:
            # The scalar type, as modules have it by default: equal modules compare and hash alike.
            fields["dtype"] = jnp.dtype(fields["dtype"]).type
        except TypeError as error:
            raise ValueError(
                f"dtype: found {fields['dtype']!r}, expected a name such as 'bfloat16'"
            ) from error
    return fields
