"""How parameters of ours lie in another checkpoint: under which names, in which order of axes.

A *plan* is a list of placements, one per parameter, that covers a whole model. It is all that
reading and writing need, so that both can go tensor by tensor, and both are checked by shape before
the first value is read.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

Tensors = Mapping[str, Any]
"""Arrays, or anything with a shape that becomes one by `numpy.asarray`, by name."""

_LISTED = 4
_PREFIXES = (
    *("base_model.", "module.", "model.", "diffusion_model.", "transformer."),
    *("pipe.", "dit.", "vace.", "vae."),
)


@dataclasses.dataclass(frozen=True)
class Placement:
    """One parameter and the tensors of another checkpoint that hold it.

    Attributes:
      path: of the parameter, "outer/inner/kernel".
      names: of the tensors; one, or one per layer if the parameter is stacked.
      shape: of the parameter, of one layer if it is stacked.
      tensor_shape: of each tensor.
      axes: a tensor with its axes in this order has the parameter's values in order.
      stacked: whether the parameter has a leading layer axis.
    """

    path: str
    names: tuple[str, ...]
    shape: tuple[int, ...]
    tensor_shape: tuple[int, ...]
    axes: tuple[int, ...]
    stacked: bool = False

    @property
    def full_shape(self) -> tuple[int, ...]:
        """Shape of the parameter with its layer axis."""
        return (len(self.names), *self.shape) if self.stacked else self.shape

    def from_tensor(self, tensor: Any) -> np.ndarray:
        """The parameter, or a layer of it, that a tensor holds."""
        return np.ascontiguousarray(np.asarray(tensor).transpose(self.axes).reshape(self.shape))

    def to_tensor(self, parameter: Any) -> np.ndarray:
        """Inverse of `from_tensor`."""
        moved = np.asarray(parameter).reshape([self.tensor_shape[axis] for axis in self.axes])
        return np.ascontiguousarray(moved.transpose(np.argsort(self.axes)))

    def layers(self, tensors: Tensors) -> Iterator[np.ndarray]:
        """The parameter, a layer at a time; only one is in memory if `tensors` reads lazily.

        Raises:
          ValueError: naming a tensor with a value that is not finite.
        """
        for name in self.names:
            yield self.from_tensor(finite(tensors, name))

    def tensors(self, parameter: Any) -> Iterator[tuple[str, np.ndarray]]:
        """Name and tensor of every layer; `parameter` is indexed by layer if it is stacked."""
        for layer, name in enumerate(self.names):
            yield name, self.to_tensor(parameter[layer] if self.stacked else parameter)


def finite(tensors: Tensors, name: str) -> np.ndarray:
    """The tensor of this name; ValueError, naming it, if a value is NaN or infinite."""
    tensor = np.asarray(tensors[name])
    if not np.isfinite(tensor).all():
        raise ValueError(f"tensor {name!r}: found NaN or infinity, expected finite values")
    return tensor


def without_prefix(tensors: Tensors) -> dict[str, Any]:
    """The tensors without the prefixes that training wrappers put before every name."""
    found = dict(tensors)
    while prefix := next((p for p in _PREFIXES if _all_start(found, p)), None):
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    return found


def count_layers(tensors: Iterable[str], stack: str) -> int:
    """How many layers names such as "blocks.7.modulation" show; those of five digits show none.

    Args:
      tensors: names.
      stack: regular expression of what precedes the number and the point before it.
    """
    pattern = re.compile(rf"{stack}\.(\d{{1,4}})\.")
    return max((int(m[1]) for m in map(pattern.match, tensors) if m), default=-1) + 1


def _all_start(names: Iterable[str], prefix: str) -> bool:
    names = list(names)
    return bool(names) and all(name.startswith(prefix) for name in names)


def shape_of(tensors: Tensors, name: str, axes: int, what: str) -> tuple[int, ...]:
    """The shape of a tensor that fixes sizes of a model.

    Raises:
      ValueError: naming the tensor, if it is missing ("not `what`"), has not so many axes, or is
        empty.
    """
    if name not in tensors:
        raise ValueError(f"not {what}: tensor {name!r} is missing")
    shape = tuple(tensors[name].shape)
    if len(shape) != axes or 0 in shape:
        raise ValueError(
            f"tensor {name}: found shape {shape}, expected {axes} axes, none of them 0"
        )
    return shape


def check(plan: Sequence[Placement], tensors: Tensors, what: str) -> None:
    """Compares a plan with the names and shapes of tensors, reading no value.

    Raises:
      ValueError: naming tensors that are missing, unknown or of another shape.
    """
    expected = {name: p.tensor_shape for p in plan for name in p.names}
    _refuse_names(what, expected, tensors, "tensors")
    for name, shape in expected.items():
        _refuse_shape("tensor", name, tensors[name], shape)


def check_params(plan: Sequence[Placement], flat: Tensors, what: str) -> None:
    """The same for our parameters by path: do they fill the plan and nothing else?"""
    expected = {p.path: p.full_shape for p in plan}
    _refuse_names(what, expected, flat, "parameters")
    for path, shape in expected.items():
        _refuse_shape("parameter", path, flat[path], shape)


def _refuse_names(what: str, expected: Iterable[str], found: Iterable[str], kind: str) -> None:
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    for problem, names in (("missing", missing), ("unknown", unknown)):
        if names:
            more = f", ... ({len(names)} in all)" if len(names) > _LISTED else ""
            raise ValueError(f"{what}: {kind} {problem}: {', '.join(names[:_LISTED])}{more}")


def _refuse_shape(kind: str, name: str, found: Any, expected: tuple[int, ...]) -> None:
    if tuple(found.shape) != expected:
        raise ValueError(f"{kind} {name}: found shape {tuple(found.shape)}, expected {expected}")


def assemble(plan: Sequence[Placement], tensors: Tensors) -> dict[str, Any]:
    """Our parameters as a nested dict of float32 arrays; ValueError as of `Placement.layers`."""
    flat = {}
    for placement in plan:
        layers = [layer.astype(np.float32) for layer in placement.layers(tensors)]
        flat[placement.path] = np.stack(layers) if placement.stacked else layers[0]
    return unflatten_dict(flat, sep="/")


def disassemble(plan: Sequence[Placement], flat: Tensors) -> Iterator[tuple[str, np.ndarray]]:
    """Names and tensors, one at a time, of parameters by path."""
    for placement in plan:
        yield from placement.tensors(flat[placement.path])
