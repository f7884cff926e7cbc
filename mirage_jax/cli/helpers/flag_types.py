"""Parsers of flags, for `absl.flags.DEFINE`: numbers in a range, lists of them, and paths."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from absl import flags

from mirage_jax.settings import expected, problem


class Number(flags.ArgumentParser):
    """A finite number within the bounds that `settings.setting` knows: least, above, most, below.

    Attributes:
      range: the bounds in words, "" without any.
    """

    kind: ClassVar[type]
    words: ClassVar[str]

    def __init__(self, **bounds: float | int):
        self._metadata = {"bounds": bounds}
        self.range = expected(self._metadata)

    def parse(self, argument: Any) -> Any:
        """The number; ValueError says what was found and what was expected."""
        try:
            value = self.kind(argument)
        except (TypeError, ValueError) as error:
            raise ValueError(f"found {argument!r}, expected {self.words}") from error
        wrong = problem(value, self.kind, self._metadata)
        if wrong:
            raise ValueError(wrong)
        return value

    def flag_type(self) -> str:
        """Name of the type."""
        return self.kind.__name__


class Integer(Number):
    """A whole number."""

    kind, words = int, "a whole number"


class Real(Number):
    """A finite number."""

    kind, words = float, "a number"


AUTO = "auto"


class RealOrAuto(Real):
    """A finite number, or the word "auto"."""

    words = "a number or auto"

    def parse(self, argument: Any) -> Any:
        return AUTO if argument == AUTO else super().parse(argument)

    def flag_type(self) -> str:
        return f"{super().flag_type()} or {AUTO}"


class Numbers(flags.ArgumentParser):
    """One number or several with commas between them, each as another parser takes it.

    Attributes:
      range: the bounds in words, "" without any.
    """

    def __init__(self, each: Number):
        self._each = each
        self.range = f"each {each.range}" if each.range else ""

    def parse(self, argument: Any) -> list[Any]:
        """The numbers; ValueError says what was found and what was expected."""
        if isinstance(argument, list):
            return argument
        return [self._each.parse(word.strip()) for word in argument.split(",")]

    def flag_type(self) -> str:
        """Name of the type."""
        return "comma separated list of numbers"


class PathNames(flags.ArgumentParser):
    """Names of files or folders with commas between them; a name of one that is there may have
    commas of its own."""

    def parse(self, argument: Any) -> list[str]:
        """The names without `~`, the longest that are there first."""
        if isinstance(argument, list):
            return argument
        words, names = argument.split(",") if argument else [], []
        while words:
            ends = range(len(words), 0, -1)
            found = (n for n in ends if os.path.exists(os.path.expanduser(",".join(words[:n]))))
            count = next(found, 1)
            names.append(os.path.expanduser(",".join(words[:count])))
            words = words[count:]
        return names

    def flag_type(self) -> str:
        """Name of the type."""
        return "comma separated list of strings"


class PathName(flags.ArgumentParser):
    """The name of a file or folder, `~` being the home directory."""

    def parse(self, argument: str) -> str:
        """The name without `~`."""
        return os.path.expanduser(argument)

    def flag_type(self) -> str:
        """Name of the type."""
        return "string"


class Share(flags.ArgumentParser):
    """Which of several equal parts: I/N, the first is 0."""

    def parse(self, argument: Any) -> tuple[int, int]:
        """The two numbers; ValueError says what was found and what was expected."""
        if isinstance(argument, tuple):
            return argument
        number, slash, count = argument.partition("/")
        good = slash and number.isdecimal() and count.isdecimal() and int(number) < int(count)
        if not good:
            raise ValueError(f"found {argument!r}, expected I/N with 0 <= I < N, such as 0/4")
        return int(number), int(count)

    def flag_type(self) -> str:
        """Name of the type."""
        return "share"
