"""Which versions of what run here, on which devices: what a report of a fault begins with."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path

import mirage_jax
from mirage_jax.training.provenance import git_revision

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def describe() -> str:
    """Lines of text: this package and its commit, Python, the packages below it, devices."""
    import jax

    root = Path(mirage_jax.__file__).resolve().parents[1]
    # A package installed into somebody's project is no part of that project's repository.
    commit = f" (git {git_revision(root)})" if (root / ".git").exists() else ""
    try:
        kinds = [device.device_kind for device in jax.devices()]
        devices = ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds))
    except RuntimeError as error:  # a platform that is asked for and not there
        devices = f"none ({str(error).splitlines()[0]})"
    packages = ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)
    return "\n".join(
        [
            f"mirage_jax {_version('mirage_jax')}{commit}",
            f"Python {platform.python_version()} on {platform.platform()}",
            packages,
            f"devices: {devices}",
        ]
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
