"""How a world model is run: options that configs, presets, weights and commands share."""

from __future__ import annotations

import dataclasses
from typing import Any

from mirage_jax.chunks import latents_of_frames
from mirage_jax.diffusion.samplers import KINDS, METHODS
from mirage_jax.memory.fusion import FusionOptions
from mirage_jax.settings import Settings, setting

CHOICES = ("coverage", "voxels")
"""How reference frames are chosen: `retrieval.retrieve` or `frustum_voxels.choose`."""


@dataclasses.dataclass(frozen=True)
class SamplerOptions(Settings):
    """How the latents of a chunk are sampled, see `sampling.sample_chunk`."""

    steps: int = setting(4, "Steps of the solver.", least=1)
    shift: float = setting(1.0, "Of the noise levels: s' = shift s / (1 + (shift - 1) s).", above=0)
    method: str = setting(
        "euler",
        "Solver; staggered denoises latents one after the other.",
        choices=(*METHODS, "staggered"),
    )
    schedule: str = setting("uniform", "Noise levels.", choices=KINDS)
    cfg_scale: float = setting(1.0, "Classifier-free guidance by the text; 1 = none.", least=0)
    memory_scale: tuple[float, ...] = setting(
        (),
        "Factors on what the memory branch adds to the denoiser's layers: one for all, or one each "
        "for those that have a branch; none = 1.",
    )


@dataclasses.dataclass(frozen=True)
class MemoryOptions(Settings):
    """How the memory of a world is made and written."""

    capacity: int = setting(4096, "Elements that a new world's memory can hold.", least=1)
    reencode: bool = setting(
        False,
        "Write each keyframe decoded and encoded alone, as the paper does, instead of the "
        "image-mode tokens that the geometry head predicts from the clip's latents.",
    )
    clip_tokens: bool = setting(
        False, "Write the latents of the clip as they are, as the released code does."
    )
    static_only: bool = setting(True, "Leave out what the head or a depth estimator finds moving.")
    depth_resize: str = setting("median", "From pixels to cells.", choices=("median", "bilinear"))
    sky_depth: float = setting(200.0, "Metres at which sky is remembered.", above=0)
    rewrite_first: bool = setting(
        False,
        "Write the first picture once more with the first chunk; it may be a reference frame "
        "only from then on.",
    )
    fuse: bool = setting(
        True,
        "Store what the memory shows already not again, forget what frames look through, and when "
        "it is full what is worth least; else all is appended until it is full. Needs cells "
        "`centre` and a choice of references other than `voxels`, which counts elements by slot.",
    )
    fuse_histories: bool = setting(
        False,
        "Whether that holds for true histories too, in training and where returns are scored.",
    )
    match: float = setting(
        0.15,
        "Where memories are fused: distance within which cells are the same, in cells.",
        above=0,
        most=1,
    )

    def fusion(self, context_frames: ContextFrameOptions) -> FusionOptions | None:
        """How what is written is fused with the memory; None where it is appended."""
        by_slot = bool(context_frames) and context_frames.choice == "voxels"
        return FusionOptions(match=self.match) if self.fuse and not by_slot else None

    def history_fusion(self, context_frames: ContextFrameOptions) -> FusionOptions | None:
        """How true histories are fused; None where they are appended."""
        return self.fusion(context_frames) if self.fuse_histories else None


@dataclasses.dataclass(frozen=True)
class ContextFrameOptions(Settings):
    """How many earlier frames a chunk is denoised beside: the denoiser's context frames."""

    references: int = setting(0, "Frames of any age that saw what the chunk will show.", least=0)
    preceding: int = setting(0, "Frames at the end of the chunk before.", least=0)
    choice: str = setting("coverage", "How references are chosen.", choices=CHOICES)

    def __bool__(self) -> bool:
        return self.references > 0 or self.preceding > 0

    @property
    def preceding_latents(self) -> int:
        """Latents of the preceding frames where they are encoded as a clip of their own.

        Raises:
          ValueError: unless `preceding` is 0 or 1 + 4 n.
        """
        return latents_of_frames(self.preceding) if self.preceding else 0


def check_options(holder: Any) -> None:
    """Raises ValueError, naming the field, if a model holds something else than its options."""
    kinds = {
        "sampler": SamplerOptions,
        "memory": MemoryOptions,
        "context_frames": ContextFrameOptions,
    }
    for name, kind in kinds.items():
        found = getattr(holder, name)
        if not isinstance(found, kind):
            raise ValueError(
                f"{name}: found {found!r}, expected {kind.__name__}; "
                f"dataclasses.replace(model.{name}, NAME=VALUE) is one with a field changed"
            )
