"""Adapters merged into a model's tensors, or kept apart as pairs of `nn.lora`.

The released naming, in which they are written, has a pair per layer and projection,
"blocks.0.self_attn.q.lora_A.weight" (rank, inputs) and "lora_B" (outputs, rank), after "pipe.dit.".
The release stores no alpha and scales the product by a number given when it is loaded; that number
is alpha / rank here.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mirage_jax.convert.adapters import Adapter, LowRank, Update
from mirage_jax.convert.lazy_tensors import LazyTensor
from mirage_jax.convert.placement import Placement, Tensors, finite
from mirage_jax.convert.presets import WAN22_TI2V_5B
from mirage_jax.convert.tensor_files import narrowed
from mirage_jax.convert.wan_dit import BLOCK_LINEARS, wan_dit_plan
from mirage_jax.nn.lora import STACK, LoRA

RELEASED_PREFIX = "pipe.dit."
_BLOCK = re.compile(r"(?:^|[._])blocks[._](\d{1,4})[._]")
_WEIGHT = re.compile(r"blocks\.(\d+)\.(.+)\.weight")


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
            names = tuple(_released(i, name, half) for i in range(fields["depth"]))
            path = f"{STACK}/{target}/{half}"
            plan.append(Placement(path, names, shape, shape[::-1], (1, 0), stacked=True))
    return plan


def _released(block: int, projection: str, half: str) -> str:
    return f"blocks.{block}.{projection}.lora_{half.upper()}.weight"


@dataclasses.dataclass(frozen=True)
class Updated:
    """A `LazyTensor` with the updates of adapters added in float32."""

    base: LazyTensor
    dtype: np.dtype
    name: str
    updates: tuple[Update, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.base.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        values = finite({self.name: self.base}, self.name).astype(np.float32)
        for update in self.updates:
            values = values + update.values(self.shape)
        return narrowed(self.name, values, dtype or self.dtype).astype(
            dtype or self.dtype, copy=False
        )

    def __getitem__(self, index: int) -> np.ndarray:
        return np.asarray(self)[index]


def merged(
    tensors: Tensors, adapters: Sequence[Adapter], dtype: np.dtype | None
) -> dict[str, LazyTensor]:
    """A model's tensors with the updates of adapters.

    Args:
      tensors: of the model, by the names that the adapters change.
      adapters: to add, one to the other.
      dtype: of what is read; None for that of each tensor.

    Raises:
      ValueError: naming the file and the tensor that has another shape than the model's.
    """
    found = dict(tensors)
    for name in {name: None for adapter in adapters for name in adapter.updates}:
        base = tensors[name]
        for adapter in adapters:
            if name in adapter.updates:
                try:
                    adapter.updates[name].check(tuple(base.shape))
                except ValueError as error:
                    raise ValueError(f"{adapter.path}: {error} for {name}") from error
        updates = tuple(adapter.updates[name] for adapter in adapters if name in adapter.updates)
        found[name] = Updated(base, dtype or base.dtype, name, updates)
    return found


def assumed_names(tensors: Iterable[str], depth: int = 0) -> list[str]:
    """Names of the model that an adapter alone is taken to be of: a Wan transformer.

    Args:
      tensors: names of the adapter's.
      depth: blocks of the model; 0 for as many as the names show.
    """
    blocks = [int(match[1]) for match in map(_BLOCK.search, tensors) if match]
    plan = wan_dit_plan({**WAN22_TI2V_5B, "depth": depth or max(blocks, default=0) + 1})
    return [name for placement in plan for name in placement.names]


@dataclasses.dataclass(frozen=True)
class _Padded:
    """A `LazyTensor`: a matrix with more rows or columns of zeros, times a number."""

    stored: LazyTensor | None
    dtype: np.dtype
    shape: tuple[int, ...]
    factor: float = 1.0

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        values = np.zeros(self.shape, dtype or self.dtype)
        if self.stored is not None:
            rows, columns = self.stored.shape
            stored = np.asarray(self.stored)
            if self.factor != 1:
                stored = stored.astype(np.float32) * np.float32(self.factor)
            values[:rows, :columns] = stored
        return values

    def __getitem__(self, index: int) -> np.ndarray:
        return np.asarray(self)[index]


def kept_apart(
    adapter: Adapter, depth: int = 0
) -> tuple[LoRA, dict[str, int], dict[str, Any], list[str]]:
    """An adapter as one of one rank and alpha, which is padded with zeros to be that.

    Args:
      adapter: of pairs alone, for projections of blocks.
      depth: blocks of the model; 0 for as many as it changes.

    Returns:
      The adapter, sizes of its denoiser (0 where no target touches them), its tensors under the
      names of `lora_plan`, and which projections of blocks had none and got zeros.

    Raises:
      ValueError: naming an update that is no pair or of no projection, which can only be merged.
    """
    by_name = {name: path for path, (name, _, _) in BLOCK_LINEARS.items()}
    sizes = {"width": 0, "mlp_width": 0, "depth": depth}
    pairs: dict[tuple[int, str], LowRank] = {}
    for target, update in adapter.updates.items():
        match = _WEIGHT.fullmatch(target)
        if match is None or match[2] not in by_name or not isinstance(update, LowRank):
            names = update.names if isinstance(update, LowRank) else (update.name,)
            raise ValueError(
                f"{adapter.path}: tensor {names[0]!r}: expected a pair for a projection of a "
                f"block ({', '.join(by_name)}), as an adapter alone has; other updates can be "
                "merged, with the base as another source"
            )
        _, inputs, outputs = BLOCK_LINEARS[by_name[match[2]]]
        sizes["depth"] = max(sizes["depth"], int(match[1]) + 1)
        sizes[inputs] = sizes[inputs] or int(update.down.shape[1])
        sizes[outputs] = sizes[outputs] or int(update.up.shape[0])
        pairs[int(match[1]), by_name[match[2]]] = update
    for (_, target), pair in pairs.items():
        _, inputs, outputs = BLOCK_LINEARS[target]
        try:
            pair.check((sizes[outputs], sizes[inputs]))
        except ValueError as error:
            raise ValueError(f"{adapter.path}: {error}") from error
    rank, scale = max(pair.rank for pair in pairs.values()), next(iter(pairs.values())).scale
    targets = tuple(target for target in BLOCK_LINEARS if any(t == target for _, t in pairs))
    lora = LoRA(rank, _alpha(scale, rank), targets)
    tensors: dict[str, Any] = {}
    filled = []
    dtypes = {half.dtype for pair in pairs.values() for half in (pair.down, pair.up)}
    dtype = dtypes.pop() if len(dtypes) == 1 else np.dtype(np.float32)
    for block in range(sizes["depth"]):
        for target in targets:
            name, inputs, outputs = BLOCK_LINEARS[target]
            found = pairs.get((block, target))
            if found is None:
                filled.append(f"blocks.{block}.{name}")
            factor = found.scale / scale if found else 1.0
            own = dtype if factor == 1 else np.dtype(np.float32)
            down, up = (found.down, found.up) if found else (None, None)
            tensors[_released(block, name, "a")] = _Padded(down, dtype, (rank, sizes[inputs]))
            tensors[_released(block, name, "b")] = _Padded(up, own, (sizes[outputs], rank), factor)
    return lora, sizes, tensors, filled


def _alpha(scale: float, rank: int) -> float:
    """The alpha of a scale, whole where that is the same scale."""
    whole = round(scale * rank)
    return float(whole) if whole / rank == scale else scale * rank
