"""Names of worlds in a config: a source's, or that and `_bodies`: clips in which bodies walk.

"labmaze_bodies" are mazes like those of "labmaze", recorded, encoded and scored as a world apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from data_pipelines import sources
from data_pipelines.sources.stage import StagedSource
from mirage_jax.cli.helpers.common import UserError
from mirage_jax.io.workdir import Workdir

BODIES = "_bodies"


def has_bodies(world: str) -> bool:
    """Whether bodies walk in every clip of a world, their states known."""
    return world.endswith(BODIES)


def can_be_staged(world: str) -> bool:
    """Whether a world can be rendered again with bodies elsewhere."""
    return issubclass(sources.source_class(source_name(world)), StagedSource)


def source_name(world: str) -> str:
    """Name of the source that a world is recorded from."""
    return world.removesuffix(BODIES)


def available(world: str) -> tuple[bool, str]:
    """Whether a world can be rendered on this machine, and if not, why."""
    kind = sources.source_class(source_name(world))
    return getattr(kind, "available", lambda: (True, ""))()


def of_places(worlds: Sequence[str]) -> tuple[str, ...]:
    """Worlds whose returns to places are scored: those without bodies, or all if there is none."""
    return tuple(world for world in worlds if not has_bodies(world)) or tuple(worlds)


def sharing(weights: Mapping[str, float], share: float) -> dict[str, float]:
    """Weights of worlds, with those that have bodies brought to a share of all.

    Args:
      weights: how often each is drawn from, in any unit.
      share: of all draws that is theirs; 0, or without others beside them: as they are.
    """
    moving = sum(weight for world, weight in weights.items() if has_bodies(world))
    still = sum(weights.values()) - moving
    if not (share and moving and still):
        return dict(weights)
    factors = {True: share / moving, False: (1.0 - share) / still}
    return {world: weight * factors[has_bodies(world)] for world, weight in weights.items()}


def to_train(
    config: ConfigDict, workdir: Workdir, stage: str, memory: str = "latent"
) -> tuple[str, ...]:
    """Recorded worlds that a stage is trained on.

    Clips with bodies teach the geometry head what moves. Where weights are trained without bodies
    they teach nothing else: what walks into a picture that no memory shows is noise to a denoiser.

    Args:
      config: the experiment.
      workdir: with the recordings.
      stage: "encoder", "geometry", "denoiser", "distill", "match" or "tiny_decoder".
      memory: of the denoiser; those that are compared with keep no bodies.

    Raises:
      ValueError: if none of the config's worlds was recorded.
    """
    recorded = workdir.recorded(config.worlds)
    if stage == "geometry" or (memory == "latent" and config.memory.get("movers", False)):
        return recorded
    return of_places(recorded)


def prompts(config: ConfigDict) -> dict[str, str]:
    """The prompt of every world, one with bodies having that of its source if it has none.

    Raises:
      UserError: naming a world without.
    """
    told, found = config.text.prompts, {}
    for world in config.worlds:
        name = world if world in told else source_name(world)
        if name not in told:
            raise UserError(f"text.prompts: found none for {world!r}, expected one for every world")
        found[world] = told[name]
    return found
