"""The one attention function: picks the kernel, and how tokens that are split over devices meet."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
from jaxtyping import Array, Bool, Float

from mirage_jax.nn.attention import chunked, cudnn, placement, ring, splash, tokamax, ulysses, xla

KERNELS: dict[str, Callable[..., Array]] = {
    "xla": xla.attend,
    "chunked": chunked.attend,
    "cudnn": cudnn.attend,
    "splash": splash.attend,
    "tokamax": tokamax.attend,
}
"""What computes attention on one device."""

# The compiler cannot split these over devices by itself.
_OPAQUE = ("cudnn", "splash", "tokamax")
# Largest number of scores of one batch element that "auto" still lets XLA materialise.
_SCORES_LIMIT = 64 * 2**20
# Splash pads to blocks of 128 at least; shorter sequences would be mostly padding.
_SPLASH_MIN = 256


def attention(
    q: Float[Array, "b *n heads d"],
    k: Float[Array, "b *m heads d"],
    v: Float[Array, "b *m heads d"],
    *,
    frame_mask: Bool[Array, "b f"] | None = None,
    backend: str = "auto",
    chunk: int = 512,
    keys_split: bool = True,
) -> Float[Array, "b *n heads d"]:
    """Softmax attention, softmax(q k^T / sqrt(d)) v; logits in float32.

    Where the mesh in force (`jax.set_mesh`) has a `context` axis larger than one, the last token
    axis is taken to be split over it.

    Args:
      q: queries; tokens may have several axes.
      k: keys.
      v: values.
      frame_mask: which frames of the keys are present, at least one of a sample; the token axes
        are [frames, cells] then. None for all.
      backend: a kernel: "xla" materialises the scores; "chunked" walks over the keys with a running
        softmax, so that memory is linear in the tokens, also backwards; "cudnn" is the fused NVIDIA
        kernel (bfloat16 or float16 only), "splash" the TPU one, "tokamax" that of the package.
        Or how split tokens meet: "ulysses" (by the best kernel, or "ulysses:KERNEL") trades heads
        for tokens; "ring" passes keys around. On a mesh that splits no tokens those two are their
        kernel alone, for ring "chunked". "auto": for split tokens ulysses where the heads divide,
        else ring; as kernel cudnn or splash where they can run, xla for short sequences, chunked
        otherwise. With a kernel by name each device gathers all keys for its own queries.
      chunk: keys per step of "chunked" and "ring".
      keys_split: whether keys are split over devices as queries are, as in self-attention; False
        for a few that every device has, such as text.

    Raises:
      ValueError: if the backend is unknown or does not take these arrays.
      ImportError: if it is not installed.
    """
    scheme, name = _parse(backend)
    place = placement.current(q)
    split = place is not None and place.parts > 1 and keys_split
    if scheme == "auto":
        scheme = "" if place is None or not split else _scheme(place)
    if scheme == "ring":
        if place is not None and split:
            return ring.attend(q, k, v, place, frame_mask, chunk=chunk)
        name = "chunked"
    if name == "auto":
        heads = q.shape[-2] if place is None else place.heads_here
        if place is not None and scheme == "ulysses" and split:
            heads //= place.parts
        name = _kernel(q, k, heads)
    kernel = KERNELS[name]
    if name == "chunked":
        kernel = functools.partial(kernel, chunk=chunk)
    if scheme == "ulysses" and place is not None and split:
        return ulysses.attend(q, k, v, place, kernel, frame_mask)

    def local(q: Array, k: Array, v: Array, frame_mask: Array | None) -> Array:
        flat = (placement.flat(x) for x in (q, k, v))
        out = kernel(*flat, placement.key_mask(frame_mask, k))
        return out.reshape(q.shape)

    # To the compiler, making one axis of frames and split cells would mean gathering them.
    if place is not None and (name in _OPAQUE or place.parts > 1):
        return place.run(local, q, k, v, frame_mask, keys_split=False)
    return local(q, k, v, frame_mask)


def check_backend(backend: str) -> None:
    """Raises ValueError if there is no attention backend of that name."""
    _parse(backend)


def _parse(backend: str) -> tuple[str, str]:
    """(how split tokens meet: "auto", "ulysses", "ring" or "" for no way of ours; kernel)."""
    scheme, _, kernel = backend.partition(":")
    if backend in ("auto", "ulysses", "ring"):
        return backend, "auto"
    if backend in KERNELS:
        return "", backend
    if scheme == "ulysses" and kernel in KERNELS:
        return scheme, kernel
    raise ValueError(
        f"attention_backend: found {backend!r}, expected one of auto, {', '.join(KERNELS)}, ring, "
        "ulysses, ulysses:KERNEL"
    )


def _scheme(place: placement.Placement) -> str:
    return "ulysses" if ulysses.fits(place) else "ring"


def _kernel(q: Array, k: Array, heads: int) -> str:
    """The best kernel for one device with this many heads and all tokens."""
    n, m = (math.prod(x.shape[1:-2]) for x in (q, k))
    backend = jax.default_backend()
    if backend == "gpu" and cudnn.fits(q):
        return "cudnn"
    if backend == "tpu" and min(n, m) >= _SPLASH_MIN:
        return "splash"
    return "xla" if n * m * heads <= _SCORES_LIMIT else "chunked"
