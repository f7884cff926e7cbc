"""--denoiser, --decoder and --bodies of commands that run trained models."""

from __future__ import annotations

from typing import Any

from absl import flags
from ml_collections import ConfigDict

from mirage_jax.cli.helpers import build, common
from mirage_jax.io.workdir import Workdir
from mirage_jax.memory.movers import MoverOptions
from mirage_jax.world import WorldModel, decoders
from mirage_jax.world.bodies import with_bodies, with_body_fields, without_bodies

MOVERS = "movers."
"""How fields of the config begin that say how bodies are kept."""

DENOISER = flags.DEFINE_enum(
    "denoiser",
    "latent",
    (*build.MEMORIES, build.STUDENT),
    "Which of the work directory, by its memory; student: the distilled one, of few steps.",
)

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
    None,
    "Keep bodies that move and show them where they are by then (docs/movers.md); surfels can with "
    "weights that were trained without them, too. By default as the weights say.",
)


def latent_denoiser() -> str:
    """The denoiser that the flag names, of those whose memory is latent; UserError for another."""
    name = DENOISER.value if flags.FLAGS.is_parsed() else "latent"
    if name not in ("latent", build.STUDENT):
        raise common.UserError(f"--denoiser: found {name!r}, expected latent or {build.STUDENT}")
    return name


def decoder(default: str) -> str:
    """The decoder that the flag names, or the command's default; that too where what a command does
    is called without a command line."""
    return (DECODER.value if flags.FLAGS.is_parsed() else None) or default


def bodies() -> bool | None:
    """Whether the command line asks for bodies, by the flag or else by `memory.bodies` of the
    config; None where it does not say, or where there is none."""
    if not flags.FLAGS.is_parsed():
        return None
    return named_fields().get("memory.bodies") if BODIES.value is None else BODIES.value


def named_fields() -> dict[str, Any]:
    """Fields of the config that the command line names; none where either is missing."""
    there = flags.FLAGS.is_parsed() and "config" in flags.FLAGS
    return common.overrides()[2] if there else {}


def applied(model: WorldModel, workdir: Workdir, options: MoverOptions | None = None) -> WorldModel:
    """The model of a work directory as the command line asks for it; by default as it is.

    Args:
      model: of the work directory.
      workdir: of its parts.
      options: how bodies are kept; None: see `with_bodies`. The command line may change fields.

    Raises:
      FileNotFoundError, ValueError: as `decoders.with_decoder`, `with_bodies`, `without_bodies`,
        `with_body_fields`.
    """
    model, wanted = _decoding(model, workdir), bodies()
    if wanted is False:
        model = without_bodies(model)
    elif wanted or (options is not None and model.movers is not None):
        model = with_bodies(model, options)
    return with_body_fields(model, body_fields())


def body_fields() -> dict[str, Any]:
    """Fields of `config.movers` that the command line names."""
    named = named_fields()
    return {n.removeprefix(MOVERS): value for n, value in named.items() if n.startswith(MOVERS)}


def world_model(workdir: Workdir, memory: str, config: ConfigDict) -> WorldModel:
    """`build.world_model`, as the command line asks for it: of latent memory the teacher or its
    student; no bodies are kept with models that others are compared with."""
    latent = memory == "latent"
    model = build.world_model(workdir, latent_denoiser() if latent else memory, config)
    if not latent:
        return _decoding(model, workdir)
    return applied(model, workdir, build.mover_options(config))


def as_encoded(model: WorldModel, config: ConfigDict) -> WorldModel:
    """The model for histories of encoded clips, which have bodies where weights are trained so."""
    return model if build.movers(config) else without_bodies(model)


def _decoding(model: WorldModel, workdir: Workdir) -> WorldModel:
    name = decoder("vae")
    if name == "vae":
        return model
    encoder = decoders.with_decoder(model.encoder, workdir.model("encoder").parent, name)
    return model.replace(encoder=encoder)  # type: ignore[attr-defined]
