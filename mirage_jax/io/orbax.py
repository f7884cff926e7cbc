"""What Orbax checkpoints of any kind share here: what proves damage, and quiet reading."""

from __future__ import annotations

import contextlib
import errno
import logging
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mirage_jax.io.strict_json import parse_json


class DamagedCheckpoint(ValueError):
    """The bytes of a checkpoint are not those that were saved."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences the screens of tracebacks that Orbax's background tasks log about a damaged file."""
    loggers = [logging.getLogger(name) for name in ("asyncio", "absl")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_MEMORY = re.compile(r"RESOURCE_EXHAUSTED.*(memory|allocat)", re.IGNORECASE | re.DOTALL)


def reason_of(error: BaseException) -> str:
    """One line: the first cause that helps a person."""
    text = f"{type(error).__name__}: {error}"
    for cause in _chain(error):
        number = cause.errno if isinstance(cause, OSError) else None
        if number in _DISK_FULL or "No space left" in str(cause) or "quota" in str(cause):
            return "no space left on the device"
        if (
            isinstance(cause, MemoryError)
            or number == errno.ENOMEM
            or _NO_MEMORY.search(str(cause))
        ):
            text = f"out of memory: {cause}"
            break
        if not isinstance(cause, StopIteration):  # the JSON parser's own
            text = f"{type(cause).__name__}: {cause}"
    text = " ".join(text.partition("[tensorstore_spec")[0].split())
    # The cause is at the end, behind all that tensorstore was doing.
    return text if len(text) <= 200 else f"{text[:60]} ... {text[-135:]}"


_STATUS = re.compile(r"^([A-Z_]+): ")
_RANGE = re.compile(r'Byte range \[\d+, (\d+)\) of local file "([^"]+)"')


def proof_of_damage(error: BaseException, part: Path, names: Iterable[str] = ()) -> str:
    """What proves that one part of a checkpoint is damaged, once reading it has failed; or "".

    Orbax and tensorstore raise the same types for a lost file as for a disk that does not answer,
    so the type of the error decides nothing. These do:

    - a file without which there is no such part is missing, or is no JSON where it must be;
    - the part lists other tensors than those that were saved;
    - tensorstore names a file that ends before the bytes it must have, or is not there;
    - tensorstore says DATA_LOSS: one of its own checksums (CRC-32C) does not match.

    Nothing is proven by an error of the operating system or of memory anywhere in the chain, nor
    where the files cannot be looked at now.

    Args:
      error: what reading the part raised.
      part: folder of the part.
      names: of tensors that the part must have, "outer/inner/kernel".
    """
    chain = list(_chain(error))
    if any(_is_passing(cause) for cause in chain):
        return ""
    try:
        return _proof(chain, part, names)
    except OSError:
        return ""


def _proof(chain: list[BaseException], part: Path, names: Iterable[str]) -> str:
    if found := _missing_part(part, set(names)):
        return found
    for text in map(str, chain):
        status = _STATUS.match(text)
        if status is None:
            continue
        if status[1] == "DATA_LOSS":
            return f"{part.name}: {' '.join(text.split())[:150]}"
        for end, file in _RANGE.findall(text):
            size = _size(Path(file))
            if size < int(end):
                found = "no such file" if size < 0 else f"{size} bytes"
                return f"{Path(file).relative_to(part.parent)}: {found}, expected at least {end}"
    return ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _is_passing(cause: BaseException) -> bool:
    missing = isinstance(cause, FileNotFoundError)
    of_system = isinstance(cause, OSError | MemoryError) and not missing
    return of_system or not isinstance(cause, Exception) or "RESOURCE_EXHAUSTED" in str(cause)


def _missing_part(part: Path, names: set[str]) -> str:
    """Which file of a part is missing or is not what it must be; "" if none."""
    if _size(part) < 0:
        return f"{part.name}: no such part"
    described, strings = part / "_METADATA", part / "_strings.json"
    for file in (described, part / "manifest.ocdbt", part / "d"):
        if _size(file) < 0:
            return f"{part.name}/{file.name}: no such file"
    try:
        text = (file := described).read_text(encoding="utf-8")
        listed = _listed(parse_json(text))
        if '"value_type": "string"' in text or _size(strings) >= 0:
            parse_json((file := strings).read_bytes())
        for file in part.glob("array_metadatas/*"):
            parse_json(file.read_bytes())
    except FileNotFoundError:
        return f"{file.relative_to(part.parent)}: no such file"
    except ValueError as error:
        return f"{file.relative_to(part.parent)}: no JSON ({error})"
    lost = names - listed
    return f"{part.name}/_METADATA: tensor {min(lost)!r} is missing" if lost else ""


def _listed(content: Any) -> set[str]:
    """Names of the tensors in Orbax's `_METADATA`; none if it has another form."""
    try:
        entries = content["tree_metadata"].values()
        return {"/".join(str(key["key"]) for key in e["key_metadata"]) for e in entries}
    except (AttributeError, KeyError, TypeError):
        return set()


def _size(path: Path) -> int:
    """Bytes of a file, -1 if there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1
