"""What page and server say to each other: docs/explore.md has the table.

The page sends JSON texts, each of a kind of `MESSAGES` with fields of stated ranges, and pictures
as binary. The server sends JSON texts and, for pictures, binary: four bytes of length (little
endian), so many bytes of JSON, and the encoded pictures one after the other.
"""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from mirage_jax.io.strict_json import parse_object
from mirage_jax.settings import Settings, from_mapping, setting

MAX_TEXT = 4096
"""Bytes of a text from the page."""

MAX_PICTURE = 8 * 2**20
"""Bytes of a picture from the page, and of any message."""

FAR = 1e5
"""Metres, to either side: places on the plan lie within."""

MAX_PROMPT = 500
"""Characters of a prompt."""

MAX_GUIDANCE = 20.0
"""Of a prompt; the strongest that the page can ask for."""

LAYERS = ("colour", "age", "confidence")
"""What the plan can be coloured by."""

MOVES = ("forward", "right", "up", "yaw", "pitch")


@dataclasses.dataclass(frozen=True)
class Controls(Settings):
    """What is held now, each from -1 to 1; the newest of them counts, the others are forgotten."""

    seq: int = setting(0, "Number, rising; frames carry the last one applied.", least=0, most=2**53)
    forward: float | int = setting(0.0, "Forwards or backwards.", least=-1, most=1)
    right: float | int = setting(0.0, "To the right or left.", least=-1, most=1)
    up: float | int = setting(0.0, "Up or down.", least=-1, most=1)
    yaw: float | int = setting(0.0, "Turn to the right or left.", least=-1, most=1)
    pitch: float | int = setting(0.0, "Look up or down.", least=-1, most=1)

    @property
    def moves(self) -> bool:
        """Whether anything is held."""
        return any(getattr(self, name) for name in MOVES)


@dataclasses.dataclass(frozen=True)
class Ready(Settings):
    """The page has shown, or soon will have, all that was sent: the next chunk may be made."""

    frame: int = setting(0, "The last frame received.", least=0, most=2**53)
    draw: float | int = setting(0.0, "Milliseconds to decode and draw it.", least=0, most=1e6)
    send: float | int = setting(0.0, "Milliseconds on the way, 0 = unknown.", least=0, most=1e6)


@dataclasses.dataclass(frozen=True)
class Undo(Settings):
    """Goes chunks back."""

    steps: int = setting(1, "Chunks.", least=1, most=1000)


@dataclasses.dataclass(frozen=True)
class Redo(Settings):
    """Takes back so many of the last `undo`."""

    steps: int = setting(1, "Chunks.", least=1, most=1000)


@dataclasses.dataclass(frozen=True)
class Mark(Settings):
    """Keeps the present state as a branch, to which one can go again."""


@dataclasses.dataclass(frozen=True)
class Go(Settings):
    """Goes to a branch."""

    branch: int = setting(0, "Its number.", least=0, most=10_000)


@dataclasses.dataclass(frozen=True)
class Memory(Settings):
    """Switches what the memory holds on, or empties it for what is generated; or walks on with
    another kind of memory."""

    on: bool = setting(True, "Whether it is read.")
    kind: str = setting("", "Its kind, of those that the server lists; empty: the present one.")


@dataclasses.dataclass(frozen=True)
class Keyframe(Settings):
    """Makes the memory keep what it shows at the present pose."""


@dataclasses.dataclass(frozen=True)
class Edit(Settings):
    """Changes what the memory holds in a column over a square of the plan."""

    operation: str = setting("delete", "What to do.", choices=("delete", "move", "swap"))
    x: float | int = setting(
        0.0, "Middle, metres along the plan's horizontal axis.", least=-FAR, most=FAR
    )
    z: float | int = setting(0.0, "Middle, metres along its vertical one.", least=-FAR, most=FAR)
    radius: float | int = setting(0.5, "Half a side of the square, metres.", least=0.01, most=1000)
    to_x: float | int = setting(0.0, "Of move and swap: the other middle.", least=-FAR, most=FAR)
    to_z: float | int = setting(0.0, "Of move and swap: the other middle.", least=-FAR, most=FAR)


@dataclasses.dataclass(frozen=True)
class Plan(Settings):
    """Asks for another colouring of the plan."""

    layer: str = setting("colour", "What it shows.", choices=LAYERS)


@dataclasses.dataclass(frozen=True)
class Save(Settings):
    """Writes the world into the server's folder."""


@dataclasses.dataclass(frozen=True)
class Load(Settings):
    """Goes on from a saved world."""

    world: str = setting("", "Its id, as the server lists it.")


@dataclasses.dataclass(frozen=True)
class Start(Settings):
    """Begins anew from a picture of the server."""

    picture: int = setting(0, "Its number.", least=0, most=10_000)


@dataclasses.dataclass(frozen=True)
class Join(Settings):
    """Comes to where another walker is."""

    walker: int = setting(0, "The other's number.", least=0, most=2**53)
    share: bool = setting(True, "Whether to walk in the same memory, or in a copy from here on.")


@dataclasses.dataclass(frozen=True)
class Leave(Settings):
    """Goes on in a copy of the memory that is shared with others."""


@dataclasses.dataclass(frozen=True)
class Prompt(Settings):
    """Says by a text what is to be shown from here on, where the model takes one."""

    text: str = setting("", f"The prompt, at most {MAX_PROMPT} characters.")
    guidance: float | int = setting(1.0, "Guidance by it; 1 = none.", least=0, most=MAX_GUIDANCE)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.text) > MAX_PROMPT:
            found = f"found {len(self.text)} characters, expected at most {MAX_PROMPT}"
            raise ValueError(f"text: {found}")


@dataclasses.dataclass(frozen=True)
class Export(Settings):
    """Asks for the walked path or the memory as a file."""

    kind: str = setting("mp4", "Of file.", choices=("mp4", "transforms", "ply", "ledger"))


MESSAGES: dict[str, type[Settings]] = {
    kind.__name__.lower(): kind
    for kind in (Controls, Ready, Undo, Redo, Mark, Go, Memory, Keyframe, Edit, Plan, Save, Load,
                 Start, Join, Leave, Prompt, Export)
}  # fmt: skip
"""Kinds of messages from the page, by what they call themselves in `type`."""


def parse(text: str) -> Any:
    """A message of the page, every field checked.

    Raises:
      ValueError: saying which field was found wrong, and what was expected.
    """
    if len(text) > MAX_TEXT:
        raise ValueError(f"message: found {len(text)} characters, expected at most {MAX_TEXT}")
    fields = parse_object(text)
    name = fields.pop("type", None)
    if not isinstance(name, str) or name not in MESSAGES:
        raise ValueError(f"type: found {str(name)[:40]!r}, expected one of {', '.join(MESSAGES)}")
    return from_mapping(MESSAGES[name], fields, name)


def text_message(kind: str, fields: Mapping[str, Any]) -> str:
    """A message to the page without pictures."""
    return json.dumps({"type": kind, **fields}, allow_nan=False)


def binary_message(kind: str, fields: Mapping[str, Any], pictures: Sequence[bytes]) -> bytes:
    """A message to the page with pictures, whose lengths are its field `sizes`."""
    sizes = [len(picture) for picture in pictures]
    header = text_message(kind, {**fields, "sizes": sizes}).encode()
    return b"".join((struct.pack("<I", len(header)), header, *pictures))
