"""Rotary position embedding over (time, row, column), as in Wan 2.x (interleaved complex pairs)."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mirage_jax.nn.rows import aligned

THETA = 10000.0


def axis_dims(head_dim: int) -> tuple[int, int, int]:
    """Channels of a head that encode (time, row, column): d - 2 (d // 3), d // 3, d // 3.

    Raises:
      ValueError: if a part is odd, since channels rotate in pairs.
    """
    spatial = head_dim // 3
    dims = (head_dim - 2 * spatial, spatial, spatial)
    if head_dim < 6 or any(part % 2 for part in dims):
        near = [d for d in range(6, head_dim + 32) if d // 3 % 2 == 0 and d % 2 == 0]
        near = sorted(sorted(near, key=lambda d: abs(d - head_dim))[:6])
        raise ValueError(
            f"head size (width / heads): found {head_dim}, which splits into {dims} for (time, "
            f"row, column); all three must be even and positive, which the sizes {near} nearby are"
        )
    return dims


def _rotations(positions: np.ndarray, dim: int, theta: float) -> np.ndarray:
    """[n, dim // 2, 2] cosine and sine; float64 because angles reach hundreds of radians."""
    frequencies = theta ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
    angles = np.asarray(positions, np.float64)[:, None] * frequencies
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32)


def rotations(
    times: Sequence[int],
    rows: Sequence[int],
    columns: Sequence[int],
    head_dim: int,
    theta: float = THETA,
) -> Float[Array, "tokens half 2"]:
    """Cosine and sine for every token of a (time, row, column) grid, row-major.

    Only the three small per-axis tables are constants of the compiled program.

    Args:
      times: time index of each latent frame; may be negative (reference frames).
      rows: row index of each patch row.
      columns: column index of each patch column.
      head_dim: channels of one attention head.
      theta: base of the frequencies.

    Raises:
      ValueError: see `axis_dims`.
    """
    axes = [np.asarray(a) for a in (times, rows, columns)]
    shape = tuple(len(a) for a in axes)
    parts = []
    for axis, (positions, dim) in enumerate(zip(axes, axis_dims(head_dim), strict=True)):
        table = jnp.asarray(_rotations(positions, dim, theta))
        lead = [1, 1, 1]
        lead[axis] = len(positions)
        parts.append(jnp.broadcast_to(table.reshape(*lead, dim // 2, 2), (*shape, dim // 2, 2)))
    return jnp.concatenate(parts, axis=-2).reshape(-1, head_dim // 2, 2)


def video_rotations(
    target: int,
    preceding: int,
    reference: int,
    grid: tuple[int, int],
    head_dim: int,
    theta: float = THETA,
) -> Float[Array, "tokens half 2"]:
    """Rotations of the token sequence [reference | target | preceding].

    Target and preceding frames have times 0 .. T+P-1. Reference frames have times -R .. -1 and rows
    shifted by the grid's height, so that a retrieved view is no spatial neighbour of the target
    (arXiv 2606.09828, released code).

    Args:
      target: T, latent frames generated.
      preceding: P, latent frames of the previous chunk.
      reference: R, retrieved latent frames.
      grid: (rows, columns) of patches in a frame.
      head_dim: channels of one attention head.
      theta: base of the frequencies.
    """
    rows, columns = grid
    parts = []
    if reference:
        parts.append(
            rotations(range(-reference, 0), range(rows, 2 * rows), range(columns), head_dim, theta)
        )
    parts.append(rotations(range(target + preceding), range(rows), range(columns), head_dim, theta))
    return jnp.concatenate(parts, axis=0)


def rotate(
    x: Float[Array, "*b heads d"], table: Float[Array, "*tokens half 2"]
) -> Float[Array, "*b heads d"]:
    """Rotates channel pairs (0, 1), (2, 3), ... of each head; computed in float32.

    The token axes of the table are the last of the leading axes of x.
    """
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], x.shape[-1] // 2, 2)
    real, imaginary = pairs[..., 0], pairs[..., 1]
    table = jnp.expand_dims(table, -3)
    cosine, sine = (aligned(table[..., i], real) for i in range(2))
    rotated = jnp.stack(
        [real * cosine - imaginary * sine, real * sine + imaginary * cosine], axis=-1
    )
    return rotated.reshape(x.shape).astype(x.dtype)
