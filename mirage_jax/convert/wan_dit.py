"""Weights of Wan 2.2 diffusion transformers and VACE-style branches, to and from `nn.Denoiser`.

Two naming schemes are read: the original one (`blocks.0.self_attn.q.weight`, `vace_blocks.0...`)
and that of diffusers' WanTransformer3DModel (`blocks.0.attn1.to_q.weight`). Linear kernels are
transposed, patch convolutions are flattened to (pt, ph, pw, c), and the tensors of the blocks are
stacked on a leading layer axis.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

Tensors = Mapping[str, Any]

_LINEARS = {
    "patch_embedding": "patch_embedding",
    "text_in": "text_embedding.0",
    "text_out": "text_embedding.2",
    "time_in": "time_embedding.0",
    "time_out": "time_embedding.2",
    "time_projection": "time_projection.1",
    "head": "head.head",
    "branch/patch_embedding": "vace_patch_embedding",
}
_BLOCK_LINEARS = {
    **{
        f"{attn}/{name}": f"{attn}.{name}"
        for attn in ("self_attn", "cross_attn")
        for name in ("q", "k", "v", "o")
    },
    "mlp_in": "ffn.0",
    "mlp_out": "ffn.2",
}
_BLOCK_ARRAYS = {
    "modulation": "modulation",
    "cross_norm_scale": "norm3.weight",
    "cross_norm_bias": "norm3.bias",
    **{
        f"{attn}/{name}": f"{attn}.{name}.weight"
        for attn in ("self_attn", "cross_attn")
        for name in ("norm_q", "norm_k")
    },
}
_STACKS = {"blocks": "blocks/block", "vace_blocks": "branch/blocks/block"}

# diffusers -> original, in this order. Their norm2 is the affine norm, which Wan calls norm3.
_DIFFUSERS = (
    (r"^condition_embedder\.text_embedder\.linear_1\.", "text_embedding.0."),
    (r"^condition_embedder\.text_embedder\.linear_2\.", "text_embedding.2."),
    (r"^condition_embedder\.time_embedder\.linear_1\.", "time_embedding.0."),
    (r"^condition_embedder\.time_embedder\.linear_2\.", "time_embedding.2."),
    (r"^condition_embedder\.time_proj\.", "time_projection.1."),
    (r"^scale_shift_table$", "head.modulation"),
    (r"^proj_out\.", "head.head."),
    (r"\.attn1\.", ".self_attn."),
    (r"\.attn2\.", ".cross_attn."),
    (r"_attn\.to_([qkv])\.", r"_attn.\1."),
    (r"_attn\.to_out\.0\.", "_attn.o."),
    (r"\.norm2\.", ".norm3."),
    (r"\.ffn\.net\.0\.proj\.", ".ffn.0."),
    (r"\.ffn\.net\.2\.", ".ffn.2."),
    (r"\.scale_shift_table$", ".modulation"),
    (r"^(vace_blocks\.\d+)\.proj_in\.", r"\1.before_proj."),
    (r"^(vace_blocks\.\d+)\.proj_out\.", r"\1.after_proj."),
)


def original_names(tensors: Tensors) -> dict[str, Any]:
    """The same tensors under original names; names that are original already stay as they are."""
    if not any(name.startswith("condition_embedder.") for name in tensors):
        return dict(tensors)
    renamed = {}
    for name, tensor in tensors.items():
        for pattern, replacement in _DIFFUSERS:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed


def _sources(stacks: Mapping[str, int], text: bool) -> dict[str, tuple[str, str | list[str]]]:
    """Flat parameter path -> (how it is stored, tensor name or one name per layer)."""
    plain = {
        path: name
        for path, name in _LINEARS.items()
        if (text or not path.startswith("text"))
        and (stacks.get("vace_blocks") or "branch" not in path)
    }
    found: dict[str, tuple[str, str | list[str]]] = {"head_modulation": ("row", "head.modulation")}

    def linear(path: str, names: str | list[str], patch: bool = False) -> None:
        each = (lambda end: f"{names}.{end}") if isinstance(names, str) else None
        weight = each("weight") if each else [f"{name}.weight" for name in names]
        bias = each("bias") if each else [f"{name}.bias" for name in names]
        found[f"{path}/kernel"] = ("patch" if patch else "matrix", weight)
        found[f"{path}/bias"] = ("same", bias)

    for path, name in plain.items():
        linear(path, name, patch=path.endswith("patch_embedding"))
    for stack, count in stacks.items():
        if not count:
            continue
        prefix, layers = _STACKS[stack], range(count)
        for path, name in _BLOCK_LINEARS.items():
            if text or not path.startswith("cross"):
                linear(f"{prefix}/{path}", [f"{stack}.{i}.{name}" for i in layers])
        for path, name in _BLOCK_ARRAYS.items():
            if text or not path.startswith("cross"):
                kind = "row" if path == "modulation" else "same"
                found[f"{prefix}/{path}"] = (kind, [f"{stack}.{i}.{name}" for i in layers])
    if stacks.get("vace_blocks"):
        linear("branch/before_proj", "vace_blocks.0.before_proj")
        names = [f"vace_blocks.{i}.after_proj" for i in range(stacks["vace_blocks"])]
        linear("branch/blocks/after_proj", names)
    return found


def _count(tensors: Tensors, stack: str) -> int:
    pattern = re.compile(rf"{stack}\.(\d+)\.")
    return max((int(m[1]) for m in map(pattern.match, tensors) if m), default=-1) + 1


def wan_dit_fields(
    tensors: Tensors, *, heads: int, branch_layers: tuple[int, ...] = ()
) -> dict[str, Any]:
    """Fields of the Denoiser that tensors belong to.

    Shapes tell everything but the number of heads (24 for Wan 2.2 TI2V-5B) and the blocks that the
    branch's hints belong to (0, 2, ..., 28 in Mirage's release, 0, 4, ..., 28 in its paper and in
    Spatia). These are asked for, never guessed.

    Raises:
      ValueError: if a tensor is missing, or the number of branch layers is not the tensors'.
    """
    tensors = original_names(tensors)

    def shape(name: str) -> tuple[int, ...]:
        if name not in tensors:
            raise ValueError(f"not a Wan diffusion transformer: tensor {name!r} is missing")
        return tuple(tensors[name].shape)

    width, in_channels, *patch = shape("patch_embedding.weight")
    volume = int(np.prod(patch))
    branch = _count(tensors, "vace_blocks")
    if len(branch_layers) != branch:
        raise ValueError(
            f"branch_layers: found {len(branch_layers)} {tuple(branch_layers)}, expected {branch}, "
            "the number of vace_blocks among the tensors"
        )
    text = "text_embedding.0.weight" in tensors
    return {
        "width": width,
        "depth": _count(tensors, "blocks"),
        "heads": heads,
        "mlp_width": shape("blocks.0.ffn.0.weight")[0],
        "in_channels": in_channels,
        "out_channels": shape("head.head.weight")[0] // volume,
        "patch": tuple(patch),
        "text_width": shape("text_embedding.0.weight")[1] if text else 0,
        "freq_width": shape("time_embedding.0.weight")[1],
        "memory_channels": shape("vace_patch_embedding.weight")[1] if branch else 0,
        "memory_hint": False,
        "branch_layers": tuple(branch_layers),
    }


def from_wan_dit(tensors: Tensors) -> dict[str, Any]:
    """Parameters (unboxed, float32 numpy) of `Denoiser(**wan_dit_fields(...))`, either naming.

    Raises:
      ValueError: naming tensors that are missing, unknown, or of another shape than their layer's
        fellows.
    """
    tensors = original_names(tensors)
    stacks = {stack: _count(tensors, stack) for stack in _STACKS}
    sources = _sources(stacks, "text_embedding.0.weight" in tensors)
    wanted = {
        n for _, names in sources.values() for n in ([names] if isinstance(names, str) else names)
    }
    missing, unknown = sorted(wanted - set(tensors)), sorted(set(tensors) - wanted)
    for problem, names in (("missing", missing), ("unknown", unknown)):
        if names:
            raise ValueError(
                f"Wan diffusion transformer: {len(names)} of {len(tensors)} tensors {problem}: "
                + ", ".join(names[:4])
            )

    def read(kind: str, name: str) -> np.ndarray:
        array = np.asarray(tensors[name]).astype(np.float32)
        if kind == "matrix":
            return array.T
        if kind == "patch":  # (out, c, pt, ph, pw) -> (pt ph pw c, out)
            return array.transpose(2, 3, 4, 1, 0).reshape(-1, array.shape[0])
        return array[0] if kind == "row" else array

    def stacked(kind: str, names: list[str]) -> np.ndarray:
        arrays = [read(kind, name) for name in names]
        for name, array in zip(names, arrays, strict=True):
            if array.shape != arrays[0].shape:
                raise ValueError(
                    f"tensor {name}: found shape {array.shape}, expected {arrays[0].shape} "
                    f"as {names[0]}"
                )
        return np.stack(arrays)

    flat = {
        path: read(kind, names) if isinstance(names, str) else stacked(kind, names)
        for path, (kind, names) in sources.items()
    }
    return unflatten_dict(flat, sep="/")


def to_wan_dit(
    params: Mapping[str, Any], patch: tuple[int, int, int] = (1, 2, 2)
) -> dict[str, np.ndarray]:
    """Inverse of `from_wan_dit`: tensors under original names.

    Raises:
      ValueError: naming parameters that have no counterpart in Wan (memory hint, ray adapter).
    """
    flat = {k: np.asarray(v) for k, v in flatten_dict(dict(params), sep="/").items()}
    stacks = {
        stack: flat[f"{path}/modulation"].shape[0] if f"{path}/modulation" in flat else 0
        for stack, path in _STACKS.items()
    }
    sources = _sources(stacks, "text_in/kernel" in flat)
    extra = sorted(set(flat) - set(sources))
    if extra:
        raise ValueError(f"parameters without a counterpart in Wan: {', '.join(extra[:4])}")

    def write(kind: str, array: np.ndarray) -> np.ndarray:
        if kind == "matrix":
            return np.ascontiguousarray(array.T)
        if kind == "patch":
            folded = array.reshape(*patch, -1, array.shape[-1])
            return np.ascontiguousarray(folded.transpose(4, 3, 0, 1, 2))
        return array[None] if kind == "row" else array

    tensors = {}
    for path, (kind, names) in sources.items():
        if isinstance(names, str):
            tensors[names] = write(kind, flat[path])
        else:
            tensors.update({name: write(kind, flat[path][i]) for i, name in enumerate(names)})
    return tensors


def graft(params: Mapping[str, Any], loaded: Mapping[str, Any]) -> dict[str, Any]:
    """Initialised parameters with the loaded ones in their place; the rest stays as initialised.

    For a Wan base under a Denoiser that has parts Wan lacks (branch, memory hint, ray adapter).

    Raises:
      ValueError: naming a loaded parameter that the model lacks or that has another shape.
    """
    ours, theirs = (flatten_dict(dict(tree), sep="/") for tree in (params, loaded))
    for path, array in theirs.items():
        if path not in ours:
            raise ValueError(f"parameter {path}: found in the weights, expected none in this model")
        if array.shape != ours[path].shape:
            raise ValueError(
                f"parameter {path}: found shape {array.shape}, expected {ours[path].shape}"
            )
    return unflatten_dict({**ours, **theirs}, sep="/")
