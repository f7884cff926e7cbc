"""Weights of UMT5 encoders, to and from `nn.text_encoder.TextEncoder`.

Two naming schemes: Wan's own (`blocks.0.attn.q.weight`, in models_t5_umt5-xxl-enc-bf16) and that of
Hugging Face's UMT5EncoderModel (`encoder.block.0.layer.0.SelfAttention.q.weight`). Matrices are
transposed, and the tensors of the layers stacked on a leading axis; dtypes stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from mirage_jax.convert.placement import Placement, Tensors, count_layers, finite
from mirage_jax.nn.text_encoder import TextEncoder

NAMINGS = ("wan", "hf")
"""Values of `naming`, in the order of `_NAMES`."""

# Parameter: (Wan's name, Hugging Face's); {} stands for the layer.
_NAMES = {
    "token_embedding": ("token_embedding.weight", "shared.weight"),
    "norm": ("norm.weight", "encoder.final_layer_norm.weight"),
    **{
        f"blocks/{path}": (f"blocks.{{}}.{wan}.weight", f"encoder.block.{{}}.layer.{hf}.weight")
        for path, wan, hf in (
            ("norm_attn", "norm1", "0.layer_norm"),
            ("q", "attn.q", "0.SelfAttention.q"),
            ("k", "attn.k", "0.SelfAttention.k"),
            ("v", "attn.v", "0.SelfAttention.v"),
            ("o", "attn.o", "0.SelfAttention.o"),
            (
                "position_bias",
                "pos_embedding.embedding",
                "0.SelfAttention.relative_attention_bias",
            ),
            ("norm_mlp", "norm2", "1.layer_norm"),
            ("gate", "ffn.gate.0", "1.DenseReluDense.wi_0"),
            ("up", "ffn.fc1", "1.DenseReluDense.wi_1"),
            ("down", "ffn.fc2", "1.DenseReluDense.wo"),
        )
    },
}
_MATRICES = {f"blocks/{name}" for name in ("q", "k", "v", "o", "gate", "up", "down")}
_HF_COPY = "encoder.embed_tokens.weight"


def wan_names(tensors: Tensors) -> dict[str, Any]:
    """The same tensors under Wan's names; names that no scheme knows stay as they are.

    Raises:
      ValueError: if Hugging Face's two names of the token embedding hold different values.
    """
    tensors = dict(tensors)
    if _HF_COPY in tensors:
        copy = tensors.pop(_HF_COPY)
        shared = tensors.setdefault("shared.weight", copy)
        if not np.array_equal(np.asarray(copy), np.asarray(shared)):
            raise ValueError(f"tensor {_HF_COPY}: found other values, expected those of shared")
    renamed = {
        hf.format(layer): wan.format(layer)
        for layer in range(count_layers(tensors, r"encoder\.block"))
        for wan, hf in _NAMES.values()
    }
    return {renamed.get(name, name): tensor for name, tensor in tensors.items()}


def umt5_fields(tensors: Tensors) -> dict[str, Any]:
    """Fields of the TextEncoder that tensors (either naming) belong to.

    Raises:
      ValueError: if a tensor that fixes a size is missing or has another number of dimensions.
    """
    return _fields(wan_names(tensors))


def umt5_shapes(fields: Mapping[str, Any], naming: str = "wan") -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of `TextEncoder(**fields)`, from the module itself, without memory."""
    ids = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    init = jax.eval_shape(TextEncoder(**fields).init, jax.random.key(0), ids, ids)
    split = jax.eval_shape(lambda params: dict(_split(params, naming)), nn.unbox(init["params"]))
    return {name: tensor.shape for name, tensor in split.items()}


def is_umt5(tensors: Tensors) -> bool:
    """Whether tensors are a UMT5 encoder's, in either naming."""
    first = _NAMES["blocks/position_bias"]
    return any(name.format(0) in tensors for name in first)


def umt5_plan(fields: Mapping[str, Any]) -> list[Placement]:
    """Where every parameter of `TextEncoder(**fields)` lies in a checkpoint with Wan's names."""
    shapes, plan = umt5_shapes(fields), []
    for path, (wan, _) in _NAMES.items():
        stacked = "{}" in wan
        names = tuple(wan.format(layer) for layer in range(fields["depth"] if stacked else 1))
        shape = shapes[names[0]]
        axes = (1, 0) if path in _MATRICES else tuple(range(len(shape)))
        ours = tuple(shape[axis] for axis in axes)
        plan.append(Placement(path, names, ours, shape, axes, stacked))
    return plan


