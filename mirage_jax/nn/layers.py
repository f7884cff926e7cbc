"""Convolutions and norms of the causal video VAE, channels last.

The arithmetic is in plain functions of arrays; the modules below them only hold parameters. A
"causal" convolution in time sees the current frame and the ones before it, never a later one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from mirage_jax.nn.logical_axes import logical
from mirage_jax.nn.rows import aligned

CONV_IMPLS = ("auto", "direct", "frames")


def fan_in_uniform() -> Any:
    """Initialiser: uniform with variance 1 / fan-in.

    Drawn by XLA's own bit generator: with threefry, compiling the initialisation of the hundred
    tensors of a VAE takes four times as long, and most of the start-up on a CPU.
    """
    uniform = nn.initializers.lecun_uniform()

    def init(key: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        data = jnp.resize(jax.random.key_data(key).ravel(), (4,))
        return uniform(jax.random.wrap_key_data(data, impl="rbg"), shape, dtype)

    return init


def rms_norm(x: Float[Array, "*lead c"], gamma: Float[Array, " c"]) -> Float[Array, "*lead c"]:
    """Scales every channel vector to length sqrt(c), then by `gamma` (the VAE's "gamma-norm").

    Computed in float32 whatever the input. A zero vector stays zero, with a zero gradient.
    Source: Wan (arXiv 2503.20314), section 4.1.
    """
    x = x.astype(jnp.float32)
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * (lax.rsqrt(jnp.maximum(square, 1e-24)) * x.shape[-1] ** 0.5) * aligned(gamma, x)


def conv2d(
    x: Float[Array, "*lead h w i"],
    kernel: Float[Array, "kh kw i o"],
    bias: Float[Array, " o"] | None = None,
    *,
    stride: int = 1,
    padding: str | Sequence[tuple[int, int]] = "SAME",
) -> Float[Array, "*lead h2 w2 o"]:
    """2-D convolution of every picture in `x`; all leading axes are batch."""
    lead = x.shape[:-3]
    if kernel.shape[:2] == (1, 1) and stride == 1:
        y = x @ kernel[0, 0]
    else:
        y = lax.conv_general_dilated(
            x.reshape(-1, *x.shape[-3:]),
            kernel,
            (stride, stride),
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        y = y.reshape(*lead, *y.shape[1:])
    return y if bias is None else y + bias


def upsample_conv2d(
    x: Float[Array, "*lead h w i"],
    kernel: Float[Array, "3 3 i o"],
    bias: Float[Array, " o"] | None = None,
) -> Float[Array, "*lead h2 w2 o"]:
    """Nearest-neighbour upsampling by 2 followed by a zero-padded 3x3 convolution, in one.

    Two of the three rows (columns) under the kernel are copies of one low-resolution row, so an
    output pixel depends on 2x2 inputs only. Adding up the kernel rows that meet the same input
    gives four 2x2 kernels, one per output parity: 4/9 of the multiplications, and the upsampled
    picture is never stored.
    """
    # Even outputs see rows (i-1, i, i), odd ones (i, i, i+1).
    fold = jnp.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], kernel.dtype)
    phases = jnp.einsum("pak,qbl,klio->pqabio", fold, fold, kernel, precision=lax.Precision.HIGHEST)
    # Four convolutions, not one with four times the channels: the gradient of that one's kernel
    # is ten times slower on a CPU.
    rows = []
    for p in range(2):
        pixels = [conv2d(x, phases[p, q], padding=((1 - p, p), (1 - q, q))) for q in range(2)]
        rows.append(jnp.stack(pixels, axis=-2))
    *lead, h, w, _ = x.shape
    y = jnp.stack(rows, axis=-4).reshape(*lead, 2 * h, 2 * w, kernel.shape[-1])
    return y if bias is None else y + bias


def use_frames(impl: str) -> bool:
    """Whether to compute a 3-D convolution as a 2-D one: on a CPU if `impl` is "auto".

    Raises:
      ValueError: if `impl` is not one of `CONV_IMPLS`.
    """
    if impl not in CONV_IMPLS:
        raise ValueError(f"conv_impl is {impl!r}; expected one of {', '.join(CONV_IMPLS)}")
    if impl == "auto":
        return jax.default_backend() == "cpu"
    return impl == "frames"


def causal_conv3d(
    x: Float[Array, "b t h w i"],
    kernel: Float[Array, "kt kh kw i o"],
    bias: Float[Array, " o"] | None = None,
    *,
    preceding: Float[Array, "b p h w i"] | None = None,
    impl: str = "auto",
) -> Float[Array, "b t h w o"]:
    """Convolves space (zero padded, same size) and time (causal).

    Args:
      x: frames of one chunk.
      kernel: the last temporal tap meets the current frame.
      bias: added to every output.
      preceding: the `kt - 1` frames before `x`; zeros where None.
      impl: "direct" (one 3-D convolution), "frames" (a 2-D convolution with time folded into
        batch and the `kt` frames under the kernel side by side in the channels: on a CPU six
        times quicker at 16 channels, backwards too, and still slightly so at 512) or "auto".

    A single frame without preceding ones meets zeros under all taps but the last, so only that one
    runs.

    Raises:
      ValueError: if there are other than `kt - 1` preceding frames, or `impl` is unknown.
    """
    kt, kh, kw = kernel.shape[:3]
    t = x.shape[1]
    spatial = tuple(((k - 1) // 2, k // 2) for k in (kh, kw))
    if preceding is not None and preceding.shape[1] != kt - 1:
        raise ValueError(
            f"preceding: found {preceding.shape[1]} frames, expected {kt - 1} for a kernel of {kt}"
        )
    if kt == 1 or (preceding is None and t == 1):
        return conv2d(x, kernel[-1], bias, padding=spatial)
    if (kh, kw) == (1, 1) or use_frames(impl):
        x = _with_preceding(x, preceding, kt - 1)
        taps = jnp.concatenate([x[:, k : k + t] for k in range(kt)], axis=-1)
        flat = jnp.moveaxis(kernel, 0, 2).reshape(kh, kw, -1, kernel.shape[-1])
        return conv2d(taps, flat, bias, padding=spatial)
    before = 0 if preceding is not None else kt - 1
    x = x if preceding is None else jnp.concatenate([preceding.astype(x.dtype), x], axis=1)
    y = lax.conv_general_dilated(
        x,
        kernel,
        (1, 1, 1),
        ((before, 0), *spatial),
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )
    return y if bias is None else y + bias


def _with_preceding(x: Array, preceding: Array | None, frames: int) -> Array:
    if preceding is None:
        return jnp.pad(x, ((0, 0), (frames, 0)) + ((0, 0),) * (x.ndim - 2))
    return jnp.concatenate([preceding.astype(x.dtype), x], axis=1)


class Stream:
    """Cache of the frames that causal layers need between the chunks of one video.

    `Stream(None)` starts a video; `Stream(cache)` continues it. After the pass `cache` holds
    what the next chunk needs: a tuple of arrays whose shapes do not change from chunk to chunk.
    """

    def __init__(self, cache: Sequence[Array] | None = None):
        self.first = cache is None
        self._preceding = iter(cache or ())
        self._stored: list[Array] = []

    def preceding(self) -> Array | None:
        """Frames the calling layer stored of the chunk before; None in the first chunk."""
        return None if self.first else next(self._preceding)

    def store(self, frames: Array) -> None:
        """Stores `frames` for the calling layer in the next chunk."""
        self._stored.append(frames)

    @property
    def cache(self) -> tuple[Array, ...]:
        """The frames stored in this pass, in the order of the calls."""
        return tuple(self._stored)


def store_last(stream: Stream, x: Array, preceding: Array | None, frames: int) -> None:
    """Stores the last `frames` frames of the video so far, zeros where it is shorter."""
    if x.shape[1] < frames:
        x = _with_preceding(x, preceding, frames)
    stream.store(x[:, x.shape[1] - frames :])


class RMSNorm(nn.Module):
    """`rms_norm` with its learned `gamma`."""

    @nn.compact
    def __call__(self, x: Float[Array, "*lead c"]) -> Float[Array, "*lead c"]:
        init = logical(nn.initializers.ones_init(), (None,))
        return rms_norm(x, self.param("gamma", init, (x.shape[-1],), jnp.float32))


class Conv2d(nn.Module):
    """2-D convolution; `upsample` puts nearest upsampling by 2 before a 3x3 one.

    Computes in `dtype` and returns float32, so that the residual stream is not re-rounded.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    padding: Any = "SAME"
    upsample: bool = False
    use_bias: bool = True
    dtype: Any = jnp.float32
    kernel_init: Any = fan_in_uniform()
    bias_init: Any = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, x: Float[Array, "*lead h w i"]) -> Float[Array, "*lead h2 w2 o"]:
        k = self.kernel_size
        kernel_init = logical(self.kernel_init, (None, None, "conv_in", "conv_out"))
        kernel = self.param("kernel", kernel_init, (k, k, x.shape[-1], self.features), jnp.float32)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if self.upsample:
            y = upsample_conv2d(x, kernel)
        else:
            y = conv2d(x, kernel, stride=self.stride, padding=self.padding)
        y = y.astype(jnp.float32)
        if not self.use_bias:
            return y
        bias_init = logical(self.bias_init, ("conv_out",))
        return y + aligned(self.param("bias", bias_init, (self.features,), jnp.float32), y)


class CausalConv3d(nn.Module):
    """3-D convolution, causal in time, "same" in space; computes in `dtype`, returns float32."""

    features: int
    kernel_size: tuple[int, int, int] = (3, 3, 3)
    conv_impl: str = "auto"
    dtype: Any = jnp.float32
    kernel_init: Any = fan_in_uniform()
    bias_init: Any = nn.initializers.zeros_init()

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t h w i"], stream: Stream | None = None
    ) -> Float[Array, "b t h w o"]:
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel_init = logical(self.kernel_init, (None, None, None, "conv_in", "conv_out"))
        bias_init = logical(self.bias_init, ("conv_out",))
        kernel = self.param("kernel", kernel_init, shape, jnp.float32).astype(self.dtype)
        bias = self.param("bias", bias_init, (self.features,), jnp.float32)
        x = x.astype(self.dtype)
        preceding = None
        if stream is not None and self.kernel_size[0] > 1:
            preceding = stream.preceding()
            store_last(stream, x, preceding, self.kernel_size[0] - 1)
        y = causal_conv3d(x, kernel, preceding=preceding, impl=self.conv_impl)
        return y.astype(jnp.float32) + aligned(bias, y)
