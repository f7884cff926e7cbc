"""Worlds as files, from which a rollout can be continued later: "mirage-world-2".

docs/formats/world-2.md says what lies where, :mod:`.schema` as a table; :mod:`.container` is the
safetensors file.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mirage_jax.io.atomic import read_unchanged, replacing
from mirage_jax.io.outputs import FileKind, safetensors_metadata
from mirage_jax.io.strict_json import parse_object
from mirage_jax.origin import Origin
from mirage_jax.world import on_mesh
from mirage_jax.world.model import WorldModel
from mirage_jax.world.state import World, check_world
from mirage_jax.world.world_file import container as world_container
from mirage_jax.world.world_file.packing import (
    HEADER,
    WORLD_FORMAT,
    pack,
    parts_of,
    unpack,
    unpack_state,
)
from mirage_jax.world.world_file.records import Branch, CameraPath, Extras, WorldFile

__all__ = [
    "OLDER_FORMAT",
    "WORLD",
    "WORLD_FORMAT",
    "Branch",
    "CameraPath",
    "Extras",
    "Origin",
    "WorldFile",
    "load_world",
    "read_world_file",
    "save_world",
    "write_world_file",
]

OLDER_FORMAT = "mirage-world-1"


def _is_world(path: Path) -> bool:
    metadata = safetensors_metadata(path)
    return world_container.METADATA in metadata or metadata.get("format") == OLDER_FORMAT


WORLD = FileKind("saved world", _is_world)
_OLDER_NAMES = {
    "static": "bank",
    "rollout/latent": "latent",
    "rollout/cam2world": "cam2world",
    "rollout/intrinsics": "intrinsics",
    "rollout/frames": "frames",
    "context_frames": "past",
}
"""The same in "mirage-world-1", by what they are called now."""


def save_world(
    path: str | Path,
    world: World,
    *,
    origin: Origin | None = None,
    camera_path: CameraPath | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """`write_world_file` for a world, and what little else most callers have.

    Args:
      path, world, camera_path, provenance: as of `WorldFile`.
      origin: in place of the world's.
    """
    if origin is not None:
        world = world.replace(origin=origin)  # type: ignore[attr-defined]
    file = WorldFile(world, camera_path, provenance=provenance or {})
    write_world_file(path, file)


def load_world(path: str | Path, model: WorldModel | None = None) -> World:
    """The world in a file, bit for bit as it was saved; see `read_world_file`."""
    return read_world_file(path, model).world


def write_world_file(path: str | Path, file: WorldFile) -> None:
    """Writes one safetensors file, from which the rollout can be continued later.

    Raises:
      ValueError: naming the file and what in it could not be read again.
      OSError: naming the file, if writing fails, e.g. on a full disk; an older one is kept.
    """
    path = Path(path).expanduser()
    tensors, header = pack(str(path), file)
    stray = unpack(str(path), header, tensors).extras.tensors.keys() - file.extras.tensors.keys()
    if stray:
        name = min(stray)
        raise ValueError(
            f"{path}: part {parts_of([name])[0]}, tensor {name!r}: found one, expected none of "
            "that name"
        )
    try:
        text = json.dumps(header, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: provenance: {error}; expected JSON values") from error
    with replacing(path) as partial:
        world_container.write(partial, tensors, text, path)


def read_world_file(path: str | Path, model: WorldModel | None = None) -> WorldFile:
    """Reads what `write_world_file`, or an older version, wrote.

    Args:
      path: the file.
      model: what is to continue the world, to check it and its branches against.

    Raises:
      ValueError: naming the file, and part and tensor where it is one: on another kind of file, a
        newer version, anything that was damaged, missing, of another shape or not finite, or a
        world that is not the model's.
    """
    path = Path(path).expanduser()
    file = read_unchanged(path, lambda: _read(path))
    if model is not None:
        _check_conditioner(file, model, path)
        check_world(file.world, model, str(path))
        for branch in file.branches:
            if branch.world is not None:
                check_world(branch.world, model, f"{path}: branch {branch.name!r}")

    def placed(world: Any) -> Any:
        # A memory that is larger than a device goes to those of the mesh without passing one.
        on_devices = None if world is None else on_mesh.place_world(world)
        return jax.tree.map(jnp.asarray, on_devices)

    branches = tuple(
        dataclasses.replace(branch, world=placed(branch.world)) for branch in file.branches
    )
    return dataclasses.replace(file, world=placed(file.world), branches=branches)


def _check_conditioner(file: WorldFile, model: WorldModel, path: Path) -> None:
    """Raises ValueError if the file says that its memory was written for another conditioner."""
    generated = file.provenance.get("generated")
    found = generated.get("conditioner") if isinstance(generated, Mapping) else None
    if found is not None and found != model.conditioner.kind:
        raise ValueError(
            f"{path}: found a world of a model with the conditioner {found!r}, expected "
            f"{model.conditioner.kind!r}"
        )


def _read(path: Path) -> WorldFile:
    container = world_container.Container(path)
    if container.metadata.get("format") == OLDER_FORMAT:
        return _of_older(container)
    if world_container.METADATA in container.metadata:
        header = _checked_header(container)
        return unpack(str(path), header, _checked_tensors(container, header))
    raise ValueError(
        f"{path}: format {container.metadata.get('format')!r}, expected {WORLD_FORMAT!r} or "
        f"{OLDER_FORMAT!r}"
    )


# -- header and checksums ------------------------------------------------------------------------


def _checked_header(container: world_container.Container) -> dict[str, Any]:
    path = container.path
    try:
        header = parse_object(container.metadata[world_container.METADATA])
    except ValueError as error:
        raise ValueError(f"{path}: header is damaged: {error}") from error
    if header.get("format") != WORLD_FORMAT:  # before all else: what comes later may be different
        raise ValueError(
            f"{path}: format {header.get('format')!r} (written by {header.get('writer')!r}), "
            f"expected {WORLD_FORMAT!r}; to read a newer one, upgrade mirage_jax"
        )
    container.check_header()
    for name, kind in zip(HEADER, (str, int, str, dict, dict, dict), strict=True):
        if type(header.get(name)) is not kind:
            raise ValueError(
                f"{path}: header field {name!r}: found {header.get(name)!r}, expected "
                f"{kind.__name__}"
            )
    return header


def _checked_tensors(
    container: world_container.Container, header: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    checksums, tensors = header["checksums"], {}
    for name in [*container.names, *(n for n in checksums if n not in container.names)]:
        where = f"{container.path}: part {name.partition('/')[0]}, tensor {name!r}"
        if name not in checksums:
            raise ValueError(f"{where}: found no checksum, expected one in the header")
        if name not in container.names:
            raise ValueError(f"{where}: found none, expected one of checksum {checksums[name]}")
        tensors[name] = container.read(name)
        found = world_container.checksum(tensors[name])
        if found != checksums[name]:
            raise ValueError(
                f"{where}: is damaged: found checksum {found}, expected {checksums[name]}"
            )
    return tensors


def _of_older(container: world_container.Container) -> WorldFile:
    names = {}
    for name in container.names:
        for now, before in _OLDER_NAMES.items():
            if name == before or name.startswith(f"{before}/"):
                names[name] = now + name[len(before) :]
        if name not in names:
            raise ValueError(
                f"{container.path}: tensor {name!r}: found one, expected none of that name in "
                f"{OLDER_FORMAT!r}"
            )
    tensors = {now: container.read(name) for name, now in names.items()}
    stored = {now: name for name, now in names.items()}

    def older(now: str) -> str:
        part = now if now in _OLDER_NAMES else now.partition("/")[0]
        return stored.get(now, _OLDER_NAMES[part] + now[len(part) :])

    versions = dict.fromkeys(parts_of(tensors), 1)
    world, *_ = unpack_state(str(container.path), versions, tensors, older)
    return WorldFile(world)
