"""What the layers of a VideoVAE are called in Wan's checkpoints and in diffusers.

Wan 2.2 nests the blocks of a level ("downsamples.1.downsamples.0"), Wan 2.1 numbers blocks and
resamplings of all levels in one row ("downsamples.3"); diffusers keeps that row in the encoder
alone.
"""

from __future__ import annotations

import re

_LEAVES = {"kernel": "weight", "bias": "bias", "gamma": "gamma"}
# Ours -> (original, diffusers).
_ENDS = {
    "conv_in": ("conv1", "conv_in"),
    "norm_out": ("head.0", "norm_out"),
    "conv_out": ("head.2", "conv_out"),
    "mid_res_0": ("middle.0", "mid_block.resnets.0"),
    "mid_attention": ("middle.1", "mid_block.attentions.0"),
    "mid_res_1": ("middle.2", "mid_block.resnets.1"),
}
_BETWEEN = {"quant": ("conv1", "quant_conv"), "post_quant": ("conv2", "post_quant_conv")}
_LAYERS = {
    "norm1": ("residual.0", "norm1"),
    "conv1": ("residual.2", "conv1"),
    "norm2": ("residual.3", "norm2"),
    "conv2": ("residual.6", "conv2"),
    "shortcut": ("shortcut", "conv_shortcut"),
    "conv": ("resample.1", "resample.1"),
    "time_conv": ("time_conv", "time_conv"),
    "norm": ("norm", "norm"),
    "qkv": ("to_qkv", "to_qkv"),
    "proj": ("proj", "proj"),
}
_BLOCK = re.compile(r"(down|up)_(\d+)_(?:res_(\d+)|resample)")


def wan_vae_name(path: str, *, blocks: int, nested: bool, diffusers: bool) -> str:
    """The tensor that holds a parameter of a VideoVAE.

    Args:
      path: of the parameter, "encoder/down_0_res_1/conv1/kernel".
      blocks: residual blocks per level of the encoder.
      nested: whether blocks are nested in levels (Wan 2.2) or in one row (Wan 2.1).
      diffusers: whether the name is diffusers' or Wan's own.

    Raises:
      ValueError: if there is no such tensor.
    """
    *modules, leaf = path.split("/")
    named = _modules(modules, blocks, nested, diffusers)
    if named is None or leaf not in _LEAVES:
        raise ValueError(f"parameter {path!r} has no counterpart in a Wan VAE")
    return f"{named}.{_LEAVES[leaf]}"


def _modules(modules: list[str], blocks: int, nested: bool, diffusers: bool) -> str | None:
    if len(modules) == 1 and modules[0] in _BETWEEN:
        return _BETWEEN[modules[0]][diffusers]
    if not 2 <= len(modules) <= 3 or modules[0] not in ("encoder", "decoder"):
        return None
    part, block, *layer = modules
    match = _BLOCK.fullmatch(block)
    if match:
        level, number = int(match[2]), None if match[3] is None else int(match[3])
        named = _block(match[1], level, number, blocks, nested, diffusers)
    elif block in _ENDS:
        named = _ENDS[block][diffusers]
    else:
        return None
    if not layer:
        return f"{part}.{named}"
    return f"{part}.{named}.{_LAYERS[layer[0]][diffusers]}" if layer[0] in _LAYERS else None


def _block(
    way: str, level: int, number: int | None, blocks: int, nested: bool, diffusers: bool
) -> str:
    """A residual block or, where `number` is None, the resampling after the last."""
    count = blocks if way == "down" else blocks + 1
    place = count if number is None else number
    in_row = level * (count + 1) + place
    if not diffusers:
        steps = f"{way}samples"
        return f"{steps}.{level}.{steps}.{place}" if nested else f"{steps}.{in_row}"
    if way == "down" and not nested:
        return f"down_blocks.{in_row}"
    resampling = f"{way}sampler" if nested else f"{way}samplers.0"
    return f"{way}_blocks.{level}.{resampling if number is None else f'resnets.{number}'}"
