"""World files to named tensors and a header, and back."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mirage_jax import memory
from mirage_jax.geometry import check_cam2world, check_intrinsics
from mirage_jax.origin import Origin
from mirage_jax.world import context_frames
from mirage_jax.world.state import World
from mirage_jax.world.world_file import container as world_container
from mirage_jax.world.world_file.entities import from_parts, to_parts
from mirage_jax.world.world_file.records import MINOR, Branch, CameraPath, Extras, WorldFile
from mirage_jax.world.world_file.schema import BRANCHED, PARTS, check_part

WORLD_FORMAT = "mirage-world-2"

_STORED_UNDER = {
    "bank": "static",
    "latent": "rollout/latent",
    "cam2world": "rollout/cam2world",
    "intrinsics": "rollout/intrinsics",
    "frames": "rollout/frames",
    "context_frames": "context_frames",
}
"""Fields of `World`, and what their leaves are called in the file."""
_FIELD_OF = {stored: field for field, stored in _STORED_UNDER.items()}
HEADER = ("format", "minor", "writer", "parts", "checksums", "provenance")
_BRANCH_FIELDS = ("name", "frame", "parent", "created_from")


# -- to tensors ----------------------------------------------------------------------------------


def pack(source: str, file: WorldFile) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors by name, and the header as JSON values; what `unpack` takes.

    Raises:
      ValueError: beginning with `source`, if two things would have one name, or a branch without a
        world has what only a world can have.
    """
    tensors = {f"origin/{name}": leaf for name, leaf in _origin_tensors(file.origin).items()}
    tensors |= _state_tensors(source, file.world, file.camera_path, file.entities)
    entries = []
    for branch in file.branches:
        prefix = None if branch.world is None else f"branches/{branch.name}/"
        if branch.world is None:
            if branch.camera_path is not None or branch.entities is not None:
                raise ValueError(
                    f"{source}: part branches, branch {branch.name!r}: found a camera path or "
                    "entities without a world, expected a world too"
                )
        else:
            if branch.world.origin != file.origin:
                raise ValueError(
                    f"{source}: part branches, branch {branch.name!r}: found {branch.world.origin},"
                    f" expected {file.origin} as the file's world has"
                )
            own = _state_tensors(source, branch.world, branch.camera_path, branch.entities)
            tensors |= {f"{prefix}{name}": leaf for name, leaf in own.items()}
        entries.append({n: getattr(branch, n) for n in _BRANCH_FIELDS} | {"prefix": prefix})
    parts: dict[str, Any] = {
        name: {"version": PARTS[name].version, "required": PARTS[name].required}
        for name in parts_of(tensors)
    }
    if entries:
        version, required = PARTS["branches"].version, PARTS["branches"].required
        parts["branches"] = {"version": version, "required": required, "entries": entries}
    extras = file.extras
    twice = (extras.tensors.keys() & tensors.keys()) | (extras.parts.keys() & parts.keys())
    if twice:
        raise ValueError(f"{source}: extras: found {min(twice)!r} twice, expected it once")
    parts |= extras.parts
    # What was added to a part goes with the part.
    tensors |= {n: leaf for n, leaf in extras.tensors.items() if n.partition("/")[0] in parts}
    header: dict[str, Any] = {
        "format": WORLD_FORMAT,
        "minor": max(MINOR, extras.minor),
        "writer": _writer(),
        "parts": parts,
        "checksums": {name: world_container.checksum(leaf) for name, leaf in tensors.items()},
        "provenance": dict(file.provenance),
    }
    return tensors, dict(extras.header) | header


def _writer() -> str:
    try:
        return f"mirage_jax {importlib.metadata.version('mirage_jax')}"
    except importlib.metadata.PackageNotFoundError:  # a checkout that was not installed
        return "mirage_jax"


def _origin_tensors(origin: Origin) -> dict[str, np.ndarray]:
    values = {name: value for name, value in vars(origin).items() if value is not None}
    return {name: np.asarray(value, np.float64) for name, value in values.items()}


