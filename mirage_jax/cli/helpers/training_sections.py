"""The training sections of a config as settings: every field known, every value in its range."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

from ml_collections import ConfigDict

from data_pipelines.loading import AtRate, Transform
from data_pipelines.return_windows import ReturnWindow
from mirage_jax.cli.helpers import build
from mirage_jax.settings import from_mapping, setting
from mirage_jax.training.encoder_training import EncoderSettings
from mirage_jax.training.guard import Guard
from mirage_jax.training.loop_settings import LoopSettings
from mirage_jax.training.optimizers import OptimizerSettings

REQUIRED = dataclasses.MISSING


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingSection(OptimizerSettings):
    """What every training section has beside its optimizer."""

    steps: int = setting(REQUIRED, "Steps of the stage.", least=1)
    batch_size: int = setting(REQUIRED, "Clips of a batch, over all processes.", least=1)
    accumulate: int = setting(1, "Parts of a batch worked on one after the other.", least=1)
    ema_decay: float = setting(0.0, "Of the parameter average; 0: none.", least=0, below=1)
    init_from: str = setting("", "Run or export to take tensors of the same name from; '': none.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderSection(TrainingSection):
    """`config.vae_training`."""

    steps: int = setting(REQUIRED, "Steps; 0 takes the linear path alone.", least=0)
    pretrained: bool = setting(False, "Whether the encoder is in the work directory already.")
    pixels: int = setting(REQUIRED, "Side of a training window.", least=1)
    kl_weight: float = setting(REQUIRED, "Of the KL divergence per latent value.", least=0)
    latent_noise: float = setting(0.0, "On what the decoder is trained on, RMS latents.", least=0)
    stats_per_channel: bool = setting(REQUIRED, "Normalise every latent channel by itself.")
    pca_power: float = setting(REQUIRED, "Components over std ** power; 1 whitens.", least=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeometryTrainingSection(TrainingSection):
    """`config.geometry_training`."""

    mover_weight: float = setting(
        1.0, "How many times as much a moving cell counts as a still one.", above=0
    )
    bodies: float = setting(
        0.0,
        "Share of clips in which bodies walk; 0, or where loading.weights say: by their number.",
        least=0,
        below=1,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenoiserSection(TrainingSection):
    """`config.denoiser_training`."""

    trained: str = setting("all", "What of the denoiser is trained.", choices=build.TRAINED)
    pretrained: str = setting("", "Export with the frozen weights; 'random' to try the code.")
    shift: float = setting(1.0, "Of noise levels, s' = shift s / (1 + (shift - 1) s).", above=0)
    precondition: bool = setting(REQUIRED, "Predict what the noisy latent leaves open.")
    per_frame: bool = setting(False, "A noise level per latent.")
    drop_memory: float = setting(0.1, "Share of samples without memory.", least=0, most=1)
    drop_text: float = setting(0.0, "Share of samples without text.", least=0, most=1)
    references: int = setting(0, "Reference frames of a chunk, at most.", least=0)
    preceding: int = setting(0, "Preceding frames of a chunk, 0 or 1 + 4 n.", least=0)
    depth_noise: float = setting(0.0, "Relative; largest of a history's frame.", least=0)
    pose_noise: float = setting(0.0, "Metres and radians.", least=0)
    token_noise: float = setting(0.0, "Standard deviations of a latent.", least=0)
    predicted_histories: float = setting(
        0.0,
        "Share of samples whose history has the geometry head's tokens and depth, as rollouts do.",
        least=0,
        most=1,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init_from and self.trained != "all":
            raise ValueError(
                f"init_from: found {self.init_from!r}, expected none beside trained="
                f"{self.trained!r}, which starts from `pretrained`"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudentSection(TrainingSection):
    """What the sections of students have beside their training."""

    teacher: str = setting(
        "", "Export of the trained denoiser; '': the work directory's; 'random' to try the code."
    )
    shift: float = setting(1.0, "Of the noise levels of the student's steps.", above=0)
    cfg_scale: float = setting(1.0, "Guidance by the text that students learn; 1: none.", least=0)
    sampling_steps: int = setting(2, "In which students are sampled.", least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init_from:
            raise ValueError(
                f"init_from: found {self.init_from!r}, expected none: students start as `teacher`"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillSection(StudentSection):
    """`config.distill_training`."""

    ema_decay: float = setting(0.99, "Of the average that is trained towards.", above=0, below=1)
    levels: int = setting(48, "Noise levels that neighbours are drawn from.", least=1)
    shift: float = setting(1.0, "Of these levels and of the student's sampling.", above=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MatchSection(StudentSection):
    """`config.match_training`."""

    student: str = setting(
        "",
        "Export that students start from; '': the work directory's or, without, their teacher; "
        "'teacher': that.",
    )
    critic_steps: int = setting(5, "Steps of the critic for one of the student.", least=1)
    rollouts: float = setting(
        1.0,
        "Share of the chunks after another one whose memory the student's own chunk is in.",
        least=0,
        most=1,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TinyDecoderSection(TrainingSection):
    """`config.tiny_decoder_training`."""

    pixels: int = setting(REQUIRED, "Side of a training window.", least=1)


_Section = TypeVar("_Section", bound=TrainingSection)


def _section(kind: type[_Section], config: ConfigDict, name: str) -> _Section:
    return from_mapping(kind, config[name].to_dict(), f"config.{name}")


def _optional(kind: type[_Section], config: ConfigDict, name: str) -> _Section:
    if name not in config:
        raise ValueError(
            f"config.{name}: found none in {config.name!r}, expected a section as in "
            "experiments/distill.py"
        )
    return _section(kind, config, name)


def encoder(config: ConfigDict) -> EncoderSection:
    """`config.vae_training`; ValueError naming the field that is unknown or out of range."""
    return _section(EncoderSection, config, "vae_training")


def geometry(config: ConfigDict) -> GeometryTrainingSection:
    """`config.geometry_training`; ValueError as for `encoder`."""
    return _section(GeometryTrainingSection, config, "geometry_training")


def denoiser(config: ConfigDict) -> DenoiserSection:
    """`config.denoiser_training`; ValueError as for `encoder`."""
    return _section(DenoiserSection, config, "denoiser_training")


def distill(config: ConfigDict) -> DistillSection:
    """`config.distill_training`; ValueError as for `encoder`, or if the config has none."""
    return _optional(DistillSection, config, "distill_training")


def student(config: ConfigDict, stage: str) -> StudentSection:
    """That of "distill" or "match"; errors as for `distill`."""
    return distill(config) if stage == "distill" else match(config)


def match(config: ConfigDict) -> MatchSection:
    """`config.match_training`; errors as for `distill`."""
    return _optional(MatchSection, config, "match_training")


def tiny_decoder(config: ConfigDict) -> TinyDecoderSection:
    """`config.tiny_decoder_training`; errors as for `distill`."""
    return _optional(TinyDecoderSection, config, "tiny_decoder_training")


OF_STAGE = {
    "encoder": encoder,
    "geometry": geometry,
    "denoiser": denoiser,
    "distill": distill,
    "match": match,
    "tiny_decoder": tiny_decoder,
}

OPTIONAL = ("distill", "match", "tiny_decoder")
"""Stages of experiments that have a section for them."""


def stages(config: ConfigDict) -> tuple[str, ...]:
    """The stages that `config` has a section for."""
    return tuple(s for s in OF_STAGE if s not in OPTIONAL or f"{s}_training" in config)


def guard(config: ConfigDict) -> Guard:
    """`config.guard`; ValueError as for `encoder`."""
    return from_mapping(Guard, config.guard.to_dict(), "config.guard")


_LOOP_FIELDS = (
    "seed", "log_every", "sample_every", "save_every", "eval_every", "keep_best", "profile_steps",
    "wandb", "start_over",
)  # fmt: skip


def loop(config: ConfigDict, section: TrainingSection) -> LoopSettings:
    """Settings of the loop for one stage, from its section and from what all stages share.

    Raises:
      ValueError: naming the field that is out of range.
    """
    shared = {name: config[name] for name in _LOOP_FIELDS}
    own = {name: getattr(section, name) for name in ("steps", "accumulate", "ema_decay")}
    return from_mapping(LoopSettings, {**shared, **own, "guard": guard(config)}, "config")


def encoder_settings(config: ConfigDict) -> EncoderSettings:
    """What decides what the encoder becomes, beside its module and its optimizer."""
    section = encoder(config)
    return EncoderSettings(
        frames=config.chunk_frames,
        pixels=section.pixels,
        kl_weight=section.kl_weight,
        latent_noise=section.latent_noise,
        stats_per_channel=section.stats_per_channel,
        pca_power=section.pca_power,
        seed=config.seed,
    )


def windows(config: ConfigDict) -> tuple[Transform, ...]:
    """How recorded clips are cut before they are encoded.

    Raises:
      ValueError: if a window has no room for a chunk, what precedes it and a history.
    """
    loading, cuts = config.loading, list[Transform]()
    if loading.fps:
        cuts.append(AtRate(loading.fps))
    if loading.window:
        try:
            window = ReturnWindow(
                loading.window,
                config.chunk_frames,
                denoiser(config).preceding,
                returns=loading.returns,
                gap=loading.gap,
                later=loading.later,
            )
        except ValueError as error:
            raise ValueError(f"config.loading.window: {error}") from error
        cuts.append(window)
    return tuple(cuts)


def check(config: ConfigDict) -> None:
    """Raises ValueError, naming the field, unless all that stages are trained with is in range."""
    if config.loader_workers < 0:
        raise ValueError(f"config.loader_workers: found {config.loader_workers}, expected >= 0")
    windows(config)
    for stage in stages(config):
        section = OF_STAGE[stage](config)
        if section.steps:
            loop(config, section)
