"""Which way `mirage generate` starts, and whether all of its flags go with that."""

from __future__ import annotations

from absl import flags

from mirage_jax.cli.helpers import capture_start, common
from mirage_jax.cli.helpers.stored_fields import stored_fields
from mirage_jax.io.workdir import Workdir

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


def used_fields(entry: str, workdir: Workdir, memory: str, preset: str) -> list[str]:
    """Fields of the config that a rollout goes by, see `generation.generation_model`.

    Args:
      entry: the way to start.
      workdir: of the weights.
      memory: which denoiser.
      preset: name of one; "" for none.
    """
    used = ["tiny", "host_devices", "memory.fuse", "memory.match", "memory.bodies", "movers."]
    if entry in ("image", "clip"):  # a saved world and a geometry bring their own
        used.append("memory.capacity")
    if entry == "clip":
        used += [f"data.{name}" for name in capture_start.READ_FIELDS]
    if not stored_fields(workdir, memory).get("chunk_frames"):  # converted weights
        return [*used, "sky_depth"]
    return used if preset else [*used, "sampling."]
