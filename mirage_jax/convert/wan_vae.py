"""Wan 2.2 VAE weights (original tensor names) to and from parameters of our VideoVAE."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from mirage_jax.nn.video_vae import LatentStats

# Constants of the released model, per channel: latent = (mu - mean) / std.
_LATENTS_MEAN = (
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813,
    0.0891, 0.157, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108,
    -0.2158, 0.2502, -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.123, -0.0313,
    -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.052, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944,
    0.3573, -0.0548, -0.1681, -0.0667,
)  # fmt: skip
_LATENTS_STD = (
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.499, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901,
    0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
    0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944,
    0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.06, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
)  # fmt: skip

# Ours -> theirs; the number after "res_" or "up_" fills the braces.
_MODULES = (
    (r"(encoder|decoder)/conv_in", "{0}.conv1"),
    (r"(encoder|decoder)/norm_out", "{0}.head.0"),
    (r"(encoder|decoder)/conv_out", "{0}.head.2"),
    (r"(encoder|decoder)/mid_attention/(norm|qkv|proj)", "{0}.middle.1.{1}"),
    (r"(encoder|decoder)/mid_res_0/(\w+)", "{0}.middle.0.{1}"),
    (r"(encoder|decoder)/mid_res_1/(\w+)", "{0}.middle.2.{1}"),
    (r"encoder/down_(\d+)_res_(\d+)/(\w+)", "encoder.downsamples.{0}.downsamples.{1}.{2}"),
    (r"decoder/up_(\d+)_res_(\d+)/(\w+)", "decoder.upsamples.{0}.upsamples.{1}.{2}"),
    (r"encoder/down_(\d+)_resample/(\w+)", "encoder.downsamples.{0}.downsamples.{blocks}.{1}"),
    (r"decoder/up_(\d+)_resample/(\w+)", "decoder.upsamples.{0}.upsamples.{up_blocks}.{1}"),
    (r"quant", "conv1"),
    (r"post_quant", "conv2"),
)
_LAYERS = {
    "norm1": "residual.0",
    "conv1": "residual.2",
    "norm2": "residual.3",
    "conv2": "residual.6",
    "conv": "resample.1",
    "qkv": "to_qkv",
}
_LEAVES = {"kernel": "weight", "bias": "bias", "gamma": "gamma"}
_PREFIXES = ("model.", "module.", "vae.")


def wan22_stats() -> LatentStats:
    """The 48 means and standard deviations that normalise latents of the released Wan 2.2 VAE."""
    return LatentStats(
        mean=np.asarray(_LATENTS_MEAN, np.float32), std=np.asarray(_LATENTS_STD, np.float32)
    )


def wan_vae_fields(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the VideoVAE that ``tensors`` (original names) belong to.

    Raises:
      ValueError: a tensor that tells a size is missing.
    """
    tensors = _without_prefix(tensors)

    def shape(name: str) -> tuple[int, ...]:
        if name not in tensors:
            raise ValueError(f"not a Wan 2.2 VAE: tensor {name!r} is missing")
        return tuple(tensors[name].shape)

    def count(pattern: str) -> int:
        found = [int(m[1]) for m in map(re.compile(pattern).match, tensors) if m]
        return max(found, default=-1) + 1

    width, folded = shape("encoder.conv1.weight")[:2]
    levels = count(r"encoder\.downsamples\.(\d+)\.")
    level = "encoder.downsamples.{}.downsamples.{}"
    blocks = count(r"encoder\.downsamples\.0\.downsamples\.(\d+)\.residual\.")
    outs = [shape(level.format(i, 0) + ".residual.2.weight")[0] for i in range(levels)]
    return {
        "base_width": width,
        "decoder_width": shape("decoder.head.0.gamma")[0] // (outs[0] // width),
        "latent_channels": shape("conv2.weight")[0],
        "width_mults": tuple(out // width for out in outs),
        "blocks": blocks,
        "temporal_downsample": tuple(
            level.format(i, blocks) + ".time_conv.weight" in tensors for i in range(levels - 1)
        ),
        "patch": round((folded / 3) ** 0.5),
        "attention": "encoder.middle.1.norm.gamma" in tensors,
        "linear_path": False,
    }


def from_wan_vae(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters (unboxed, float32 numpy) of ``VideoVAE(**wan_vae_fields(tensors))``.

    Args:
      tensors: arrays by original tensor name, optionally all under the prefix "model.".

    Raises:
      ValueError: a tensor has no place in the model, or is missing.
    """
    tensors = _without_prefix(tensors)
    fields = wan_vae_fields(tensors)
    flat: dict[str, np.ndarray] = {}
    used = set()
    for path in _paths(fields):
        name = _their_name(path, fields["blocks"])
        if name not in tensors:
            raise ValueError(f"not a complete Wan 2.2 VAE: tensor {name!r} is missing")
        used.add(name)
        value = np.asarray(tensors[name], np.float32)
        if path.endswith("/kernel"):
            value = np.moveaxis(value, (0, 1), (-1, -2))
            # 1x1x1 convolutions outside of residual blocks are 2-D here.
            value = value[0] if path in ("quant/kernel", "post_quant/kernel") else value
        flat[path] = value.reshape(-1) if path.endswith("/gamma") else np.ascontiguousarray(value)
    unknown = sorted(set(tensors) - used)
    if unknown:
        raise ValueError(f"tensor {unknown[0]!r} (of {len(unknown)}) has no place in a VideoVAE")
    return unflatten_dict(flat, sep="/")


def to_wan_vae(params: Mapping[str, Any], blocks: int) -> dict[str, np.ndarray]:
    """Original names and layouts for unboxed ``params`` of a VideoVAE without linear path.

    ``blocks`` is the field of the model. Raises ValueError for parameters Wan has no name for.
    """
    result = {}
    for path, leaf in flatten_dict(dict(params), sep="/").items():
        name, value = _their_name(path, blocks), np.asarray(leaf, np.float32)
        if path.endswith("/kernel"):
            value = value[None] if path in ("quant/kernel", "post_quant/kernel") else value
            value = np.moveaxis(value, (-1, -2), (0, 1))
        elif path.endswith("/gamma"):
            value = value.reshape(-1, *(1,) * (2 if "attention" in path else 3))
        result[name] = np.ascontiguousarray(value)
    return result


def _without_prefix(tensors: Mapping[str, Any]) -> dict[str, Any]:
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            return {name.removeprefix(prefix): value for name, value in tensors.items()}
    return dict(tensors)


def _paths(fields: Mapping[str, Any]) -> list[str]:
    """Every parameter path of the VideoVAE with these fields, without building it."""
    conv, mults = ("kernel", "bias"), fields["width_mults"]
    paths = [f"{m}/{leaf}" for m in ("quant", "post_quant") for leaf in conv]

    def residual(at: str, widens: bool) -> None:
        layers = ("conv1", "conv2", "shortcut") if widens else ("conv1", "conv2")
        paths.extend(f"{at}/{layer}/{leaf}" for layer in layers for leaf in conv)
        paths.extend(f"{at}/{norm}/gamma" for norm in ("norm1", "norm2"))

    def level(at: str, count: int, widens: bool, resample: bool, time: bool) -> None:
        for j in range(count):
            residual(f"{at}_res_{j}", widens and j == 0)
        layers = ("conv", "time_conv")[: resample + time]
        paths.extend(f"{at}_resample/{layer}/{leaf}" for layer in layers for leaf in conv)

    for part in ("encoder", "decoder"):
        paths.extend(f"{part}/{m}/{leaf}" for m in ("conv_in", "conv_out") for leaf in conv)
        paths.append(f"{part}/norm_out/gamma")
        for j in range(2):
            residual(f"{part}/mid_res_{j}", False)
        if fields["attention"]:
            paths.append(f"{part}/mid_attention/norm/gamma")
            at = f"{part}/mid_attention"
            paths.extend(f"{at}/{layer}/{leaf}" for layer in ("qkv", "proj") for leaf in conv)
        down = fields["temporal_downsample"]
        if part == "encoder":
            widths, times, prefix, count = (1, *mults), (*down, False), "down", fields["blocks"]
        else:
            widths = (mults[-1], *mults[::-1])
            times, prefix, count = (*down[::-1], False), "up", fields["blocks"] + 1
        for i, time in enumerate(times):
            resample = i < len(mults) - 1
            level(f"{part}/{prefix}_{i}", count, widths[i] != widths[i + 1], resample, time)
    return paths


def _their_name(path: str, blocks: int) -> str:
    module, _, leaf = path.rpartition("/")
    for pattern, template in _MODULES:
        match = re.fullmatch(pattern, module)
        if match and leaf in _LEAVES:
            groups = [_LAYERS.get(group, group) for group in match.groups()]
            name = template.format(*groups, blocks=blocks, up_blocks=blocks + 1)
            return f"{name}.{_LEAVES[leaf]}"
    raise ValueError(f"parameter {path!r} has no counterpart in a Wan 2.2 VAE")
