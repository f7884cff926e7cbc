"""Principal components of video patches: where the linear path of the VAE starts.

Among all linear codes of a patch with C numbers the first C principal components reconstruct best.
Two bases are needed, for the 1-frame patch under the first latent and for the group of frames
under every later one. Rotating a code does not change what it reconstructs, so the rotation of the
second is chosen such that the latent of a group resembles the latent of its last frame alone.

Host side, numpy only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from einops import rearrange
from jaxtyping import Float, Shaped

Weights = dict[str, dict[str, np.ndarray]]


def pca_linear_path(
    video: Shaped[np.ndarray, "n t height width 3"],
    *,
    latent_channels: int,
    spatial_stride: int,
    temporal_stride: int,
    power: float = 1.0,
    align: bool = True,
    max_patches: int = 60_000,
    seed: int = 0,
) -> Weights:
    """Weights of the linear path from a sample of clips.

    Args:
      video: uint8, or float in [-1, 1]; T at least `temporal_stride`. Groups are taken at every
        offset in time, on the grid of latent cells in space.
      latent_channels: components kept; at most the 3 * `spatial_stride`**2 values of a patch.
      power: components are divided by std**power: 1 whitens (each channel gets variance 1), 0
        keeps principal values, .5 lies between.
      align: rotate the code of groups towards the code of their last frame.
      max_patches: patches drawn (with `seed`) for each of the two bases.

    Returns:
      `{"linear_encoder": ..., "linear_decoder": ...}` as float32, for `with_linear_path`.

    Raises:
      ValueError: the sample is too small, or sizes do not fit.
    """
    n, t, height, width = video.shape[:4]
    size = spatial_stride
    if height % size or width % size:
        raise ValueError(f"video is {height}x{width} pixels; expected multiples of {size}")
    if t < temporal_stride:
        raise ValueError(f"video has {t} frames; expected at least {temporal_stride} for a group")
    if latent_channels > 3 * size**2:
        raise ValueError(
            f"latent_channels is {latent_channels}; a patch of {size}x{size} pixels has "
            f"{3 * size**2} values"
        )
    rng = np.random.default_rng(seed)
    starts = t - temporal_stride + 1
    cells = (height // size) * (width // size)
    total = n * starts * cells
    chosen = np.sort(rng.choice(total, min(total, max_patches), replace=False))
    if chosen.size <= latent_channels:
        raise ValueError(f"video has {total} patches; expected more than {latent_channels}")
    grid = rearrange(video, "n t (h q) (w r) c -> (h w) n t (q r c)", q=size, r=size)
    cell, clip, start = np.unravel_index(chosen, (cells, n, starts))
    frames = start[:, None] + np.arange(temporal_stride)
    groups = grid[cell[:, None], clip[:, None], frames]
    if groups.dtype == np.uint8:
        groups = groups.astype(np.float32) / 127.5 - 1.0
    images = groups[:, -1].astype(np.float32)
    groups = groups.reshape(len(groups), -1).astype(np.float32)

    image_code, image_basis, image_mean = _principal(images, latent_channels, power)
    group_code, group_basis, group_mean = _principal(groups, latent_channels, power)
    if align:
        cross = ((groups - group_mean) @ group_code).T @ ((images - image_mean) @ image_code)
        left, _, right = np.linalg.svd(cross.astype(np.float64))
        rotation = (left @ right).astype(np.float32)
        group_code, group_basis = group_code @ rotation, rotation.T @ group_basis
    return {
        "linear_encoder": {
            "image_kernel": image_code,
            "image_bias": -image_mean @ image_code,
            "group_kernel": group_code,
            "group_bias": -group_mean @ group_code,
        },
        "linear_decoder": {
            "image_kernel": image_basis,
            "image_bias": image_mean,
            "group_kernel": group_basis,
            "group_bias": group_mean,
        },
    }


def _principal(
    patches: Float[np.ndarray, "n d"], count: int, power: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Encoder [d, count], decoder [count, d] and mean [d] of the first principal components."""
    mean = patches.mean(axis=0, dtype=np.float64).astype(np.float32)
    centred = patches - mean
    covariance = (centred.T @ centred).astype(np.float64) / len(patches)
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[::-1][:count], vectors[:, ::-1][:, :count]
    # A component without variance (a flat sample) must not be blown up.
    scale = np.sqrt(np.maximum(values, 1e-6 * max(float(values[0]), 1e-6))) ** power
    encode, decode = vectors / scale, (vectors * scale).T
    return encode.astype(np.float32), decode.astype(np.float32), mean


def with_linear_path(params: Mapping[str, Any], weights: Weights) -> dict[str, Any]:
    """`params` of a VideoVAE with the tensors of its linear path replaced by `weights`.

    Boxed (logically partitioned) parameters stay boxed.

    Raises:
      ValueError: if the parameters have no linear path, or a shape does not fit.
    """
    result = dict(params)
    for module, tensors in weights.items():
        if module not in params:
            raise ValueError(
                f"params have no {module!r}; expected a VideoVAE with linear_path=True"
            )
        result[module] = dict(params[module])
        for name, value in tensors.items():
            old = params[module][name]
            boxed = hasattr(old, "replace_boxed")
            shape = old.unbox().shape if boxed else old.shape
            if shape != value.shape:
                raise ValueError(f"{module}/{name} has shape {value.shape}; expected {shape}")
            result[module][name] = old.replace_boxed(value) if boxed else value
    return result
