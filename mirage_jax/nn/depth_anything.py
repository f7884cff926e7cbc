"""Depth Anything V2 (arXiv 2406.09414): depth of one picture, for the first picture of a world.

DINOv2 features of four depths are brought to four resolutions and merged from the coarsest to the
finest, as in DPT (arXiv 2103.13413). The *relative* networks predict disparity, 1 / depth up to an
unknown scale and shift, larger is nearer (see `io.depth_maps.depth_from_disparity`); the *metric*
ones z-depth in metres.

    model = DepthAnything(**PRESETS["small"])
    params = from_depth_anything(load_file("depth_anything_v2_vits.safetensors"), model)
    depth = depth_from_disparity(estimate(model, params, picture), near=1.0, far=30.0)
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from mirage_jax.nn.attention import named_param
from mirage_jax.nn.dinov2 import PATCH, DINOv2
from mirage_jax.nn.layers import Conv2d, fan_in_uniform
from mirage_jax.nn.resampling import resize_bicubic, resize_bilinear
from mirage_jax.nn.rows import aligned

PRESETS: dict[str, dict[str, Any]] = {
    "small": {
        "width": 384,
        "layers": 12,
        "heads": 6,
        "mlp_width": 1536,
        "taps": (2, 5, 8, 11),
        "neck_widths": (48, 96, 192, 384),
        "fusion_width": 64,
    },
    "base": {
        "width": 768,
        "layers": 12,
        "heads": 12,
        "mlp_width": 3072,
        "taps": (2, 5, 8, 11),
        "neck_widths": (96, 192, 384, 768),
        "fusion_width": 128,
    },
    "large": {
        "width": 1024,
        "layers": 24,
        "heads": 16,
        "mlp_width": 4096,
        "taps": (4, 11, 17, 23),
        "neck_widths": (256, 512, 1024, 1024),
        "fusion_width": 256,
    },
}
"""Fields of the released networks (ViT-S, ViT-B, ViT-L); relative unless `max_depth` is added.

The release puts the weights of "small" under Apache-2.0, the others under CC-BY-NC-4.0.
"""

NATIVE_SIDE = 518
"""Pixels of the shorter side of a picture as the released networks were trained."""

_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)


def network_size(size: tuple[int, int], side: int = NATIVE_SIDE) -> tuple[int, int]:
    """Size `(H, W)` at which the network sees a picture of `size`: multiples of 14, same aspect.

    The shorter side becomes `side`; each is then rounded to the nearest multiple of 14, but never
    below `side`.
    """
    scale = side / min(size)

    def fit(pixels: int) -> int:
        patches = scale * pixels / PATCH
        rounded = round(patches) * PATCH
        return rounded if rounded >= side else int(np.ceil(patches)) * PATCH

    return fit(size[0]), fit(size[1])


def prepare(
    picture: UInt8[np.ndarray, "height width 3"], side: int = NATIVE_SIDE
) -> Float[np.ndarray, "h w 3"]:
    """A picture as the network takes it: resized (bicubic) to `network_size`, colours normalised.

    As in the original release; transformers resizes by Pillow's antialiased bicubic instead.
    """
    size = network_size(picture.shape[:2], side)
    resized = resize_bicubic(picture.astype(np.float32) / 255.0, size)
    return (resized - _MEAN) / _STD


class Upsample(nn.Module):
    """Transposed convolution whose stride is its kernel's size: every cell becomes a block."""

    features: int
    factor: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
        k, (b, h, w, inputs) = self.factor, x.shape
        shape = (k, k, inputs, self.features)
        axes = (None, None, "conv_in", "conv_out")
        kernel = named_param(self, "kernel", fan_in_uniform(), shape, axes)
        bias = named_param(self, "bias", nn.initializers.zeros, shape[3:], axes[3:])
        y = jnp.einsum("bhwi,pqio->bhpwqo", x.astype(self.dtype), kernel.astype(self.dtype))
        y = y.reshape(b, h * k, w * k, self.features).astype(jnp.float32)
        return y + aligned(bias, y)


class ResidualUnit(nn.Module):
    """x + conv(relu(conv(relu(x))))."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        y = x
        for name in ("conv1", "conv2"):
            y = Conv2d(x.shape[-1], dtype=self.dtype, name=name)(nn.relu(y))
        return x + y


class Fusion(nn.Module):
    """Adds a finer map to the merged coarser ones, refines the sum and upsamples it."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        merged: Float[Array, "b h w c"] | None,
        finer: Float[Array, "b h w c"],
        size: tuple[int, int],
    ) -> Float[Array, "b h2 w2 c"]:
        # Without anything merged yet this unit has no use, but checkpoints hold its parameters.
        refined = ResidualUnit(self.dtype, name="residual1")(finer)
        x = finer if merged is None else merged + refined
        x = resize_bilinear(ResidualUnit(self.dtype, name="residual2")(x), size)
        return Conv2d(x.shape[-1], 1, dtype=self.dtype, name="project")(x)


