"""--decoder and --bodies of commands that run trained models."""

from __future__ import annotations

from absl import flags
from ml_collections import ConfigDict

from mirage_jax.cli.helpers import build
from mirage_jax.io.workdir import Workdir
from mirage_jax.world import WorldModel, decoders
from mirage_jax.world.bodies import with_bodies

DECODER = flags.DEFINE_enum(
    "decoder",
    None,
    decoders.DECODERS,
    "Of the pictures: vae, the autoencoder's own; linear, its linear path alone, one matrix "
    "product; tiny, model/tiny_decoder of the work directory; auto, tiny where there is one, else "
    "linear where it has that path. By default auto where one walks, else vae.",
)

BODIES = flags.DEFINE_bool(
    "bodies",
    False,
    "Keep bodies that move and show them where they are by then (docs/movers.md); with weights "
    "that were trained without them too, if their conditioner is surfels.",
)


def decoder(default: str) -> str:
    """The decoder that the flag names, or the command's default; that too where what a command does
    is called without a command line."""
    return (DECODER.value if flags.FLAGS.is_parsed() else None) or default


def bodies() -> bool:
    """Whether the flag asks for bodies; not where there is no command line."""
    return bool(flags.FLAGS.is_parsed() and BODIES.value)


def applied(model: WorldModel, workdir: Workdir, *, compared: bool = False) -> WorldModel:
    """The model of a work directory as the flags ask for it; by default as it was trained.

    Args:
      model: as it was trained.
      workdir: where it lies.
      compared: whether it is one that others are compared with, and keeps no bodies.

    Raises:
      FileNotFoundError, ValueError: as `decoders.with_decoder` and `with_bodies`.
    """
    name = decoder("vae")
    if name != "vae":
        encoder = decoders.with_decoder(model.encoder, workdir.model("encoder").parent, name)
        model = model.replace(encoder=encoder)  # type: ignore[attr-defined]
    return with_bodies(model) if bodies() and not compared else model


def world_model(workdir: Workdir, memory: str, config: ConfigDict) -> WorldModel:
    """`build.world_model`, as the flags ask for it."""
    model = build.world_model(workdir, memory, config)
    return applied(model, workdir, compared=memory != "latent")
