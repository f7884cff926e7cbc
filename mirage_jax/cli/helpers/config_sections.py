"""What the sections of a config may hold: every field with its meaning and range.

Sections of training are in `training_sections`; those of the modules are checked further by the
modules themselves.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from data_pipelines.clip_codecs import ENCODINGS
from data_pipelines.filters import Filters
from data_pipelines.sources.footage.formats import FORMATS
from data_pipelines.sources.footage.source import MOVERS, ORIENTATIONS
from mirage_jax.cli.helpers import training_sections
from mirage_jax.io import camera_files
from mirage_jax.memory.movers import MoverOptions
from mirage_jax.nn.block import REMAT
from mirage_jax.nn.layers import CONV_IMPLS
from mirage_jax.parallel.rules import PRESETS
from mirage_jax.settings import Settings, meanings, setting
from mirage_jax.training.guard import Guard
from mirage_jax.training.loop_settings import LoopSettings
from mirage_jax.world.conditioners import KINDS
from mirage_jax.world.options import SamplerOptions

REQUIRED = dataclasses.MISSING
LARGEST_SEED = 2**32 - 1
"""JAX drops the higher bits of a seed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSection(Settings):
    """What is in no section."""

    name: str = setting(REQUIRED, "Of the experiment.")
    seed: int = setting(0, "Of everything random.", least=0, most=LARGEST_SEED)
    tiny: bool = setting(False, "The same run, of sizes that take a CPU no minute a stage.")
    host_devices: int = setting(1, "CPU devices to split a batch over.", least=1, most=1024)
    worlds: tuple[str, ...] = setting(REQUIRED, "Sources of clips.")
    rules: str = setting(
        "full", "What is split over the mesh.", choices=tuple(next(iter(PRESETS.values())))
    )
    loader_workers: int = setting(0, "Loader processes; 0 = threads of the program.", least=0)
    chunk_frames: int = setting(REQUIRED, "Frames of a chunk, 1 + 4 n.", least=5)
    chunk_lengths: tuple[int, ...] = setting(
        (),
        "Lengths that the denoiser trains on, chunk_frames the longest; () = that alone.",
        least=5,
    )
    sky_depth: float = setting(200.0, "Metres at which the sky is remembered.", above=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordSection(Settings):
    """`config.record` but for the numbers of clips, which are by world."""

    size: int = setting(REQUIRED, "Height of the pictures, in whole tokens.", least=1)
    width: int = setting(0, "0 = as the height.", least=0)
    frames: int = setting(REQUIRED, "Of a clip, 1 + n (chunk_frames - 1), n at least 2.", least=1)
    gamma: float = setting(1.0, "Brightens dark worlds; stored in the clip.", above=0, most=10)
    eval_clips: int = setting(REQUIRED, "Held-out clips of each world.", least=1)
    maps: int = setting(200, "Generated maps to train on.", least=1, most=1_000_000)
    openarena: str = setting("", "Folder of OpenArena's .pk3 files, for that world.")
    bodies: int = setting(
        3, "That walk in every clip of worlds such as labmaze_bodies.", least=1, most=4
    )
    skip: int = setting(4, "Simulated frames left out of it, at least.", least=0, most=1000)
    skip_spread: int = setting(96, "So many more at most.", least=0, most=1000)
    due: float = setting(0.8, "Share of clips with a body that comes again.", least=0, most=1)
    workers: int = setting(0, "Processes that record; 0 = none but the program.", least=0)
    seed: int = setting(0, "Of the clips.", least=0, most=LARGEST_SEED)
    shard_clips: int = setting(64, "Clips of a file, at most.", least=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSection(Settings):
    """`config.data`: footage of one's own, see docs/data.md."""

    root: str = setting("", "Folder or file of footage; '' = the worlds.")
    format: str = setting("auto", "Its layout.", choices=("auto", *FORMATS))
    clips: int = setting(0, "To train on, at most; 0 = all there are.", least=0)
    fps: float = setting(0.0, "Frames per second, by timestamp; 0 = every frame.", least=0)
    hop: int = setting(0, "Frames between the starts of clips; 0 = no overlap.", least=0)
    eval_share: float = setting(
        0.1, "Of the scenes, held out; of a single scene its last clips.", least=0, most=0.9
    )
    missing: str = setting("refuse", "Where pictures are missing.", choices=("refuse", "skip"))
    ground: int = setting(255, "Grey under transparent pictures.", least=0, most=255)
    picture_fps: float = setting(30.0, "Of pictures without times.", above=0)
    orientation: str = setting(
        "auto", "Of pictures: as the cameras are, as EXIF says, or as stored.", choices=ORIENTATIONS
    )
    register: bool = setting(True, "Bring depth of another lens into the colour picture.")
    lens: tuple[float | int, ...] = setting((), "fx, fy, cx, cy in pixels, in place of the files'.")
    direction: str = setting(
        "", "Of camera files that do not say it.", choices=("", *camera_files.DIRECTIONS)
    )
    axes: str = setting("", "Of camera files that do not say.", choices=("", *camera_files.AXES))
    units: str = setting("", "Of camera files that do not say.", choices=("", *camera_files.UNITS))
    depth_metres: float = setting(0.001, "Of one step of 16-bit depth pictures.", above=0)
    shapes: str = setting(
        "", "Picture shapes beside record.size, HEIGHTxWIDTH and commas; scenes get the nearest."
    )
    movers: str = setting("", "What moves, where no masks say: '' = unknown.", choices=MOVERS)
    depth_weights: str = setting("", "Depth Anything V2 for clips without depth; '' = none.")
    depth_range: float = setting(20.0, "Metres it was trained up to: 20 or 80.", above=0)
    encoding: str = setting("raw", "How clips are stored.", choices=tuple(ENCODINGS))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadingSection(Settings):
    """`config.loading`: what of recorded clips is trained on, see docs/loading.md."""

    latents: str = setting(
        "cached",
        "Whether clips are encoded once, into a cache, or as video before each step.",
        choices=("cached", "video"),
    )
    fps: float = setting(
        0.0, "Frames per second that windows are brought to; 0 = as recorded.", least=0
    )
    window: int = setting(
        0, "Frames of the windows of longer clips that are trained on; 0 = whole clips.", least=0
    )
    returns: float = setting(
        0.7, "Share of windows in which the camera comes back, in clips that do.", least=0, most=1
    )
    gap: int = setting(16, "Frames between two sights of a place, at least.", least=1)
    later: float = setting(
        0.3, "Share of windows whose history may lie after the chunk too.", least=0, most=1
    )
    weights: tuple[float | int, ...] = setting(
        (), "How often each of the worlds is drawn from; () = by their numbers of clips.", above=0
    )
    skip_share: float = setting(
        0.01, "Share of the clips that may be skipped as they cannot be read.", least=0, below=1
    )
    seconds: float = setting(600.0, "How long the loader may take for a batch.", above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.latents == "cached" and (self.window or self.fps):
            name = "window" if self.window else "fps"
            raise ValueError(
                f"{name}: found {getattr(self, name)}, expected 0 with latents='cached': windows "
                "are cut anew in every epoch; set latents='video'"
            )
        if self.fps and not self.window:
            raise ValueError(
                f"fps: found {self.fps:g}, expected 0 without a window: clips of other lengths "
                "make no batch"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshSection(Settings):
    """`config.mesh`."""

    data: int = setting(-1, "Devices along it; -1 = what the other axes leave.", least=-1)
    fsdp: int = setting(1, "As data; splits parameters too.", least=-1)
    context: int = setting(1, "As data; splits the tokens of a sample.", least=-1)
    tensor: int = setting(1, "As data; splits the width of layers.", least=-1)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, size in vars(self).items():
            if size == 0:
                raise ValueError(f"{name}: found 0, expected >= 1 or -1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VAESection(Settings):
    """`config.vae`, the fields of `VideoVAE`."""

    base_width: int = setting(16, "Channels of the encoder's first level.", least=1)
    decoder_width: int = setting(24, "The same of the decoder.", least=1)
    latent_channels: int = setting(16, "Channels of a latent.", least=1)
    width_mults: tuple[int, ...] = setting((1, 2, 4), "Width of each level.", least=1)
    blocks: int = setting(2, "Residual blocks of a level.", least=1)
    temporal_downsample: tuple[bool, ...] = setting(
        (True, True), "For each halving of the picture, whether frames are halved too; two are."
    )
    patch: int = setting(2, "Pixels folded into channels first.", least=1)
    linear_path: bool = setting(True, "Code patches by one matrix product beside the network.")
    initial_logvar: float = setting(-6.0, "Log-variance of a new posterior.")
    attention: bool = setting(True, "Within frames, at the coarsest level.")
    level_shortcuts: bool = setting(True, "Parameter-free ones around every level, as in Wan 2.2.")
    conv_impl: str = setting("auto", "How convolutions are computed.", choices=CONV_IMPLS)
    dtype: Any = setting("float32", "Of matrix products: float32 or bfloat16.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeometrySection(Settings):
    """`config.geometry`, the fields of `GeometryHead`."""

    width: int = setting(48, "Channels.", least=1)
    layers: int = setting(2, "Residual convolutions.", least=0)
    mlp_ratio: int = setting(0, "Of the MLP after each, to the channels; 0 = none.", least=0)
    cells_up: int = setting(1, "Finer grid of the maps.", choices=(1, 2))
    movers_up: int = setting(0, "Of the mover logits alone; 0 = as the others.", least=0)
    cell_hidden: int = setting(
        0, "Hidden channels of an MLP for movers and image tokens; 0 = as the other maps.", least=0
    )
    initial_depth: float = setting(3.0, "Metres that a new head predicts.", above=0)
    dtype: Any = setting("float32", "Of matrix products: float32 or bfloat16.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TinyDecoderModuleSection(Settings):
    """`config.tiny_decoder`, the fields of `TinyDecoder` but for the latents' channels."""

    widths: tuple[int, int, int, int] = setting(
        (256, 128, 64, 64), "Channels of the three stages and after them.", least=1
    )
    time_upscale: tuple[bool, bool, bool] = setting(
        (False, True, True), "For each stage, whether it makes two frames of one; two do."
    )
    space_upscale: tuple[bool, bool, bool] = setting(
        (True, True, True), "For each stage, whether it doubles height and width."
    )
    patch: int = setting(2, "Pixels that the last convolution gives at once.", least=1)
    dtype: Any = setting("float32", "Of convolutions: float32 or bfloat16.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenoiserModuleSection(Settings):
    """`config.denoiser`, those fields of `Denoiser` that an experiment chooses."""

    width: int = setting(REQUIRED, "Channels of a token.", least=1)
    depth: int = setting(REQUIRED, "Transformer blocks.", least=1)
    heads: int = setting(REQUIRED, "Attention heads, a divisor of the width.", least=1)
    mlp_width: int = setting(REQUIRED, "Hidden channels of the MLP.", least=1)
    patch: tuple[int, int, int] = setting((1, 2, 2), "Latents, rows, columns per token.", least=1)
    text_width: int = setting(0, "Channels of text tokens; 0 = no text.", least=0)
    freq_width: int = setting(256, "Channels of the timestep's embedding.", least=2)
    memory_hint: bool = setting(True, "Add the read-out to the tokens as well.")
    branch_layers: tuple[int, ...] = setting(
        (), "Blocks of the control branch; () = its input projection alone.", least=0
    )
    zero_head: bool = setting(True, "Whether the output projection starts at zero.")
    memory_prior: bool = setting(False, "Generate what a regression on the read-out leaves open.")
    remat: str = setting("none", "What is computed again backwards.", choices=tuple(REMAT))
    scan: bool = setting(True, "Run layers in a loop; compiles once.")
    attention_backend: str = setting("auto", "See `attention.attention`.")
    dtype: Any = setting("float32", "Of matrix products: float32 or bfloat16.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemorySection(Settings):
    """`config.memory`; those from `reads` on are of the conditioners "surfels" and "folded"."""

    capacity: int = setting(4096, "Elements of a rollout's bank.", least=1)
    fuse: bool = setting(True, "Whether what is shown already is not stored again in rollouts.")
    fuse_histories: bool = setting(False, "Whether that holds for histories in training too.")
    match: float = setting(
        0.15, "Distance within which cells are the same, in cells.", above=0, most=1
    )
    conditioner: str = setting(
        "surfels",
        "Of the denoiser; the baselines are named by --memory.",
        choices=tuple(kind for kind in KINDS if kind not in ("rgb", "none")),
    )
    reads: int = setting(4, "Poses read for each latent.", choices=(1, 2, 4))
    fine: int = setting(2, "The read-out grid relative to the latents'.", least=1)
    prefer: str = setting("nearest", "Which hit a cell keeps.", choices=("nearest", "best_view"))
    footprint: int = setting(1, "Odd width in cells of what an element covers.", least=1)
    movers: bool = setting(False, "Whether bodies that move are kept, and shown to the denoiser.")
    bodies: bool = setting(False, "Whether rollouts alone keep them; with surfels.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.footprint % 2 == 0:
            raise ValueError(f"footprint: found {self.footprint}, expected an odd number")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextSection(Settings):
    """`config.text` but for the prompts, which are by world."""

    embeddings: str = setting("", "File of embedded prompts; '' trains without text.")
    captions: bool = setting(False, "Clips with a caption of their own get it for a text.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingSection(SamplerOptions):
    """`config.sampling`."""

    reencode: bool = setting(False, "Write re-encoded frames instead of the head's image tokens.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationSection(Settings):
    """`config.evaluation`."""

    videos: int = setting(3, "Clips shown per world.", least=1)
    fps: float = setting(8.0, "Of these videos.", above=0.01, below=1000)
    bodies: int = setting(16, "Clips with bodies that the report scores, at most.", least=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompileSection(Settings):
    """`config.compile`, what `mirage compile` assumes."""

    batch_per_shard: int = setting(1, "Clips per device of the data and fsdp axes.", least=1)
    text_tokens: int = setting(512, "Tokens of a prompt.", least=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoRASection(Settings):
    """`config.lora`."""

    rank: int = setting(REQUIRED, "Of every update.", least=1)
    alpha: float = setting(REQUIRED, "The update is alpha / rank A B.", above=0)
    targets: tuple[str, ...] = setting(REQUIRED, "Projections within a block.")
    dropout: float = setting(0.0, "Of the adapter's inputs, in training.", least=0, below=1)


SECTIONS: dict[str, type] = {
    "record": RecordSection,
    "data": DataSection,
    "filters": Filters,
    "loading": LoadingSection,
    "mesh": MeshSection,
    "vae": VAESection,
    "geometry": GeometrySection,
    "denoiser": DenoiserModuleSection,
    "memory": MemorySection,
    "movers": MoverOptions,
    "text": TextSection,
    "sampling": SamplingSection,
    "evaluation": EvaluationSection,
    "compile": CompileSection,
    "lora": LoRASection,
    "tiny_decoder": TinyDecoderModuleSection,
}
"""Kind of every section that is not of training; an experiment may lack that of movers and
the last two."""

BY_WORLD = {"record": "train_clips", "text": "prompts"}
"""Fields that hold a value for each world."""

_TRAINING = {
    "vae_training": training_sections.EncoderSection,
    "geometry_training": training_sections.GeometryTrainingSection,
    "denoiser_training": training_sections.DenoiserSection,
    "distill_training": training_sections.DistillSection,
    "match_training": training_sections.MatchSection,
    "tiny_decoder_training": training_sections.TinyDecoderSection,
    "guard": Guard,
}


def field_meanings() -> dict[str, str]:
    """Meaning and range of the fields of a config, by their dotted names."""
    found = {**meanings(LoopSettings), **meanings(RunSection)}
    for name, kind in {**SECTIONS, **_TRAINING}.items():
        found |= {f"{name}.{field}": text for field, text in meanings(kind).items()}
    return found
