"""Attention of tokens that are split over devices, by splitting the heads instead meanwhile.

Each device trades the rest of its heads for the rest of the tokens of its share of heads
(all-to-all), runs any kernel on whole sequences, and trades back (DeepSpeed-Ulysses, arXiv
2309.14509). Every device sends and receives its tokens once each way, whatever their number.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
from jaxtyping import Array, Bool, Float

from mirage_jax.nn.attention.placement import CONTEXT, Placement, flat, key_mask, pad_cells


def fits(place: Placement) -> bool:
    """Whether the heads of a device divide among those that share a sample."""
    return place.heads_here % place.parts == 0


def attend(
    q: Float[Array, "b *n heads d"],
    k: Float[Array, "b *n heads d"],
    v: Float[Array, "b *n heads d"],
    place: Placement,
    kernel: Callable[..., Array],
    frame_mask: Bool[Array, "b f"] | None = None,
) -> Float[Array, "b *n heads d"]:
    """Self-attention by `kernel`, which gets all tokens and a share of the heads.

    Frames outside `frame_mask` are no keys.

    Raises:
      ValueError: if the heads do not divide.
    """
    if not fits(place):
        raise ValueError(
            f"attention backend ulysses: found {place.heads_here} heads per device, expected a "
            f"multiple of {place.parts} (mesh axis {CONTEXT}); use ring"
        )
    cells = q.shape[-3]

    def local(q: Array, k: Array, v: Array, frame_mask: Array | None) -> Array:
        def whole_sequence(x: Array) -> Array:
            x = jax.lax.all_to_all(x, CONTEXT, x.ndim - 2, x.ndim - 3, tiled=True)
            return x[..., :cells, :, :]

        q, k, v = whole_sequence(q), whole_sequence(k), whole_sequence(v)
        out = kernel(flat(q), flat(k), flat(v), key_mask(frame_mask, k)).reshape(q.shape)
        out = pad_cells(out, -cells % place.parts)
        return jax.lax.all_to_all(out, CONTEXT, out.ndim - 3, out.ndim - 2, tiled=True)

    return place.run(local, q, k, v, frame_mask, keys_split=True)
