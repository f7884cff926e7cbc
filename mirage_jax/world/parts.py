"""What a world model is put together from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mirage_jax.nn.denoiser import Denoiser
from mirage_jax.nn.geometry_head import GeometryHead
from mirage_jax.world.latent_encoder import LatentEncoder


@dataclasses.dataclass(frozen=True)
class Parts:
    """Trained parts.

    Attributes:
      path: where the denoiser came from, for messages.
      encoder: pictures to latents and back.
      denoiser, denoiser_params: the network.
      architecture: what is stored with its weights.
      head, head_params: geometry from latents, if there is one.
    """

    path: Path
    encoder: LatentEncoder
    denoiser: Denoiser
    denoiser_params: dict[str, Any]
    architecture: Mapping[str, Any]
    head: GeometryHead | None = None
    head_params: Any = None
