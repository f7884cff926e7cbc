"""Which way `mirage generate` starts, and whether all of its flags go with that."""

from __future__ import annotations

from absl import flags

from mirage_jax.cli.helpers import common

ENTRIES = ("image", "clip", "world", "geometry")
_ALONG = ("image", "clip", "world")
_GOES_WITH = {
    "depth": ("image",),
    "fov": ("image",),
    "clip_scene": ("clip",),
    "clip_pictures": ("clip",),
    "clip_scale": ("clip",),
    "trajectory": _ALONG,
    "angle": _ALONG,
    "distance": _ALONG,
    "start_frame": ("geometry",),
}
"""Flags that mean something with some of the ways to start alone."""


def entry() -> str:
    """Which way to start was asked for.

    Raises:
      UserError: unless it is one, and all flags go with it.
    """
    given = [name for name in ENTRIES if flags.FLAGS[name].value]
    if len(given) != 1:
        raise common.UserError(
            "give one of --image=PICTURE, --clip=FOLDER, --world=SAVED_WORLD and --geometry=NPZ"
        )
    for name, entries in _GOES_WITH.items():
        if flags.FLAGS[name].present and given[0] not in entries:
            ways = " or ".join(f"--{way}" for way in entries)
            raise common.UserError(f"--{name} does not go with --{given[0]}, only with {ways}")
    return given[0]
