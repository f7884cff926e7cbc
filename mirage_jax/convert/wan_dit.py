"""Weights of Wan 2.2 diffusion transformers and VACE-style branches, to and from `nn.Denoiser`.

Two naming schemes are read: the original one (`blocks.0.self_attn.q.weight`, `vace_blocks.0...`)
and that of diffusers' WanTransformer3DModel (`blocks.0.attn1.to_q.weight`). Linear kernels are
transposed, patch convolutions are flattened to (pt, ph, pw, c), and the tensors of the blocks are
stacked on a leading layer axis.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from mirage_jax.convert.placement import (
    Placement,
    Tensors,
    assemble,
    check,
    check_params,
    count_layers,
    disassemble,
    shape_of,
    without_prefix,
)

# Path -> (their name, the fields that are its inputs and outputs).
_LINEARS = {
    "text_in": ("text_embedding.0", "text_width", "width"),
    "text_out": ("text_embedding.2", "width", "width"),
    "time_in": ("time_embedding.0", "freq_width", "width"),
    "time_out": ("time_embedding.2", "width", "width"),
    "time_projection": ("time_projection.1", "width", "modulation"),
    "head": ("head.head", "width", "patch_values"),
}
_ATTENTIONS = ("self_attn", "cross_attn")
BLOCK_LINEARS = {
    **{f"{a}/{name}": (f"{a}.{name}", "width", "width") for a in _ATTENTIONS for name in "qkvo"},
    "mlp_in": ("ffn.0", "width", "mlp_width"),
    "mlp_out": ("ffn.2", "mlp_width", "width"),
}
"""Projections of a block: path -> (their name, the fields that are its inputs and outputs)."""
_BLOCK_VECTORS = {
    "cross_norm_scale": "norm3.weight",
    "cross_norm_bias": "norm3.bias",
    **{f"{a}/norm_{q}": f"{a}.norm_{q}.weight" for a in _ATTENTIONS for q in "qk"},
}

# Pieces of names, original and diffusers', replaced in this order; "^" and "$" are a name's ends.
# Their norm2 is the affine norm, which Wan calls norm3.
_DIFFUSERS = (
    ("^text_embedding.0.", "^condition_embedder.text_embedder.linear_1."),
    ("^text_embedding.2.", "^condition_embedder.text_embedder.linear_2."),
    ("^time_embedding.0.", "^condition_embedder.time_embedder.linear_1."),
    ("^time_embedding.2.", "^condition_embedder.time_embedder.linear_2."),
    ("^time_projection.1.", "^condition_embedder.time_proj."),
    ("^head.modulation$", "^scale_shift_table$"),
    ("^head.head.", "^proj_out."),
    (".modulation$", ".scale_shift_table$"),
    *((f".self_attn.{name}.", f".attn1.to_{name}.") for name in "qkv"),
    *((f".cross_attn.{name}.", f".attn2.to_{name}.") for name in "qkv"),
    (".self_attn.o.", ".attn1.to_out.0."),
    (".cross_attn.o.", ".attn2.to_out.0."),
    (".self_attn.", ".attn1."),
    (".cross_attn.", ".attn2."),
    (".norm3.", ".norm2."),
    (".ffn.0.", ".ffn.net.0.proj."),
    (".ffn.2.", ".ffn.net.2."),
    (".before_proj.", ".proj_in."),
    (".after_proj.", ".proj_out."),
)


def diffusers_name(name: str) -> str:
    """What diffusers' WanTransformer3DModel (WanVACETransformer3DModel) calls a tensor."""
    return _renamed(name, _DIFFUSERS)


def _renamed(name: str, pieces: Iterable[tuple[str, str]]) -> str:
    name = f"^{name}$"
    for old, new in pieces:
        name = name.replace(old, new)
    return name[1:-1]


def original_names(tensors: Tensors) -> dict[str, Any]:
    """The same tensors under original names; those that are original lose at most a prefix."""
    tensors = without_prefix(tensors)
    if not any(name.startswith("condition_embedder.") or ".attn1." in name for name in tensors):
        return tensors
    back = [(theirs, original) for original, theirs in _DIFFUSERS]
    return {_renamed(name, back): tensor for name, tensor in tensors.items()}


