"""Files that hold several networks, each under a prefix, as ComfyUI saves checkpoints."""

from __future__ import annotations

import dataclasses
import re

from mirage_jax.convert.tensor_files import TensorFiles

_PREFIXES = {
    "transformer": r"model\.diffusion_model\.",
    "vae": r"(?:vae|first_stage_model)\.",
    "text_encoder": r"(?:text_encoders|cond_stage_model)\.(?:[^.]+\.(?:transformer\.)?)?",
    "clip_vision": r"clip_vision(?:_model)?\.",
}
PARTS = ("transformer", "vae", "text_encoder")
"""What can be taken out."""


def select(
    files: TensorFiles, part: str = "", *, if_several: str = "transformer"
) -> tuple[TensorFiles, dict[str, int]]:
    """One network of a file that holds several; another file as it is.

    Args:
      files: the file.
      part: one of `PARTS`; "" where the file may hold one network alone.
      if_several: what `part` is where it is "" and there are several.

    Returns:
      The network's tensors without their prefix, and how many tensors of which others were left.

    Raises:
      ValueError: if the file holds several networks, but not this one.
    """
    found: dict[str, dict[str, str]] = {}
    for name in (*files.tensors, *files.unused):
        own, inner = _part_of(name)
        found.setdefault(own, {})[name] = inner
    networks = [own for own in found if own and any(name in files.tensors for name in found[own])]
    if len(networks) < 2:
        return files, {}
    wanted = part or if_several
    if wanted not in networks:
        raise ValueError(
            f"{files.path}: found no {wanted}, expected --part to be one of "
            f"{', '.join(name for name in PARTS if name in networks)}"
        )
    names = found.pop(wanted)
    chosen = dataclasses.replace(
        files,
        tensors={inner: files.tensors[n] for n, inner in names.items() if n in files.tensors},
        unused={n: files.unused[n] for n in names if n in files.unused},
    )
    return chosen, {own or "other": len(names) for own, names in found.items()}


def _part_of(name: str) -> tuple[str, str]:
    for part, pattern in _PREFIXES.items():
        if match := re.match(pattern, name):
            return part, name[match.end() :]
    return "", name
