"""Weights of the Wan 2.1 and 2.2 VAEs to and from parameters of our VideoVAE."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from mirage_jax.convert.placement import (
    Placement,
    Tensors,
    assemble,
    check,
    check_params,
    disassemble,
    shape_of,
    without_prefix,
)
from mirage_jax.convert.vae_names import wan_vae_name
from mirage_jax.nn.video_vae import LatentStats, VideoVAE

# Constants of the released models, per channel: latent = (mu - mean) / std.
_WAN21_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508, 0.4134, -0.0715, 0.5517,
    -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
_WAN21_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743, 3.2687, 2.1526, 2.8652, 1.5579,
    1.6382, 1.1253, 2.8251, 1.916,
)  # fmt: skip
_WAN22_MEAN = (
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813,
    0.0891, 0.157, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108,
    -0.2158, 0.2502, -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.123, -0.0313,
    -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.052, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944,
    0.3573, -0.0548, -0.1681, -0.0667,
)  # fmt: skip
_WAN22_STD = (
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.499, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901,
    0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
    0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944,
    0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.06, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
)  # fmt: skip
_STATS = {
    len(mean): (mean, std) for mean, std in ((_WAN21_MEAN, _WAN21_STD), (_WAN22_MEAN, _WAN22_STD))
}


def released_stats(latent_channels: int) -> LatentStats:
    """Means and standard deviations that normalise latents of Wan 2.1 (16) or Wan 2.2 (48).

    Raises:
      ValueError: for another number of channels, of which no statistics are known.
    """
    if latent_channels not in _STATS:
        raise ValueError(
            f"latent statistics: found a VAE of {latent_channels} channels, expected one of "
            f"{', '.join(map(str, _STATS))}, which Wan 2.1 and 2.2 have"
        )
    mean, std = _STATS[latent_channels]
    return LatentStats(mean=np.asarray(mean, np.float32), std=np.asarray(std, np.float32))


def is_video_vae(tensors: Tensors) -> bool:
    """Whether tensors are a Wan VAE's, in either naming."""
    return any(_is_named(tensors, diffusers) for diffusers in (False, True))


def _is_named(tensors: Tensors, diffusers: bool) -> bool:
    first = wan_vae_name("encoder/conv_in/kernel", blocks=0, nested=True, diffusers=diffusers)
    return first in tensors


def wan_vae_fields(tensors: Tensors) -> dict[str, Any]:
    """Fields of the VideoVAE that `tensors` (either naming) belong to.

    Raises:
      ValueError: if a tensor that fixes a size is missing.
    """
    tensors = without_prefix(tensors)
    diffusers = _is_named(tensors, diffusers=True)
    first = "encoder/down_0_res_0/conv1/kernel"
    nested = wan_vae_name(first, blocks=0, nested=True, diffusers=diffusers) in tensors

    def name(path: str) -> str:
        return wan_vae_name(path, blocks=blocks, nested=nested, diffusers=diffusers)

    def shape(path: str, axes: int = 5) -> tuple[int, ...]:
        return shape_of(tensors, name(path), axes, "a Wan VAE")

    def count(path: str) -> int:
        return next(n for n in itertools.count() if name(path.format(n)) not in tensors)

    blocks = 0  # names of residual blocks do not depend on it, those of resamplings do
    blocks = count("encoder/down_0_res_{}/conv1/kernel")
    levels = count("encoder/down_{}_res_0/conv1/kernel")
    if not (blocks and levels):
        raise ValueError(f"not a Wan VAE: tensor {name(first)!r} is missing")
    width, folded = shape("encoder/conv_in/kernel")[:2]
    outs = [shape(f"encoder/down_{i}_res_0/conv1/kernel")[0] for i in range(levels)]
    return {
        "base_width": width,
        "decoder_width": shape("decoder/norm_out/gamma", 4)[0] // max(outs[0] // width, 1),
        "latent_channels": shape("post_quant/kernel")[0],
        "width_mults": tuple(out // width for out in outs),
        "blocks": blocks,
        "temporal_downsample": tuple(
            name(f"encoder/down_{i}_resample/time_conv/kernel") in tensors
            for i in range(levels - 1)
        ),
        "patch": round((folded / 3) ** 0.5),
        "attention": name("encoder/mid_attention/norm/gamma") in tensors,
        "level_shortcuts": nested,
        "linear_path": False,
    }


@functools.lru_cache
def _shapes(fields: tuple[tuple[str, Any], ...]) -> dict[str, tuple[int, ...]]:
    vae = VideoVAE(**dict(fields))
    try:
        made = jax.eval_shape(
            vae.init,
            jax.random.key(0),
            jnp.zeros((1, 1, *2 * (vae.spatial_stride,), 3), jnp.float32),
        )
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ValueError(f"found sizes that make no VideoVAE: {dict(fields)} ({error})") from error
    flat = flatten_dict(nn.unbox(made)["params"], sep="/")
    return {path: leaf.shape for path, leaf in flat.items()}


def wan_vae_plan(fields: Mapping[str, Any], *, diffusers: bool = False) -> list[Placement]:
    """Where every parameter of `VideoVAE(**fields)` lies in a checkpoint, in either naming.

    Raises:
      ValueError: naming a parameter that Wan has no name for (those of the linear path).
    """
    plan = []
    for path, shape in _shapes(tuple(sorted(fields.items()))).items():
        name = wan_vae_name(
            path, blocks=fields["blocks"], nested=fields["level_shortcuts"], diffusers=diffusers
        )
        tensor_shape, axes = shape, tuple(range(len(shape)))
        if path.endswith("/kernel"):
            # (out, in, time, height, width); 1x1x1 convolutions between encoder, latents and
            # decoder are 2-D here.
            window = (1, *shape[:2]) if path.startswith(("quant", "post_quant")) else shape[:-2]
            tensor_shape = (*shape[:-3:-1], *window)
            axes = (*range(2, len(tensor_shape)), 1, 0)
        elif path.endswith("/gamma"):
            tensor_shape = (*shape, *(1,) * (2 if "attention" in path else 3))
            axes = tuple(range(len(tensor_shape)))
        plan.append(Placement(path, (name,), shape, tensor_shape, axes))
    return plan


def video_vae_plan(tensors: Tensors) -> tuple[dict[str, Any], list[Placement]]:
    """Fields of a VideoVAE and its plan in the naming of `tensors`."""
    fields = wan_vae_fields(tensors)
    return fields, wan_vae_plan(fields, diffusers=_is_named(tensors, diffusers=True))


def from_wan_vae(tensors: Tensors) -> dict[str, Any]:
    """Parameters (unboxed, float32 numpy) of `VideoVAE(**wan_vae_fields(tensors))`.

    Args:
      tensors: arrays by name, in either naming, optionally all under the prefix "model.".

    Raises:
      ValueError: naming tensors that are missing, unknown, of another shape or not finite.
    """
    tensors = without_prefix(tensors)
    _, plan = video_vae_plan(tensors)
    check(plan, tensors, "Wan VAE")
    return assemble(plan, tensors)


def to_wan_vae(params: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Original names and layouts for unboxed `params` of `VideoVAE(**fields)`.

    Raises ValueError for parameters Wan has no name for, or that are not those of the fields.
    """
    flat, plan = flatten_dict(dict(params), sep="/"), wan_vae_plan(fields)
    check_params(plan, flat, "Wan VAE")
    return dict(disassemble(plan, flat))
