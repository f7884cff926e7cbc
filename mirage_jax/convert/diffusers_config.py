"""The config.json with which diffusers builds the module that tensors belong to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mirage_jax.nn.video_vae import LatentStats


def transformer_config(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Of WanTransformer3DModel or, with a branch, WanVACETransformer3DModel."""
    config = {
        "_class_name": "WanTransformer3DModel",
        "patch_size": list(fields["patch"]),
        "num_attention_heads": fields["heads"],
        "attention_head_dim": fields["width"] // fields["heads"],
        "in_channels": fields["in_channels"],
        "out_channels": fields["out_channels"],
        "text_dim": fields["text_width"],
        "freq_dim": fields["freq_width"],
        "ffn_dim": fields["mlp_width"],
        "num_layers": fields["depth"],
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "eps": 1e-6,
        "image_dim": None,
        "added_kv_proj_dim": None,
        "rope_max_seq_len": 1024,
        "pos_embed_seq_len": None,
    }
    if fields["branch_layers"]:
        config["_class_name"] = "WanVACETransformer3DModel"
        config["vace_layers"] = list(fields["branch_layers"])
        config["vace_in_channels"] = fields["memory_channels"]
    return config


def vae_config(fields: Mapping[str, Any], stats: LatentStats) -> dict[str, Any]:
    """Of AutoencoderKLWan."""
    halvings, patch = fields["temporal_downsample"], fields["patch"]
    return {
        "_class_name": "AutoencoderKLWan",
        "base_dim": fields["base_width"],
        "decoder_base_dim": fields["decoder_width"],
        "z_dim": fields["latent_channels"],
        "dim_mult": list(fields["width_mults"]),
        "num_res_blocks": fields["blocks"],
        "attn_scales": [],
        "temperal_downsample": list(halvings),
        "dropout": 0.0,
        "latents_mean": _shortest(stats.mean),
        "latents_std": _shortest(stats.std),
        "is_residual": fields["level_shortcuts"],
        "in_channels": 3 * patch**2,
        "out_channels": 3 * patch**2,
        "patch_size": patch if patch > 1 else None,
        "scale_factor_temporal": 2 ** sum(halvings),
        "scale_factor_spatial": patch * 2 ** len(halvings),
    }


def _shortest(values: Any) -> list[float]:
    """The shortest decimals that are these float32 values: 0.1, not 0.10000000149."""
    return [float(str(value)) for value in np.asarray(values, np.float32)]