def wan_dit_plan(fields: Mapping[str, Any]) -> list[Placement]:
    """Where every parameter of `Denoiser(**fields)` lies in a checkpoint with original names.

    Raises:
      ValueError: if the network is preconditioned, so that its output is no velocity.
    """
    if fields.get("data_std"):
        raise ValueError(
            f"data_std: found {tuple(fields['data_std'])}, expected () as Wan's networks predict "
            "the velocity itself"
        )
    width, patch, text = fields["width"], tuple(fields["patch"]), bool(fields["text_width"])
    values = math.prod(patch) * fields["out_channels"]
    sizes = {**fields, "modulation": 6 * width, "patch_values": values}
    plan = _patch_linear("patch_embedding", "patch_embedding", fields["in_channels"], width, patch)
    for path, (name, inputs, outputs) in _LINEARS.items():
        if text or not path.startswith("text"):
            plan += _linear(path, [name], sizes[inputs], sizes[outputs])
    plan.append(_rows("head_modulation", ["head.modulation"], (2, width)))
    plan += _blocks("blocks/block", "blocks", fields["depth"], fields, text)
    if fields["branch_layers"]:
        plan += wan_branch_plan(branch_fields(fields), patch)
    return plan


def wan_branch_plan(fields: Mapping[str, Any], patch: tuple[int, int, int]) -> list[Placement]:
    """The same for `MemoryBranch(**fields)`, whose parameters lie under "branch"."""
    width, layers = fields["width"], fields["layers"]
    channels = fields["context_channels"] // math.prod(patch)
    after = [f"vace_blocks.{i}.after_proj" for i in range(layers)]
    return [
        *_patch_linear("branch/patch_embedding", "vace_patch_embedding", channels, width, patch),
        *_linear("branch/before_proj", ["vace_blocks.0.before_proj"], width, width),
        *_blocks("branch/blocks/block", "vace_blocks", layers, fields, fields["text"]),
        *_linear("branch/blocks/after_proj", after, width, width, stacked=True),
    ]