class DPTHead(nn.Module):
    """Four maps of features on the grid of patches to one number per pixel."""

    neck_widths: tuple[int, int, int, int]
    fusion_width: int
    hidden_width: int
    dtype: Any = jnp.float32

    def _conv(self, name: str, features: int, kernel_size: int = 3, **options: Any) -> Conv2d:
        return Conv2d(features, kernel_size, dtype=self.dtype, name=name, **options)

    @nn.compact
    def __call__(
        self, features: tuple[Float[Array, "b h w d"], ...]
    ) -> Float[Array, "b height width"]:
        h, w = features[0].shape[1:3]
        maps = []
        for i, (x, width) in enumerate(zip(features, self.neck_widths, strict=True)):
            x = self._conv(f"project{i}", width, 1)(x)
            if i < 2:
                x = Upsample(width, (4, 2)[i], self.dtype, name=f"resize{i}")(x)
            elif i == 3:
                x = self._conv("resize3", width, stride=2, padding=((1, 1), (1, 1)))(x)
            maps.append(self._conv(f"neck{i}", self.fusion_width, use_bias=False)(x))

        # Coarsest first; each is enlarged to the size of the next.
        merged: Any = None
        sizes = ((h, w), (2 * h, 2 * w), (4 * h, 4 * w), (8 * h, 8 * w))
        for i, (x, size) in enumerate(zip(maps[::-1], sizes, strict=True)):
            merged = Fusion(self.dtype, name=f"fuse{i}")(merged, x, size)

        x = self._conv("conv1", self.fusion_width // 2)(merged)
        x = resize_bilinear(x, (h * PATCH, w * PATCH))
        x = nn.relu(self._conv("conv2", self.hidden_width)(x))
        return self._conv("conv3", 1, 1)(x)[..., 0]


class DepthAnything(nn.Module):
    """Disparity or depth of pictures; `DepthAnything(**PRESETS["small"])` is a released network.

    Attributes:
      width, layers, heads, mlp_width, taps: of the `DINOv2` backbone.
      neck_widths: channels of the four maps, finest first.
      fusion_width: channels while they are merged.
      hidden_width: channels of the last layer but one.
      max_depth: None for relative networks; metres that a metric network cannot exceed: 20 for the
        indoor ones released (Hypersim), 80 for the outdoor ones (Virtual KITTI).
      table_side, position_offset, attention_backend: see `DINOv2`.
      dtype: of matrix products and convolutions; the output is float32.
    """

    width: int
    layers: int
    heads: int
    mlp_width: int
    taps: tuple[int, int, int, int]
    neck_widths: tuple[int, int, int, int]
    fusion_width: int
    hidden_width: int = 32
    max_depth: float | None = None
    table_side: int = NATIVE_SIDE // PATCH
    position_offset: float = 0.0
    attention_backend: str = "auto"
    dtype: Any = jnp.float32

    def setup(self) -> None:
        self.backbone = DINOv2(
            self.width,
            self.layers,
            self.heads,
            self.mlp_width,
            self.taps,
            self.table_side,
            self.position_offset,
            self.attention_backend,
            self.dtype,
        )
        self.head = DPTHead(self.neck_widths, self.fusion_width, self.hidden_width, self.dtype)

    def __call__(
        self, pictures: Float[Array, "b height width 3"]
    ) -> Float[Array, "b height width"]:
        """Disparity (relative, 0 = infinitely far) or z-depth in metres of prepared pictures.

        Raises:
          ValueError: if height or width are not multiples of 14.
        """
        grid = (pictures.shape[1] // PATCH, pictures.shape[2] // PATCH)
        tokens = self.backbone(pictures)
        found = self.head(tuple(x[:, 1:].reshape(x.shape[0], *grid, -1) for x in tokens))
        if self.max_depth is None:
            return nn.relu(found)
        return self.max_depth * nn.sigmoid(found)


# One function for all calls: a jitted `model.apply` is a new one, and compiled again, every time.
@functools.partial(jax.jit, static_argnums=0)
def _run(model: DepthAnything, params: Any, pictures: Array) -> Any:
    return model.apply({"params": params}, pictures)


def estimate(
    model: DepthAnything,
    params: Any,
    picture: UInt8[np.ndarray, "height width 3"],
    side: int = NATIVE_SIDE,
) -> Float[np.ndarray, "height width"]:
    """Disparity (relative) or z-depth in metres of a picture, at the picture's own size.

    Args:
      model: the network.
      params: its parameters.
      picture: colours.
      side: pixels of the shorter side in the network; more resolves finer detail.
    """
    found: Any = _run(model, params, prepare(picture, side)[None])
    return resize_bilinear(np.asarray(found[0])[..., None], picture.shape[:2])[..., 0]
