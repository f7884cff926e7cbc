"""--decoder of commands that make pictures."""

from __future__ import annotations

from absl import flags
from ml_collections import ConfigDict

from mirage_jax.cli.helpers import build
from mirage_jax.io.workdir import Workdir
from mirage_jax.world import WorldModel, decoders

DECODER = flags.DEFINE_enum(
    "decoder",
    None,
    decoders.DECODERS,
    "Of the pictures: vae, the autoencoder's own; linear, its linear path alone, one matrix "
    "product; tiny, model/tiny_decoder of the work directory; auto, tiny where there is one, else "
    "linear where it has that path. By default auto where one walks, else vae.",
)


def asked(default: str) -> str:
    """The decoder that the flag names, or the command's default; that too where what a command does
    is called without a command line."""
    return (DECODER.value if flags.FLAGS.is_parsed() else None) or default


def decoding(model: WorldModel, workdir: Workdir) -> WorldModel:
    """The model of a work directory with the decoder that the flag asks for; by default its own.

    Raises:
      FileNotFoundError, ValueError: as `decoders.with_decoder`.
    """
    name = asked("vae")
    if name == "vae":
        return model
    encoder = decoders.with_decoder(model.encoder, workdir.model("encoder").parent, name)
    return model.replace(encoder=encoder)  # type: ignore[attr-defined]


def world_model(workdir: Workdir, memory: str, config: ConfigDict) -> WorldModel:
    """`build.world_model`, decoding as the flag asks for."""
    return decoding(build.world_model(workdir, memory, config), workdir)