def branch_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the MemoryBranch inside `Denoiser(**fields)`."""
    return {
        "width": fields["width"],
        "heads": fields["heads"],
        "mlp_width": fields["mlp_width"],
        "layers": len(fields["branch_layers"]),
        "context_channels": fields["memory_channels"] * math.prod(fields["patch"]),
        "text": bool(fields["text_width"]),
    }


def _blocks(
    prefix: str, stack: str, layers: int, fields: Mapping[str, Any], text: bool
) -> list[Placement]:
    def each(name: str) -> list[str]:
        return [f"{stack}.{i}.{name}" for i in range(layers)]

    width = fields["width"]
    plan = [_rows(f"{prefix}/modulation", each("modulation"), (6, width), stacked=True)]
    for path, (name, inputs, outputs) in BLOCK_LINEARS.items():
        if text or not path.startswith("cross"):
            ends = fields[inputs], fields[outputs]
            plan += _linear(f"{prefix}/{path}", each(name), *ends, stacked=True)
    for path, name in _BLOCK_VECTORS.items():
        if text or not path.startswith("cross"):
            plan.append(_vector(f"{prefix}/{path}", each(name), width, stacked=True))
    return plan


def _linear(
    path: str, modules: list[str], inputs: int, outputs: int, stacked: bool = False
) -> list[Placement]:
    weights = tuple(f"{module}.weight" for module in modules)
    biases = [f"{module}.bias" for module in modules]
    shapes = (inputs, outputs), (outputs, inputs)
    return [
        Placement(f"{path}/kernel", weights, *shapes, (1, 0), stacked),
        _vector(f"{path}/bias", biases, outputs, stacked),
    ]


def _patch_linear(
    path: str, module: str, inputs: int, outputs: int, patch: tuple[int, ...]
) -> list[Placement]:
    """A convolution (out, c, pt, ph, pw) of theirs, a matrix (pt ph pw c, out) of ours."""
    shapes = (math.prod(patch) * inputs, outputs), (outputs, inputs, *patch)
    return [
        Placement(f"{path}/kernel", (f"{module}.weight",), *shapes, (2, 3, 4, 1, 0)),
        _vector(f"{path}/bias", [f"{module}.bias"], outputs),
    ]


def _vector(path: str, names: list[str], size: int, stacked: bool = False) -> Placement:
    return Placement(path, tuple(names), (size,), (size,), (0,), stacked)


def _rows(path: str, names: list[str], shape: tuple[int, int], stacked: bool = False) -> Placement:
    return Placement(path, tuple(names), shape, (1, *shape), (0, 1, 2), stacked)


def check_branch(tensors: Tensors, branch_layers: tuple[int, ...]) -> int:
    """How many `vace_blocks` there are; ValueError unless it is one for each of `branch_layers`."""
    found = count_layers(tensors, "vace_blocks")
    if found != len(branch_layers):
        last = f", the last is vace_blocks.{found - 1}" if found else ""
        raise ValueError(
            f"branch: found {found} vace_blocks among the tensors{last}; expected "
            f"{len(branch_layers)} for branch_layers {tuple(branch_layers)}; --branch_layers (or "
            "--model) says which block the hint of each belongs to"
        )
    return found


def wan_dit_fields(
    tensors: Tensors, *, heads: int, branch_layers: tuple[int, ...] = ()
) -> dict[str, Any]:
    """Fields of the Denoiser that tensors belong to.

    Shapes fix everything but the number of heads (24 for Wan 2.2 TI2V-5B) and the blocks that the
    branch's hints belong to (0, 2, ..., 28 in Mirage's release, 0, 4, ..., 28 in its paper and in
    Spatia). These must be given, they are never guessed.

    Raises:
      ValueError: if a tensor is missing, or the number of branch layers is not the tensors'.
    """
    tensors = original_names(tensors)

    def shape(name: str, axes: int = 2) -> tuple[int, ...]:
        return shape_of(tensors, name, axes, "a Wan diffusion transformer")

    width, in_channels, *patch = shape("patch_embedding.weight", 5)
    branch = check_branch(tensors, branch_layers)
    text = "text_embedding.0.weight" in tensors
    return {
        "width": width,
        "depth": count_layers(tensors, "blocks"),
        "heads": heads,
        "mlp_width": shape("blocks.0.ffn.0.weight")[0],
        "in_channels": in_channels,
        "out_channels": shape("head.head.weight")[0] // math.prod(patch),
        "patch": tuple(patch),
        "text_width": shape("text_embedding.0.weight")[1] if text else 0,
        "freq_width": shape("time_embedding.0.weight")[1],
        "memory_channels": shape("vace_patch_embedding.weight", 5)[1] if branch else 0,
        "memory_hint": False,
        "branch_layers": tuple(branch_layers),
    }


def wan_branch_fields(tensors: Tensors, *, heads: int) -> dict[str, Any]:
    """Fields of the MemoryBranch that tensors with original names belong to."""
    embedding = shape_of(tensors, "vace_patch_embedding.weight", 5, "a VACE branch")
    inner = shape_of(tensors, "vace_blocks.0.ffn.0.weight", 2, "a VACE branch")
    return {
        "width": embedding[0],
        "heads": heads,
        "mlp_width": inner[0],
        "layers": count_layers(tensors, "vace_blocks"),
        "context_channels": math.prod(embedding[1:]),
        "text": any(name.startswith("vace_blocks.0.cross_attn.") for name in tensors),
    }


def from_wan_dit(tensors: Tensors) -> dict[str, Any]:
    """Parameters (unboxed, float32 numpy) of `Denoiser(**wan_dit_fields(...))`, either naming.

    Raises:
      ValueError: naming tensors that are missing, unknown, of another shape than the others ask
        for, or not finite.
    """
    tensors = original_names(tensors)
    layers = tuple(range(count_layers(tensors, "vace_blocks")))
    plan = wan_dit_plan(wan_dit_fields(tensors, heads=0, branch_layers=layers))
    check(plan, tensors, "Wan diffusion transformer")
    return assemble(plan, tensors)


def to_wan_dit(params: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Tensors under original names of parameters of `Denoiser(**fields)`; inverse of the above.

    Raises:
      ValueError: naming parameters that have no counterpart in Wan (memory hint, ray adapter), or
        are not those of the fields.
    """
    flat = flatten_dict(dict(params), sep="/")
    plan = wan_dit_plan(fields)
    check_params(plan, flat, "Wan diffusion transformer")
    return dict(disassemble(plan, flat))


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
