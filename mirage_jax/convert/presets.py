"""Sizes of the released models, as fields of our modules."""

from __future__ import annotations

from typing import Any

WAN22_TI2V_5B: dict[str, Any] = {
    "width": 3072,
    "depth": 30,
    "heads": 24,
    "mlp_width": 14336,
    "in_channels": 48,
    "out_channels": 48,
    "patch": (1, 2, 2),
    "text_width": 4096,
    "freq_width": 256,
    "memory_channels": 0,
    "memory_hint": False,
    "branch_layers": (),
}
"""`Denoiser` of Wan2.2-TI2V-5B (arXiv 2503.20314)."""

MIRAGE_5B: dict[str, Any] = {
    **WAN22_TI2V_5B,
    "memory_channels": 96,
    "branch_layers": tuple(range(0, 30, 2)),
}
"""The same with the control branch of Mirage's release: 15 layers, read-out and score latent."""

SPATIA_5B: dict[str, Any] = {**MIRAGE_5B, "branch_layers": tuple(range(0, 30, 4))}
"""The same with the 8-layer branch of Spatia and of Mirage's paper (arXiv 2606.09828)."""

DENOISERS = {"wan22_ti2v_5b": WAN22_TI2V_5B, "mirage_5b": MIRAGE_5B, "spatia_5b": SPATIA_5B}

SCORE = "score"
"""Layout of the context (see `conditioners.LAYOUTS`) of Mirage's branches and of Spatia's."""

WAN22_VAE: dict[str, Any] = {
    "base_width": 160,
    "decoder_width": 256,
    "latent_channels": 48,
    "width_mults": (1, 2, 4, 4),
    "blocks": 2,
    "temporal_downsample": (False, True, True),
    "patch": 2,
    "attention": True,
    "level_shortcuts": True,
    "linear_path": False,
}
"""`VideoVAE` of Wan2.2_VAE."""

WAN21_VAE: dict[str, Any] = {
    **WAN22_VAE,
    "base_width": 96,
    "decoder_width": 96,
    "latent_channels": 16,
    "patch": 1,
    "level_shortcuts": False,
}
"""`VideoVAE` of Wan2.1_VAE."""
