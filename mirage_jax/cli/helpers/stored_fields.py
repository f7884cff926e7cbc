"""Fields of a config that trained weights decide: what the command line may not change any more."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from mirage_jax.cli.helpers.common import UserError
from mirage_jax.io.exports import stored_architecture
from mirage_jax.io.workdir import Workdir


def stored_fields(workdir: Workdir, memory: str) -> dict[str, Any]:
    """What the weights of a work directory were made with, by the names of a config's fields.

    Empty where there are none, or none that were trained here.
    """
    denoiser = stored_architecture(workdir.model(f"denoiser_{memory}"))
    parts = {
        "denoiser": denoiser.get("denoiser", {}),
        "vae": stored_architecture(workdir.model("encoder")).get("vae", {}),
        "geometry": stored_architecture(workdir.model("geometry")).get("head", {}),
    }
    if isinstance(denoiser.get("conditioner"), Mapping):
        fields = {n: v for n, v in denoiser["conditioner"].items() if n != "kind"}
        parts["memory"] = fields | {"conditioner": denoiser["conditioner"].get("kind")}
    found = {f"{part}.{name}": v for part, fields in parts.items() for name, v in fields.items()}
    if "chunk_frames" in denoiser:
        found["chunk_frames"] = denoiser["chunk_frames"]
    size = denoiser.get("size")
    if isinstance(size, list) and len(size) == 2:
        found |= {"record.size": size[0], "record.width": size[1]}
    return found


def check_overrides(
    workdir: Workdir, memory: str, named: Mapping[str, Any], used: Collection[str]
) -> list[str]:
    """Checks the fields that a command line names against the weights that are to be run.

    Args:
      workdir: of the weights.
      memory: which denoiser.
      named: values by the dotted name of the field.
      used: fields, or sections with a dot behind, that the command goes by.

    Returns:
      Names of fields that nothing goes by.

    Raises:
      UserError: naming the field, if the weights were made with another value.
    """
    stored, unused = stored_fields(workdir, memory), []
    for name, value in sorted(named.items()):
        if name == "record.width" and value == 0:  # as the height
            value = stored.get("record.size", 0)
        if name in stored:
            if json.loads(json.dumps(value)) != stored[name]:
                raise UserError(
                    f"--config.{name}: found {value!r}, expected {stored[name]!r}, which the "
                    f"weights in {workdir.root} were made with"
                )
        elif not any(name == u or (u.endswith(".") and name.startswith(u)) for u in used):
            unused.append(name)
    return unused
