"""Kinds and looks of bodies: one shape is a kind, its colours are a look.

Every body is three parts on top of each other. Bodies of one kind and different looks are
look-alikes: another colour, or the same colour with another pattern.
"""

import dataclasses

import numpy as np
from jaxtyping import Float


@dataclasses.dataclass(frozen=True)
class Part:
    """A box, an upright cylinder or a sphere.

    Attributes:
      shape: "box", "cylinder" or "sphere".
      half: half its size along x, y, z in metres; a cylinder's and a sphere's are round.
      height: of its centre above the floor.
    """

    shape: str
    half: tuple[float, float, float]
    height: float


@dataclasses.dataclass(frozen=True)
class Kind:
    """A shape of bodies: parts from the lowest to the highest."""

    parts: tuple[Part, Part, Part]

    @property
    def extent(self) -> tuple[float, float, float]:
        """Metres from end to end along x (ahead), y and z."""
        widest = np.max([part.half for part in self.parts], axis=0)
        return float(2 * widest[0]), float(2 * widest[1]), self.height

    @property
    def height(self) -> float:
        return self.parts[-1].height + self.parts[-1].half[2]

    @property
    def radius(self) -> float:
        """Metres around the middle that hold all of it at any heading."""
        box = self.parts[0].shape == "box"
        return float(np.hypot(*self.extent[:2]) / 2) if box else self.extent[0] / 2


def _stack(shape: str, *halves: tuple[float, float, float]) -> Kind:
    tops = 2 * np.cumsum([half[2] for half in halves])
    parts = (
        Part(shape, half, float(top - half[2])) for half, top in zip(halves, tops, strict=True)
    )
    low, middle, high = parts
    return Kind((low, middle, high))


KINDS: dict[str, Kind] = {
    "box": _stack("box", *(3 * [(0.24, 0.34, 0.26)])),
    "cylinder": _stack("cylinder", *(3 * [(0.3, 0.3, 0.26)])),
    "spheres": _stack("sphere", (0.36, 0.36, 0.36), (0.28, 0.28, 0.28), (0.2, 0.2, 0.2)),
}

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.12, 0.1),
    "green": (0.1, 0.65, 0.2),
    "blue": (0.12, 0.25, 0.9),
    "yellow": (0.95, 0.8, 0.1),
}
_PALE, _DARK = (0.95, 0.95, 0.92), (0.06, 0.06, 0.08)
PATTERNS = {
    "plain": (None, None, None),
    "banded": (None, _PALE, None),
    "capped": (None, None, _DARK),
}
"""Colours of the three parts, the body's own where there is None."""

LOOKS = tuple(f"{colour} {pattern}" for colour in COLOURS for pattern in PATTERNS)


def check_look(look: str) -> str:
    """Returns `look`; ValueError unless it is one of `LOOKS`."""
    if look not in LOOKS:
        raise ValueError(f"look: found {look!r}, expected one of {', '.join(LOOKS)}")
    return look


def part_colours(look: str) -> Float[np.ndarray, "3 3"]:
    """Red, green and blue in 0..1 of the three parts."""
    colour, pattern = check_look(look).split(" ")
    return np.array([part or COLOURS[colour] for part in PATTERNS[pattern]])


def look_alikes(look: str) -> tuple[str, ...]:
    """The other looks that share the colour or the pattern."""
    own = set(look.split(" "))
    return tuple(other for other in LOOKS if len(own & set(other.split(" "))) == 1)
