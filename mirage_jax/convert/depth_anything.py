"""Weights of Depth Anything V2, relative and metric, to and from `nn.depth_anything`.

Three naming schemes are read and written: that of the original release (`pretrained.*`,
`depth_head.*`), that of transformers 5, and that of transformers 4, in which the files on the Hub
are. Linear kernels are transposed, convolutions become channels-last, and the tensors of the blocks
are stacked on a leading layer axis. (Version 1 has the same tensors; its `taps` are the last four
blocks.)
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from mirage_jax.convert.placement import Tensors
from mirage_jax.nn.depth_anything import PRESETS, DepthAnything
from mirage_jax.nn.dinov2 import PATCH

NAMINGS = ("transformers", "transformers_4", "original")
"""Naming schemes."""

_Slot = tuple[str, int | None]
"""Flat path of a parameter, and the layer of a stacked one."""


def _table() -> dict[str, tuple[str, str]]:
    """Our module (or parameter) -> its name in transformers and in the original; {} is a layer."""
    rows = {
        "backbone/cls_token": ("backbone.embeddings.cls_token", "pretrained.cls_token"),
        "backbone/mask_token": ("backbone.embeddings.mask_token", "pretrained.mask_token"),
        "backbone/positions": ("backbone.embeddings.position_embeddings", "pretrained.pos_embed"),
        "backbone/patch": (
            "backbone.embeddings.patch_embeddings.projection",
            "pretrained.patch_embed.proj",
        ),
        "backbone/norm": ("backbone.layernorm", "pretrained.norm"),
        "head/conv1": ("head.conv1", "depth_head.scratch.output_conv1"),
        "head/conv2": ("head.conv2", "depth_head.scratch.output_conv2.0"),
        "head/conv3": ("head.conv3", "depth_head.scratch.output_conv2.2"),
    }
    block = {
        "norm1": ("norm1", "norm1"),
        # The original holds one matrix for queries, keys and values, in this order.
        "q": ("attention.q_proj", "attn.qkv"),
        "k": ("attention.k_proj", "attn.qkv"),
        "v": ("attention.v_proj", "attn.qkv"),
        "o": ("attention.o_proj", "attn.proj"),
        "gain1": ("layer_scale1.lambda1", "ls1.gamma"),
        "norm2": ("norm2", "norm2"),
        "mlp_in": ("mlp.fc1", "mlp.fc1"),
        "mlp_out": ("mlp.fc2", "mlp.fc2"),
        "gain2": ("layer_scale2.lambda1", "ls2.gamma"),
    }
    for ours, (new, original) in block.items():
        rows[f"backbone/blocks/{ours}"] = (
            f"backbone.encoder.layer.{{}}.{new}",
            f"pretrained.blocks.{{}}.{original}",
        )
    for i in range(4):
        stage = f"neck.reassemble_stage.layers.{i}"
        rows[f"head/project{i}"] = (f"{stage}.projection", f"depth_head.projects.{i}")
        rows[f"head/resize{i}"] = (f"{stage}.resize", f"depth_head.resize_layers.{i}")
        rows[f"head/neck{i}"] = (f"neck.convs.{i}", f"depth_head.scratch.layer{i + 1}_rn")
        # Numbered from the coarsest by transformers and us, from the finest by the original.
        new, original = f"neck.fusion_stage.layers.{i}", f"depth_head.scratch.refinenet{4 - i}"
        rows[f"head/fuse{i}/project"] = (f"{new}.projection", f"{original}.out_conv")
        for unit in (1, 2):
            for conv in (1, 2):
                rows[f"head/fuse{i}/residual{unit}/conv{conv}"] = (
                    f"{new}.residual_layer{unit}.convolution{conv}",
                    f"{original}.resConfUnit{unit}.conv{conv}",
                )
    return rows


_NAMES = _table()
_LEAVES = {"/kernel": ".weight", "/scale": ".weight", "/bias": ".bias", "": ""}
_TRANSFORMERS_4 = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
}
_UPSAMPLED = ("head/resize0/kernel", "head/resize1/kernel")
_LEADING_ONES = {"backbone/cls_token": 2, "backbone/mask_token": 1, "backbone/positions": 1}


def is_depth_anything(tensors: Tensors) -> bool:
    """Whether tensors are a Depth Anything network's, in any of `NAMINGS`."""
    return any(name in tensors for name in _NAMES["backbone/cls_token"])


def depth_anything_fields(tensors: Tensors) -> dict[str, Any]:
    """Fields of the released network that tensors belong to, by the width of its class token.

    Raises:
      ValueError: if there is none of that width.
    """
    names = _NAMES["backbone/cls_token"]
    width = next((tensors[name].shape[-1] for name in names if name in tensors), None)
    fields = next((fields for fields in PRESETS.values() if fields["width"] == width), None)
    if fields is None:
        raise ValueError(
            f"found a class token of {width} channels, expected one of Depth Anything V2: "
            f"{', '.join(str(fields['width']) for fields in PRESETS.values())}"
        )
    return fields


