"""Weights of TAEHV's decoders, to and from `nn.tiny_decoder`.

The released files number the layers of one sequence: 1 is the first convolution, 22 the last, and
each of three stages has its blocks, an upsampling without weights, a 1x1 convolution that makes
more frames, and a convolution to the next stage's width. taew2_2 takes the 48 channels of Wan 2.2
and gives 2x2 pixels at once, taew2_1 the 16 of Wan 2.1.
"""

from __future__ import annotations

import math
from typing import Any

from mirage_jax.convert.placement import Placement, Tensors, shape_of
from mirage_jax.nn.tiny_decoder import BLOCKS, TinyDecoder
from mirage_jax.weights import module_fields

PREFIX = "decoder."
_STAGES = 3
_PER_STAGE = BLOCKS + 3
_LAST = 4 + _STAGES * _PER_STAGE


def is_taehv(tensors: Tensors) -> bool:
    """Whether tensors are those of a TAEHV decoder, with its encoder or without."""
    return f"{PREFIX}3.conv.0.weight" in tensors and f"{PREFIX}1.weight" in tensors


def taehv_fields(tensors: Tensors) -> dict[str, Any]:
    """Fields of the `TinyDecoder` that tensors belong to.

    Raises:
      ValueError: naming the tensor that is missing or shaped for no such decoder.
    """

    def shape(layer: str) -> tuple[int, ...]:
        return shape_of(tensors, f"{PREFIX}{layer}.weight", 4, "a TAEHV decoder")

    first, last = shape("1"), shape(str(_LAST))
    widths, growths = [first[0]], []
    for stage in range(_STAGES):
        grow = shape(f"{_grow(stage)}.conv")
        factor = grow[0] / grow[1]
        if factor not in (1.0, 2.0):
            raise ValueError(
                f"tensor {PREFIX}{_grow(stage)}.conv.weight: found shape {grow}, expected as many "
                "channels out as in, or twice as many"
            )
        growths.append(factor == 2.0)
        widths.append(shape(str(_grow(stage) + 1))[0])
    patch = math.isqrt(last[0] // 3)
    if 3 * patch**2 != last[0]:
        raise ValueError(
            f"tensor {PREFIX}{_LAST}.weight: found shape {last}, expected 3 n^2 channels out"
        )
    module = TinyDecoder(
        latent_channels=first[1],
        widths=tuple(widths),
        time_upscale=tuple(growths),
        patch=patch,
    )
    return module_fields(module)


def taehv_plan(fields: dict[str, Any]) -> list[Placement]:
    """Where the parameters of a `TinyDecoder` of these fields lie in a TAEHV file.

    Raises:
      ValueError: if it is another network than TAEHV's.
    """
    expected = TinyDecoder.space_upscale  # which tensors do not tell
    found = tuple(fields.get("space_upscale", expected))
    if found != expected:
        raise ValueError(f"space_upscale: found {found}, expected {expected} as TAEHV has it")
    widths, patch = fields["widths"], fields["patch"]
    plan = _conv("conv_in", "1", fields["latent_channels"], widths[0])
    for stage in range(_STAGES):
        width = widths[stage]
        for block in range(BLOCKS):
            layer = 3 + stage * _PER_STAGE + block
            for i in range(3):
                wide = 2 * width if i == 0 else width
                own = f"stage_{stage}_block_{block}/conv_{i}"
                plan += _conv(own, f"{layer}.conv.{2 * i}", wide, width)
        grown = width * (1 + fields["time_upscale"][stage])
        plan.append(
            Placement(
                f"stage_{stage}_grow/kernel",
                (f"{PREFIX}{_grow(stage)}.conv.weight",),
                (width, grown),
                (grown, width, 1, 1),
                (2, 3, 1, 0),
            )
        )
        plan += _conv(
            f"stage_{stage}_out", str(_grow(stage) + 1), width, widths[stage + 1], bias=False
        )
    return plan + _conv("conv_out", str(_LAST), widths[-1], 3 * patch**2)


def _grow(stage: int) -> int:
    """Number of the layer that makes more frames at the end of a stage."""
    return 3 + stage * _PER_STAGE + BLOCKS + 1


def _conv(path: str, layer: str, inputs: int, features: int, bias: bool = True) -> list[Placement]:
    """A convolution of 3x3 pixels."""
    placed = [
        Placement(
            f"{path}/kernel",
            (f"{PREFIX}{layer}.weight",),
            (3, 3, inputs, features),
            (features, inputs, 3, 3),
            (2, 3, 1, 0),
        )
    ]
    if bias:
        name, shape = (f"{PREFIX}{layer}.bias",), (features,)
        placed.append(Placement(f"{path}/bias", name, shape, shape, (0,)))
    return placed