def _state_tensors(
    source: str,
    world: World,
    path: CameraPath | None,
    entities: Mapping[str, np.ndarray] | None,
) -> dict[str, np.ndarray]:
    tensors = {name: np.asarray(leaf, order="C") for name, leaf in by_name(world).items()}
    if world.movers is not None:
        seconds = world.origin.frame_seconds
        if seconds is None:
            raise ValueError(
                f"{source}: part origin: found no frame_seconds, expected some as there are bodies "
                "that move in metres per second"
            )
        entities, own = to_parts(world.movers, seconds, entities)
        tensors |= {f"movers/{name}": leaf for name, leaf in own.items()}
    if path is not None:
        size = np.asarray(path.size, np.int32)
        tensors |= {f"camera_path/{n}": v for n, v in (vars(path) | {"size": size}).items()}
    if entities is not None:
        tensors |= {f"entities/{name}": leaf for name, leaf in entities.items()}
    return {name: np.asarray(leaf, order="C") for name, leaf in tensors.items()}


def by_name(world: World) -> dict[str, Any]:
    """Leaves by their names in the file, in the order of the tree; moving bodies left out."""
    still = world.replace(movers=None)  # type: ignore[attr-defined]
    leaves = jax.tree_util.tree_flatten_with_path(still)[0]
    named = {}
    for (field, *rest), leaf in leaves:
        below = [str(getattr(key, "name", key)) for key in rest]
        named["/".join([_STORED_UNDER[field.name], *below])] = leaf
    return named


# -- from tensors --------------------------------------------------------------------------------


def parts_of(names: Iterable[str]) -> list[str]:
    """The parts that tensors of these names belong to, each once."""
    return list(dict.fromkeys(name.partition("/")[0] for name in names))


