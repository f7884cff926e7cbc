"""Picture shapes of a work directory: one, or of footage several, each recorded as a set apart.

A set is recorded, encoded and evaluated as a world of its own, by the name that `worlds` gives it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ml_collections import ConfigDict

FOOTAGE = "footage"
"""Name of the source, and of its folder of clips, that takes the place of the worlds."""

_SHAPE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")


def footage_worlds(config: ConfigDict) -> tuple[str, ...]:
    """Names of the sets of a config's footage: of `record.size`, then of each of `data.shapes`.

    Raises:
      ValueError: if a shape is none, or is there twice.
    """
    found = [picture_size(config)]
    for word in filter(None, map(str.strip, config.data.get("shapes", "").split(","))):
        match = _SHAPE.fullmatch(word)
        if match is None or (int(match[1]), int(match[2])) in found:
            raise ValueError(
                f"config.data.shapes: found {word!r}, expected HEIGHTxWIDTH, such as 96x160, each "
                f"once and another than {found[0][0]}x{found[0][1]} of config.record"
            )
        found.append((int(match[1]), int(match[2])))
    return (FOOTAGE, *(f"{FOOTAGE}-{height}x{width}" for height, width in found[1:]))


def is_footage(world: str) -> bool:
    """Whether a name is that of a set of footage."""
    return world == FOOTAGE or _own_shape(world) is not None


def picture_size(config: ConfigDict, world: str = "") -> tuple[int, int]:
    """(height, width) of a world's pictures; `record.width` 0 is for square ones.

    Args:
      config: the experiment.
      world: one of its worlds; "" for the size that most have, and that is generated.
    """
    match = _own_shape(world)
    if match is not None:
        return int(match[1]), int(match[2])
    return config.record.size, config.record.width or config.record.size


def picture_sizes(config: ConfigDict, worlds: Sequence[str] = ()) -> tuple[tuple[int, int], ...]:
    """The different sizes of some worlds' pictures, by default of all of the config's."""
    return tuple(dict.fromkeys(picture_size(config, world) for world in worlds or config.worlds))


def of_each_size(config: ConfigDict) -> dict[tuple[int, int], ConfigDict]:
    """The config as if all pictures were of one size, for each that its worlds have."""
    made = {}
    for size in picture_sizes(config):
        own = made[size] = config.copy_and_resolve_references()
        with own.unlocked():
            own.record.size, own.record.width = size
    return made


def _own_shape(world: str) -> re.Match[str] | None:
    return _SHAPE.fullmatch(world.removeprefix(f"{FOOTAGE}-"))