def from_depth_anything(tensors: Tensors, model: DepthAnything) -> dict[str, Any]:
    """Parameters (unboxed, float32 numpy) of `model` from tensors in any of `NAMINGS`.

    Raises:
      ValueError: naming tensors that are missing, have no place in the model, have another shape
        than the model's, or hold values that are not finite.
    """
    shapes = depth_anything_shapes(model)
    places = _places(shapes, _naming(tensors))
    missing, unknown = sorted(set(places) - set(tensors)), sorted(set(tensors) - set(places))
    for problem, names in (("missing", missing), ("without a place in the model", unknown)):
        if names:
            raise ValueError(
                f"Depth Anything: {len(names)} tensors {problem}: {', '.join(names[:4])}"
            )

    flat = {path: np.empty(shape, np.float32) for path, shape in shapes.items()}
    for name, slots in places.items():
        array = np.asarray(tensors[name])
        expected = _pack(flat, slots).shape
        if array.shape != expected:
            raise ValueError(f"tensor {name}: found shape {array.shape}, expected {expected}")
        array = array.astype(np.float32)
        wrong = array.size - int(np.isfinite(array).sum())
        if wrong:
            raise ValueError(f"tensor {name}: {wrong} of {array.size} values are not finite")
        for (path, layer), part in zip(slots, np.split(array, len(slots)), strict=True):
            flat[path][... if layer is None else layer] = _to_ours(path, part)
    return unflatten_dict(flat, sep="/")


def to_depth_anything(
    params: Mapping[str, Any], naming: str = "transformers"
) -> dict[str, np.ndarray]:
    """Inverse of `from_depth_anything`: tensors under the names of one of `NAMINGS`.

    Raises:
      ValueError: on an unknown naming, or naming a parameter that has no counterpart.
    """
    if naming not in NAMINGS:
        raise ValueError(f"naming: found {naming!r}, expected one of {', '.join(NAMINGS)}")
    flat = {k: np.asarray(v) for k, v in flatten_dict(dict(params), sep="/").items()}
    places = _places({path: array.shape for path, array in flat.items()}, naming)
    return {name: _pack(flat, slots) for name, slots in places.items()}


@functools.cache
def depth_anything_shapes(model: DepthAnything) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter of a network by path."""
    # On one patch: parameters do not depend on the size of the picture.
    picture = jax.ShapeDtypeStruct((1, PATCH, PATCH, 3), jnp.float32)
    boxed = jax.eval_shape(model.init, jax.random.key(0), picture)["params"]
    return {path: leaf.shape for path, leaf in flatten_dict(nn.unbox(boxed), sep="/").items()}


def _naming(tensors: Tensors) -> str:
    if any(name.startswith("pretrained.") for name in tensors):
        return "original"
    old = any(".attention.attention." in name for name in tensors)
    return "transformers_4" if old else "transformers"


def _places(shapes: Mapping[str, tuple[int, ...]], naming: str) -> dict[str, list[_Slot]]:
    """Tensor name -> the parameters it holds, one behind the other on its first axis."""
    places: dict[str, list[_Slot]] = {}
    left = dict(shapes)
    for module, names in _NAMES.items():
        name = names[naming == "original"]
        if naming == "transformers_4":
            for new, old in _TRANSFORMERS_4.items():
                name = name.replace(new, old)
        for ours, theirs in _LEAVES.items():
            shape = left.pop(module + ours, None)
            if shape is None:
                continue
            for layer in range(shape[0]) if "{}" in name else (None,):
                places.setdefault(name.format(layer) + theirs, []).append((module + ours, layer))
    if left:
        raise ValueError(
            f"parameters without a counterpart in Depth Anything: {', '.join(sorted(left)[:4])}"
        )
    return places


def _pack(flat: Mapping[str, np.ndarray], slots: list[_Slot]) -> np.ndarray:
    parts = [_to_theirs(path, flat[path][... if layer is None else layer]) for path, layer in slots]
    return np.ascontiguousarray(np.concatenate(parts))


def _to_ours(path: str, array: np.ndarray) -> np.ndarray:
    if path in _LEADING_ONES:
        return array.reshape(array.shape[_LEADING_ONES[path] :])
    if not path.endswith("/kernel"):
        return array
    if array.ndim == 2:
        return array.T
    return array.transpose((2, 3, 0, 1) if path in _UPSAMPLED else (2, 3, 1, 0))


def _to_theirs(path: str, array: np.ndarray) -> np.ndarray:
    if path in _LEADING_ONES:
        return array.reshape((1,) * _LEADING_ONES[path] + array.shape)
    if not path.endswith("/kernel"):
        return array
    if array.ndim == 2:
        return array.T
    return array.transpose((2, 3, 0, 1) if path in _UPSAMPLED else (3, 2, 0, 1))
