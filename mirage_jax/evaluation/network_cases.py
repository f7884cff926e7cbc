"""Denoisers and video VAEs to measure, by name, from tiny to the released sizes.

`RECORDED_MS` holds what PyTorch took for some of them when this project was planned: float32, batch
1, two CPU cores. Those runs are not repeated here, so a ratio to them compares two machines too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mirage_jax.convert.presets import MIRAGE_5B, WAN21_VAE, WAN22_TI2V_5B, WAN22_VAE


@dataclasses.dataclass(frozen=True)
class DenoiserCase:
    """A denoiser and what it is given, batch 1.

    Attributes:
      fields: of `Denoiser`.
      latents: target frames, rows and columns.
      references: retrieved latent frames.
      precedings: latent frames of the previous chunk.
      text_tokens: of the prompt.
    """

    fields: Mapping[str, Any]
    latents: tuple[int, int, int]
    references: int = 0
    precedings: int = 0
    text_tokens: int = 512


@dataclasses.dataclass(frozen=True)
class VAECase:
    """A video VAE and the frames, height and width of its clip, batch 1."""

    fields: Mapping[str, Any]
    video: tuple[int, int, int]


def _small_dit(heads: int, mlp_width: int, depth: int) -> dict[str, Any]:
    size = {"width": 128 * heads, "heads": heads, "mlp_width": mlp_width, "depth": depth}
    return {**WAN22_TI2V_5B, **size, "text_width": 512, "remat": "elementwise"}


_WAN21_1_3B = {
    **WAN22_TI2V_5B,
    "width": 1536,
    "heads": 12,
    "mlp_width": 8960,
    "in_channels": 16,
    "out_channels": 16,
}
_TINY_DIT = {**_small_dit(1, 256, 2), "in_channels": 16, "out_channels": 16}
_5B = (9, 44, 80)

DENOISERS: dict[str, DenoiserCase] = {
    "tiny": DenoiserCase(_TINY_DIT, (5, 8, 8), text_tokens=16),
    "10m": DenoiserCase(_small_dit(2, 1152, 8), (9, 16, 16)),
    "47m": DenoiserCase(_small_dit(4, 2304, 10), (9, 16, 16)),
    "1.3b": DenoiserCase(_WAN21_1_3B, (9, 60, 104)),
    "5b": DenoiserCase(WAN22_TI2V_5B, _5B),
    "5b_frames": DenoiserCase(WAN22_TI2V_5B, _5B, references=4, precedings=2),
    "5b_branch": DenoiserCase(MIRAGE_5B, _5B, references=4, precedings=2),
}
"""The last three: alone, with 4 reference and 2 preceding frames, and with the branch as well."""

_SMALL = (33, 128, 128)

VAES: dict[str, VAECase] = {
    "tiny": VAECase(
        {**WAN22_VAE, "base_width": 4, "decoder_width": 4, "latent_channels": 8, "blocks": 1},
        (5, 32, 32),
    ),
    "wan22_small": VAECase({**WAN22_VAE, "base_width": 16, "decoder_width": 24}, _SMALL),
    "wan21_small": VAECase({**WAN21_VAE, "base_width": 16, "decoder_width": 16}, _SMALL),
    "wan21": VAECase(WAN21_VAE, (33, 480, 832)),
    "wan22": VAECase(WAN22_VAE, (33, 704, 1280)),
}

RECORDED_MS: dict[str, dict[str, dict[str, float]]] = {
    "denoiser": {
        "10m": {"forward": 107, "forward_backward": 339},
        "47m": {"forward": 430, "forward_backward": 1319},
    },
    "vae": {
        "wan22_small": {"encode": 474, "decode": 2129},
        "wan21_small": {"encode": 3562, "decode": 6724},
    },
}
"""Subject -> case -> pass -> milliseconds that PyTorch took, recorded in another run."""
