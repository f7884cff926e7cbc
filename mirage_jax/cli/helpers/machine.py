"""What this machine has of what mirage needs: devices, memory, packages, folders, codecs."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

OK, NOTE, FAILED = "ok", "note", "failed"

EXTRAS = {
    "explore": ("`mirage explore`, a walk in a browser", ("websockets",)),
    "browser": ("tests of its page, in a Chromium of the system", ("playwright",)),
    "worlds": (
        "record Freedoom, rendered and LabMaze worlds",
        ("vizdoom", "mujoco", "labmaze"),
    ),
    "miniworld": ("record MiniWorld's rooms and mazes", ("miniworld",)),
    "openarena": ("record OpenArena's maps", ("moderngl",)),
    "text": ("prompts: tokenizing them", ("tokenizers", "sentencepiece")),
    "lmdb": ("read the LMDB shards of the released Mirage code", ("lmdb",)),
    "colmap": ("testing what is written for COLMAP with its own reader", ("pycolmap",)),
    "tpu": ("TPUs, and `mirage compile`", ("libtpu",)),
    "cuda": ("NVIDIA GPUs", ("jax-cuda12-plugin",)),
    "docs": ("building this documentation", ("zensical", "mkdocstrings", "mkdocstrings-python")),
    "dev": ("tests, lint and types", ("pytest", "hypothesis", "beartype", "ruff", "mypy")),
}
"""Extras of setup.cfg: what each is for, and its packages."""

_GIB = 1 << 30
_LITTLE_MEMORY, _LITTLE_SPACE = 4 * _GIB, 2 * _GIB
_ENCODERS = ("libx264", "libopenh264", "mpeg4")


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of a report.

    Attributes:
      status: `OK`, `NOTE` (fine, but not all that could be) or `FAILED`.
      name: of what was looked at.
      text: what was found, and where it is not well, what was expected.
    """

    status: str
    name: str
    text: str


def devices() -> Iterator[Finding]:
    """The devices of JAX, with their memory where they tell."""
    import jax

    try:
        found = jax.devices()
    except RuntimeError as error:  # a platform that is asked for and not there
        yield Finding(FAILED, "devices", f"none ({str(error).splitlines()[0]})")
        return
    for device in found:
        stats = device.memory_stats() or {}
        limit = stats.get("bytes_limit")
        size = f", {limit / _GIB:.0f} GiB" if limit else ""
        yield Finding(OK, f"device {device.id}", f"{device.device_kind}{size}")
    if found[0].platform == "cpu":
        text = "no accelerator: enough for the quickstart, not for the larger models"
        yield Finding(NOTE, "devices", text)


def host() -> Iterator[Finding]:
    """Cores and memory of the host."""
    usable = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
    yield Finding(OK, "cores", str(len(usable(0))))
    names = {"SC_PHYS_PAGES", "SC_AVPHYS_PAGES", "SC_PAGE_SIZE"}
    if not names <= os.sysconf_names.keys():
        yield Finding(NOTE, "memory", "this system does not tell")
        return
    page = os.sysconf("SC_PAGE_SIZE")
    whole, free = (os.sysconf(n) * page for n in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
    status = NOTE if whole < _LITTLE_MEMORY else OK
    less = f"; expected at least {_LITTLE_MEMORY // _GIB} GiB" if status == NOTE else ""
    yield Finding(status, "memory", f"{whole / _GIB:.1f} GiB, {free / _GIB:.1f} free now{less}")


def extras() -> Iterator[Finding]:
    """Which extras are installed, with versions, and what each is for."""
    for name, (purpose, packages) in EXTRAS.items():
        found = {package: _version(package) for package in packages}
        there = ", ".join(f"{package} {version}" for package, version in found.items() if version)
        missing = [package for package, version in found.items() if not version]
        if not missing:
            yield Finding(OK, f"[{name}]", f"{there} ({purpose})")
        else:
            lacks = f"without {', '.join(missing)}" if there else "not installed"
            text = f"{lacks}: pip install 'mirage_jax[{name}]' for {purpose}"
            yield Finding(NOTE, f"[{name}]", f"{there}; {text}" if there else text)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def folders(work: Path) -> Iterator[Finding]:
    """Whether the work directory, its compilation cache and the temporary folder can be used."""
    for name, folder in (
        ("work directory", work),
        ("compilation cache", work / "compilation_cache"),
        ("temporary files", Path(tempfile.gettempdir())),
    ):
        yield _folder(name, folder)


def _folder(name: str, folder: Path) -> Finding:
    from mirage_jax.io.atomic import write_atomically
    from mirage_jax.io.lock import LockedError, locked

    there = next(p for p in (folder, *folder.parents) if p.exists())
    try:
        if not there.is_dir():
            return Finding(FAILED, name, f"{there} is no folder, expected one or a new name")
        with tempfile.TemporaryDirectory(dir=there, prefix=".doctor-") as own:
            write_atomically(Path(own) / "file", b"\0" * (1 << 20), sync=True)
            with locked(Path(own) / "lock", "mirage doctor"):
                pass
        free = shutil.disk_usage(there).free
    except LockedError as error:
        return Finding(FAILED, name, f"{folder}: no file can be locked there ({error})")
    except OSError as error:
        return Finding(FAILED, name, f"{folder}: cannot be written to ({error.strerror or error})")
    made = "" if there == folder else ", not made yet"
    status = NOTE if free < _LITTLE_SPACE else OK
    less = f"; expected at least {_LITTLE_SPACE // _GIB} GiB" if status == NOTE else ""
    return Finding(status, name, f"{folder}: {free / _GIB:.1f} GiB free{made}{less}")


def codecs() -> Iterator[Finding]:
    """Which encoders of video FFmpeg has here, and whether it reads H.264."""
    import av

    def has(name: str, mode: Literal["r", "w"]) -> bool:
        try:
            av.Codec(name, mode)
        except (av.error.FFmpegError, ValueError):
            return False
        return True

    found = [name for name in _ENCODERS if has(name, "w")]
    if not found:
        yield Finding(FAILED, "video encoder", f"found none of {', '.join(_ENCODERS)}")
    elif found[0] == "mpeg4":
        yield Finding(NOTE, "video encoder", "mpeg4 alone: no browser plays what it makes")
    else:
        yield Finding(OK, "video encoder", found[0])
    if has("h264", "r"):
        yield Finding(OK, "video decoder", "h264")
    else:
        yield Finding(FAILED, "video decoder", "found none for h264, in which most videos come")
