"""Short flags of commands for fields of their config: `--source=walks` for `config.data.root`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class ShortFlag:
    """A flag that sets a field.

    Attributes:
      name: of the flag.
      field: dotted, of the config.
      help: for --help.
    """

    name: str
    field: str
    help: str

    def put(self, words: Sequence[str]) -> list[str]:
        """The command line with the field in the flag's place.

        Raises:
          ValueError: if the flag has no value or is there twice, or the field is there as well.
        """
        long = f"--config.{self.field}"
        names = [word.partition("=")[0] for word in words]
        short = [name for name in names if name in (f"--{self.name}", f"-{self.name}")]
        if short and (len(short) > 1 or {long, long[1:]} & set(names)):
            other = long if len(short) == 1 else f"--{self.name}"
            raise ValueError(f"--{self.name}: found {other} beside it, expected one of them")
        found, rest = [], iter(words)
        for word in rest:
            name, equals, value = word.partition("=")
            if name in short:
                value = value if equals else next(rest, "")
                if not value or value.startswith("-"):
                    raise ValueError(f"--{self.name}: found {value!r}, expected {self.help}")
                word = f"{long}={value}"
            found.append(word)
        return found


SOURCE = ShortFlag(
    "source", "data.root", "the folder or file of footage, in place of --config.data.root"
)


def of_command(module: str) -> tuple[ShortFlag, ...]:
    """What a command says in its `SHORT_FLAGS`; run as `python -m` it is called __main__."""
    command = sys.modules.get(module, sys.modules["__main__"])
    return getattr(command, "SHORT_FLAGS", ())