def unpack(source: str, header: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> WorldFile:
    """Checks a header and its tensors against each other and the schema; leaves are numpy's.

    Raises:
      ValueError: beginning with `source` and naming part and tensor, where they do not fit.
    """
    parts = header["parts"]
    unknown = _check_parts(source, header, tensors)
    known = {name: leaf for name, leaf in tensors.items() if name.partition("/")[0] not in unknown}
    origin = check_part("origin", known, {}, source)
    versions = {name: parts[name]["version"] for name in parts_of(known)}
    world, path, entities, used = unpack_state(source, versions, known)
    used |= {f"origin/{name}" for name in origin}
    branches: list[Branch] = []
    if "branches" in parts and "branches" not in unknown:
        for entry in parts["branches"]["entries"]:
            branch, own = _branch(source, entry, known, branches, parts)
            branches.append(branch)
            used |= own
    with_entities = [branch.entities for branch in branches] + [entities]
    if "frame_seconds" not in origin and any(found is not None for found in with_entities):
        raise ValueError(
            f"{source}: part origin, tensor 'origin/frame_seconds': found none, expected one as "
            "there are entities, which move in metres per second"
        )
    extras = Extras(
        tensors={name: leaf for name, leaf in tensors.items() if name not in used},
        parts={name: parts[name] for name in unknown},
        header={name: value for name, value in header.items() if name not in HEADER},
        minor=header["minor"],
    )
    relative_to = {name: leaf.tolist() for name, leaf in origin.items()}
    placed = Origin(**relative_to | {"space": tuple(relative_to["space"])})
    return WorldFile(
        world=_placed(world, placed),
        camera_path=path,
        entities=entities,
        branches=tuple(
            dataclasses.replace(branch, world=_placed(branch.world, placed)) for branch in branches
        ),
        provenance=header["provenance"],
        extras=extras,
    )


def _placed(world: World | None, origin: Origin) -> Any:
    return None if world is None else world.replace(origin=origin)  # type: ignore[attr-defined]


def unpack_state(
    source: str,
    versions: Mapping[str, int],
    tensors: Mapping[str, np.ndarray],
    stored: Callable[[str], str] = str,
) -> tuple[World, CameraPath | None, dict[str, np.ndarray] | None, set[str]]:
    """The world, camera path and entities of a file or of one of its branches.

    Args:
      source: what errors begin with.
      versions: of the parts there are, by name.
      tensors: by full name, without the prefix of a branch.
      stored: the name a tensor has in the file, for errors.

    Returns:
      The three, with leaves of numpy, and the names of the tensors they are made of.

    Raises:
      ValueError: naming part and tensor, if they are not what the schema says, or no camera.
    """
    sizes: dict[str, int] = {}
    found = {
        part: check_part(part, tensors, sizes, source, stored, versions.get(part, 1))
        for part in BRANCHED
        if part in versions or PARTS[part].everywhere
    }
    leaves = {f"{part}/{rest}": leaf for part, own in found.items() for rest, leaf in own.items()}
    used = set(leaves)
    leaves |= {f"static/{n}": v for n, v in _newer_fields(found["static"]).items()}
    names, structure = _structure("context_frames" in found)
    world: World = jax.tree.unflatten(structure, [leaves[name] for name in names])

    def where(name: str) -> str:
        return f"{source}: part {name.partition('/')[0]}, tensor {stored(name)!r}"

    check_cam2world(world.cam2world, where("rollout/cam2world"))
    for name, least, most in (
        ("rollout/frames", 1, None),
        ("static/count", 0, sizes["N"]),
        ("context_frames/keyframes/count", 0, sizes.get("Q")),
    ):
        number = leaves.get(name, np.int32(least))
        if number < least or (most is not None and number > most):
            bound = "" if most is None else f" and at most {most}"
            raise ValueError(f"{where(name)}: found {number}, expected at least {least}{bound}")
    path = None
    if "camera_path" in found:
        cameras = dict(found["camera_path"])
        height, width = cameras.pop("size").tolist()
        path = CameraPath(**cameras, size=(height, width))
        if min(path.size) < 1:
            raise ValueError(f"{where('camera_path/size')}: found {path.size}, expected pixels")
        check_cam2world(path.cam2world, where("camera_path/cam2world"))
        check_intrinsics(path.intrinsics, path.size, where("camera_path/intrinsics"))
        if (np.diff(path.times) <= 0).any():
            raise ValueError(
                f"{where('camera_path/times')}: found one that is not after the one before, "
                "expected increasing times"
            )
    entities = found.get("entities")
    if "movers" in found:
        if entities is None:
            raise ValueError(
                f"{source}: part movers: found no part entities beside it, expected both"
            )
        bodies = from_parts(entities, found["movers"])
        world = world.replace(movers=bodies)  # type: ignore[attr-defined]
    return world, path, entities, used


def _newer_fields(static: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a memory of earlier versions of the part lacks: elements of unknown size, seen once."""
    elements = len(static["valid"])
    tangents = 0 if static["tokens"].dtype == np.uint8 else 2  # colours have none
    blank = {
        "size": np.zeros(elements, np.float32),
        "tangents": np.zeros((elements, tangents, 3), np.float32),
        "seen": static["valid"].astype(np.int32),
        "missed": np.zeros(elements, np.int32),
        "pinned": np.zeros(elements, bool),
        "evicted": np.zeros((), np.int32),
    }
    return {name: leaf for name, leaf in blank.items() if name not in static}


@functools.cache
def _structure(with_context_frames: bool) -> tuple[list[str], Any]:
    """Names of a world's leaves in the file, in the order of the tree, and the tree's structure."""

    def blank() -> World:
        fields: dict[str, Any] = dict.fromkeys(_STORED_UNDER, jnp.zeros(()))
        kept = context_frames.create(1, (1, 1), 1, 1) if with_context_frames else None
        return World(
            **fields | {_FIELD_OF["static"]: memory.create(1, 1), _FIELD_OF["context_frames"]: kept}
        )

    template = jax.eval_shape(blank)
    return list(by_name(template)), jax.tree.structure(template)


def _branch(
    source: str,
    entry: Any,
    tensors: Mapping[str, np.ndarray],
    before: Sequence[Branch],
    parts: Mapping[str, Any],
) -> tuple[Branch, set[str]]:
    """A branch, and the names of its tensors in the file."""
    where = f"{source}: part branches"
    if not isinstance(entry, dict) or entry.keys() != {*_BRANCH_FIELDS, "prefix"}:
        raise ValueError(
            f"{where}: found {entry!r}, expected fields {', '.join(_BRANCH_FIELDS)}, prefix"
        )
    name, names = entry["name"], [branch.name for branch in before]
    if type(name) is not str or not name.isprintable() or name in ("", *names) or "/" in name:
        raise ValueError(
            f"{where}: found name {name!r} after {names}, expected another, printable one without "
            "'/'"
        )
    prefix = f"branches/{name}/"
    for field, good, expected in (
        ("frame", type(entry["frame"]) is int and entry["frame"] >= 0, "a number from 0"),
        ("parent", entry["parent"] in (None, *names), f"null or one of {names}"),
        ("created_from", type(entry["created_from"]) is str, "a text"),
        ("prefix", entry["prefix"] in (None, prefix), f"null or {prefix!r}"),
    ):
        if not good:
            raise ValueError(
                f"{where}, branch {name!r}: {field}: found {entry[field]!r}, expected {expected}"
            )
    branch = Branch(**{field: entry[field] for field in _BRANCH_FIELDS})
    if entry["prefix"] is None:
        return branch, set()
    own = {full[len(prefix) :]: leaf for full, leaf in tensors.items() if full.startswith(prefix)}
    versions = {part: parts[part]["version"] for part in parts_of(own) if part in parts}
    world, path, entities, used = unpack_state(
        f"{where}, branch {name!r}", versions, own, lambda name: prefix + name
    )
    branch = dataclasses.replace(branch, world=world, camera_path=path, entities=entities)
    return branch, {prefix + name for name in used}


def _check_parts(
    source: str, header: Mapping[str, Any], tensors: Mapping[str, np.ndarray]
) -> list[str]:
    """Names of parts that this version does not know, and may pass on."""
    unknown = []
    for name, entry in header["parts"].items():
        _check_entry(f"{source}: part {name}", name, entry)
        if name in PARTS and entry["version"] <= PARTS[name].version:
            continue
        if entry["required"] or (name in PARTS and PARTS[name].everywhere):
            newest = f"at most {PARTS[name].version}" if name in PARTS else "no such part"
            raise ValueError(
                f"{source}: part {name}: found version {entry['version']}, which is required, "
                f"expected {newest}; it was written by {header['writer']!r}: to read it, upgrade "
                "mirage_jax"
            )
        unknown.append(name)
    if "entities" in unknown and "movers" in header["parts"] and "movers" not in unknown:
        unknown.append("movers")  # which says of the same bodies what entities do not
    for name, known in PARTS.items():
        if known.everywhere and name not in header["parts"]:
            raise ValueError(f"{source}: part {name}: found none, expected one in every file")
    for name in tensors:
        part = name.partition("/")[0]
        if part not in header["parts"]:
            raise ValueError(
                f"{source}: part {part}, tensor {name!r}: found no such part in the header, "
                "expected one"
            )
    return unknown


def _check_entry(where: str, name: str, entry: Any) -> None:
    if (
        not isinstance(entry, dict)
        or type(entry.get("version")) is not int
        or entry["version"] < 1
        or type(entry.get("required")) is not bool
    ):
        raise ValueError(
            f"{where}: found {entry!r}, expected a version of at least 1, and required: true or "
            "false"
        )
    if name in PARTS and entry["version"] <= PARTS[name].version:
        expected = {"version", "required"} | ({"entries"} if name == "branches" else set())
        if entry.keys() != expected or not isinstance(entry.get("entries", []), list):
            raise ValueError(
                f"{where}: found {entry!r}, expected fields {', '.join(sorted(expected))}"
            )
