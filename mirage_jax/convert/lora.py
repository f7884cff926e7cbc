"""Low-rank adapters in the naming of Mirage's release, to and from `nn.lora`.

A pair per layer and projection, "blocks.0.self_attn.q.lora_A.weight" (rank, inputs) and "lora_B"
(outputs, rank), under prefixes that depend on what trained it. The release stores no alpha and
scales the product by a number given when it is loaded; that number is alpha / rank here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mirage_jax.convert.placement import Placement, Tensors, without_prefix
from mirage_jax.convert.wan_dit import BLOCK_LINEARS
from mirage_jax.nn.lora import STACK, LoRA

RELEASED_PREFIX = "pipe.dit."
_NAME = re.compile(r"blocks\.(\d+)\.(.+)\.lora_([AB])\.weight")


def is_lora(tensors: Tensors) -> bool:
    """Whether any tensor is half of a low-rank pair."""
    return any(".lora_A." in name or ".lora_B." in name for name in tensors)


def lora_names(tensors: Tensors) -> dict[str, Any]:
    """The tensors without prefixes and without the name of the adapter that PEFT puts in."""
    stripped = {name.replace(".default.", "."): tensor for name, tensor in tensors.items()}
    return without_prefix(stripped)


def lora_plan(lora: LoRA, fields: Mapping[str, Any]) -> list[Placement]:
    """Where an adapter lies in a released file, without prefix.

    Args:
      lora: rank and targets.
      fields: `width`, `mlp_width` and `depth` of the denoiser.
    """
    plan, rank = [], lora.rank
    for target in lora.targets:
        name, inputs, outputs = BLOCK_LINEARS[target]
        ends = {"a": (fields[inputs], rank), "b": (rank, fields[outputs])}
        for half, shape in ends.items():
            names = tuple(
                f"blocks.{i}.{name}.lora_{half.upper()}.weight" for i in range(fields["depth"])
            )
            path = f"{STACK}/{target}/{half}"
            plan.append(Placement(path, names, shape, shape[::-1], (1, 0), stacked=True))
    return plan


def lora_fields(tensors: Tensors, alpha: float | None) -> tuple[LoRA, dict[str, int]]:
    """The adapter that tensors (see `lora_names`) are, and the sizes of its denoiser they show.

    Sizes that no target touches are 0.

    Raises:
      ValueError: if no alpha is given, or a tensor is of no known projection.
    """
    if alpha is None:
        raise ValueError(
            "alpha: the file stores none, and the update is alpha / rank times B A; expected a "
            "number (rank times the scale that the released loader would be given)"
        )
    by_name = {name: path for path, (name, _, _) in BLOCK_LINEARS.items()}
    sizes, ranks, found = {"width": 0, "mlp_width": 0, "depth": 0}, [], set()
    for name, tensor in tensors.items():
        match = _NAME.fullmatch(name)
        if match is None or match[2] not in by_name:
            raise ValueError(
                f"LoRA: tensor {name!r}: expected blocks.N.PROJECTION.lora_A.weight or lora_B, "
                f"where a projection is one of {', '.join(by_name)}"
            )
        if len(tensor.shape) != 2:
            raise ValueError(f"tensor {name}: found shape {tuple(tensor.shape)}, expected a matrix")
        target = by_name[match[2]]
        _, inputs, outputs = BLOCK_LINEARS[target]
        rank, end = tensor.shape if match[3] == "A" else tensor.shape[::-1]
        sizes["depth"] = max(sizes["depth"], int(match[1]) + 1)
        sizes[inputs if match[3] == "A" else outputs] = end
        ranks.append(rank)
        found.add(target)
    targets = tuple(target for target in BLOCK_LINEARS if target in found)
    return LoRA(ranks[0], alpha, targets), sizes


def fused(
    kernels: Iterator[np.ndarray], pair: Sequence[Placement], tensors: Tensors, lora: LoRA
) -> Iterator[np.ndarray]:
    """Kernels, layer by layer, with the adapter's update added in float32."""
    down, up = (placement.layers(tensors) for placement in pair)
    for kernel, a, b in zip(kernels, down, up, strict=True):
        update = a.astype(np.float32) @ b.astype(np.float32)
        yield kernel.astype(np.float32) + np.float32(lora.alpha / lora.rank) * update
