"""The attention of tokamax, a package of kernels for GPUs and TPUs; an optional dependency."""

from __future__ import annotations

from jaxtyping import Array, Bool, Float


def attend(
    q: Float[Array, "b n heads d"],
    k: Float[Array, "b m heads d"],
    v: Float[Array, "b m heads d"],
    key_mask: Bool[Array, "b m"] | None = None,
) -> Float[Array, "b n heads d"]:
    """Attention by the kernel that tokamax takes for the fastest here.

    Raises:
      ImportError: if tokamax is not installed.
    """
    try:
        import tokamax
    except ImportError as error:
        raise ImportError(
            "attention backend tokamax: the package is not installed; `pip install tokamax`, or "
            "choose another backend"
        ) from error
    mask = None if key_mask is None else key_mask[:, None, None]
    return tokamax.dot_product_attention(q, k, v, mask=mask)