def hf_name(name: str) -> str:
    """What Hugging Face's UMT5EncoderModel calls a tensor with one of Wan's names."""
    layer = re.match(r"blocks\.(\d+)\.", name)
    number = layer[1] if layer else ""
    return next(hf.format(number) for wan, hf in _NAMES.values() if wan.format(number) == name)


def from_umt5(tensors: Tensors) -> dict[str, Any]:
    """Parameters (unboxed numpy, dtypes as found) of `TextEncoder(**umt5_fields(tensors))`.

    Raises:
      ValueError: naming tensors that are missing, unknown, not finite or of another shape than the
        token embedding, the first layer's MLP and its position bias ask for.
    """
    tensors = wan_names(tensors)
    expected = umt5_shapes(_fields(tensors))
    missing, unknown = sorted(expected.keys() - tensors), sorted(tensors.keys() - expected)
    for problem, names in (("missing", missing), ("unknown", unknown)):
        if names:
            raise ValueError(
                f"UMT5 encoder: {len(names)} tensors {problem}: {', '.join(names[:4])}"
            )
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise ValueError(
                f"tensor {name}: found shape {tuple(tensors[name].shape)}, expected {shape}"
            )
    flat = {}
    for path, (wan, _) in _NAMES.items():
        layers = range(count_layers(tensors, "blocks") if "{}" in wan else 1)
        arrays = [finite(tensors, wan.format(layer)) for layer in layers]
        arrays = [array.T if path in _MATRICES else array for array in arrays]
        flat[path] = np.stack(arrays) if "{}" in wan else arrays[0]
    return unflatten_dict(flat, sep="/")


def to_umt5(params: Mapping[str, Any], naming: str = "wan") -> dict[str, np.ndarray]:
    """Inverse of `from_umt5`: tensors in either naming, ready to be saved.

    Raises:
      ValueError: naming parameters that are missing or that UMT5 lacks, or an unknown `naming`.
    """
    # safetensors writes the memory of an array as it lies, whatever its strides.
    return {name: np.ascontiguousarray(array) for name, array in _split(params, naming)}


def _split(params: Mapping[str, Any], naming: str) -> Iterator[tuple[str, Any]]:
    """Name and array of every tensor, as views where the arrays are numpy's."""
    if naming not in NAMINGS:
        raise ValueError(f"naming: found {naming!r}, expected one of {', '.join(NAMINGS)}")
    flat = flatten_dict(dict(params), sep="/")
    wrong = sorted(flat.keys() ^ _NAMES)
    if wrong:
        raise ValueError(f"parameters missing or without a counterpart in UMT5: {', '.join(wrong)}")
    for path, names in _NAMES.items():
        name, array = names[NAMINGS.index(naming)], flat[path]
        for layer in range(array.shape[0] if "{}" in name else 1):
            one = array[layer] if "{}" in name else array
            yield name.format(layer), one.T if path in _MATRICES else one


def _fields(tensors: Tensors) -> dict[str, Any]:
    def matrix(name: str) -> tuple[int, int]:
        if name not in tensors:
            raise ValueError(f"not a UMT5 encoder: tensor {name!r} is missing")
        rows, *columns = tensors[name].shape
        if len(columns) != 1 or 0 in tensors[name].shape:
            raise ValueError(f"tensor {name}: found shape {tensors[name].shape}, expected a matrix")
        return rows, columns[0]

    vocab_size, width = matrix("token_embedding.weight")
    buckets, heads = matrix("blocks.0.pos_embedding.embedding.weight")
    inner = matrix("blocks.0.attn.q.weight")[0]
    if inner % heads:
        raise ValueError(
            f"tensor blocks.0.attn.q.weight: found {inner} rows, expected a multiple of {heads}, "
            "the heads that the position bias has"
        )
    return {
        "vocab_size": vocab_size,
        "width": width,
        "heads": heads,
        "head_width": inner // heads,
        "mlp_width": matrix("blocks.0.ffn.fc1.weight")[0],
        "depth": count_layers(tensors, "blocks"),
        "buckets": buckets,
    }
