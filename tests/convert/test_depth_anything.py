"""Weights of Depth Anything: three namings in and out, and what is refused."""

import re

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from helpers import paths
from mirage_jax.convert.depth_anything import NAMINGS, from_depth_anything, to_depth_anything
from mirage_jax.nn.depth_anything import DepthAnything

GOLDEN = paths.GOLDEN / "transformers_depth_anything_relative"
LAYERS = 4
MODEL = DepthAnything(
    width=24,
    layers=LAYERS,
    heads=2,
    mlp_width=48,
    taps=(0, 1, 2, 3),
    neck_widths=(8, 12, 16, 24),
    fusion_width=16,
    hidden_width=8,
    table_side=5,
)
# transformers -> original; the queries, keys and values of a layer are one tensor there.
RENAMED = (
    (r"backbone\.embeddings\.(cls_token|mask_token)", r"pretrained.\1"),
    (r"backbone\.embeddings\.position_embeddings", "pretrained.pos_embed"),
    (r"backbone\.embeddings\.patch_embeddings\.projection", "pretrained.patch_embed.proj"),
    (r"backbone\.layernorm", "pretrained.norm"),
    (r"backbone\.encoder\.layer\.", "pretrained.blocks."),
    (r"attention\.o_proj", "attn.proj"),
    (r"layer_scale(\d)\.lambda1", r"ls\1.gamma"),
    (r"neck\.reassemble_stage\.layers\.(\d)\.projection", r"depth_head.projects.\1"),
    (r"neck\.reassemble_stage\.layers\.(\d)\.resize", r"depth_head.resize_layers.\1"),
    *((rf"neck\.convs\.{i}", f"depth_head.scratch.layer{i + 1}_rn") for i in range(4)),
    *(
        (rf"neck\.fusion_stage\.layers\.{i}", f"depth_head.scratch.refinenet{4 - i}")
        for i in range(4)
    ),
    (r"(refinenet\d)\.projection", r"\1.out_conv"),
    (r"residual_layer(\d)\.convolution(\d)", r"resConfUnit\1.conv\2"),
    (r"head\.conv1", "depth_head.scratch.output_conv1"),
    (r"head\.conv2", "depth_head.scratch.output_conv2.0"),
    (r"head\.conv3", "depth_head.scratch.output_conv2.2"),
)


@pytest.fixture(scope="module")
def tensors():
    return load_file(GOLDEN / "weights.safetensors")


def as_original(tensors):
    renamed = {}
    for name, tensor in tensors.items():
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    for layer in range(LAYERS):
        for kind in ("weight", "bias"):
            parts = [
                renamed.pop(f"pretrained.blocks.{layer}.attention.{part}_proj.{kind}")
                for part in "qkv"
            ]
            renamed[f"pretrained.blocks.{layer}.attn.qkv.{kind}"] = np.concatenate(parts)
    return renamed


def as_transformers_4(tensors):
    names = {"q_proj": "attention.query", "k_proj": "attention.key", "v_proj": "attention.value"}
    names["o_proj"] = "output.dense"
    change = lambda name: re.sub(r"[qkvo]_proj", lambda m: names[m[0]], name)  # noqa: E731
    return {change(name): tensor for name, tensor in tensors.items()}


NAMED = {
    "transformers": dict,
    "transformers_4": as_transformers_4,
    "original": as_original,
}


@pytest.mark.parametrize("naming", NAMINGS)
def test_weights_survive_the_round_trip(tensors, naming):
    named = NAMED[naming](tensors)
    params = from_depth_anything(named, MODEL)
    back = to_depth_anything(params, naming)
    assert set(back) == set(named)
    for name, tensor in named.items():
        assert back[name].dtype == np.float32 and back[name].flags.c_contiguous
        np.testing.assert_array_equal(back[name], tensor, err_msg=name)


def test_every_naming_means_the_same_network(tensors):
    params, *others = (from_depth_anything(NAMED[naming](tensors), MODEL) for naming in NAMINGS)
    assert len(others) == 2
    for other in others:
        jax.tree.map(np.testing.assert_array_equal, params, other)


def test_original_names_of_a_few_tensors_and_their_number(tensors):
    """Stated one by one, so that no pattern stands between the release and us."""
    found = to_depth_anything(from_depth_anything(tensors, MODEL), "original")
    shapes = {name: tensor.shape for name, tensor in found.items()}
    assert len(shapes) == len(tensors) - 4 * LAYERS
    for name, shape in {
        "pretrained.cls_token": (1, 1, 24),
        "pretrained.mask_token": (1, 24),
        "pretrained.pos_embed": (1, 26, 24),
        "pretrained.patch_embed.proj.weight": (24, 3, 14, 14),
        "pretrained.blocks.3.attn.qkv.weight": (72, 24),
        "pretrained.blocks.3.ls2.gamma": (24,),
        "pretrained.norm.bias": (24,),
        "depth_head.resize_layers.0.weight": (8, 8, 4, 4),
        "depth_head.resize_layers.3.weight": (24, 24, 3, 3),
        "depth_head.scratch.layer1_rn.weight": (16, 8, 3, 3),
        "depth_head.scratch.refinenet4.resConfUnit1.conv1.weight": (16, 16, 3, 3),
        "depth_head.scratch.refinenet1.out_conv.bias": (16,),
        "depth_head.scratch.output_conv2.0.weight": (8, 8, 3, 3),
        "depth_head.scratch.output_conv2.2.bias": (1,),
    }.items():
        assert shapes[name] == shape, name


def test_weights_of_another_model_are_refused(tensors):
    name = "neck.fusion_stage.layers.2.projection.bias"
    with pytest.raises(ValueError, match=rf"1 tensors missing: {re.escape(name)}"):
        from_depth_anything({k: v for k, v in tensors.items() if k != name}, MODEL)
    with pytest.raises(ValueError, match=r"without a place in the model: backbone\.register"):
        from_depth_anything({**tensors, "backbone.register": np.zeros(3)}, MODEL)
    with pytest.raises(ValueError, match=rf"{name}: found shape \(15,\), expected \(16,\)"):
        from_depth_anything({**tensors, name: tensors[name][:15]}, MODEL)
    wide = MODEL.clone(neck_widths=(8, 12, 16, 28))
    with pytest.raises(ValueError, match=r"\.3\..*found shape \(24,.*expected \(28,"):
        from_depth_anything(tensors, wide)
    with pytest.raises(ValueError, match=r"missing: backbone\.encoder\.layer\.4"):
        from_depth_anything(tensors, MODEL.clone(layers=LAYERS + 1))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(tensors, value):
    name = "pretrained.blocks.1.attn.qkv.weight"
    broken = as_original(tensors)
    broken[name] = broken[name].copy()
    broken[name][40, 3] = value
    with pytest.raises(ValueError, match=rf"{name}: 1 of 1728 values are not finite"):
        from_depth_anything(broken, MODEL)


def test_parameters_without_a_name_are_refused(tensors):
    params = from_depth_anything(tensors, MODEL)
    with pytest.raises(ValueError, match="without a counterpart in Depth Anything: head/lora"):
        to_depth_anything({**params, "head": {**params["head"], "lora": np.zeros(2)}})
    with pytest.raises(ValueError, match="found 'timm', expected one of transformers"):
        to_depth_anything(params, "timm")
