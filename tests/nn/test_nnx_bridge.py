"""Every public module wrapped with `nnx.bridge.ToNNX`, which is how NNX code bases lift them."""

import importlib
import inspect
import pkgutil
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import mirage_jax.nn
from mirage_jax.nn import (
    depth_anything,
    dinov2,
    layers,
    memory_branch,
    memory_prior,
    tiny_decoder,
    vae_blocks,
    vae_linear_path,
    video_vae,
)
from mirage_jax.nn.attention import Attention, Linear
from mirage_jax.nn.block import DiTBlock
from mirage_jax.nn.denoiser import Denoiser
from mirage_jax.nn.geometry_head import CellMLP, GeometryHead
from mirage_jax.nn.rope import video_rotations
from mirage_jax.nn.text_encoder import TextEncoder
from mirage_jax.nn.video_vae import VideoVAE

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


BLOCK = {"width": 12, "heads": 2, "mlp_width": 8}
# Two frames of 1x2 cells, heads of 6 channels.
TOKENS, MODULATION = normal(1, 2, 2, 12), normal(1, 2, 1, 6, 12)
ROTATIONS = video_rotations(2, 0, 0, (1, 2), 6)
TEXT, PROMPT, TIMESTEP = normal(1, 3, 12), normal(1, 3, 5), jnp.array([[0.0, 700.0]])
LEVELS = {"width_mults": (1, 2), "blocks": 1, "temporal_downsample": (True,)}
LATENTS, CLIP, CELLS = normal(1, 2, 2, 4, 4), normal(1, 3, 8, 8, 3), normal(1, 3, 4, 4, 4)
BACKBONE = {"width": 12, "layers": 2, "heads": 2, "mlp_width": 8, "table_side": 2}
PATCHES = tuple(normal(1, 1, 2, 6) for _ in range(4))
PICTURE = normal(1, 28, 14, 3)

CASES = {
    Linear: (Linear(3, 4), (normal(2, 3),)),
    Attention: (Attention(12, 2), (normal(1, 3, 12),)),
    DiTBlock: (DiTBlock(**BLOCK, text=True), (TOKENS, MODULATION, ROTATIONS, TEXT)),
    memory_branch.MemoryBranch: (
        memory_branch.MemoryBranch(**BLOCK, layers=2, context_channels=3),
        (normal(1, 2, 2, 3), TOKENS, MODULATION, ROTATIONS),
    ),
    memory_prior.MemoryPrior: (memory_prior.MemoryPrior(3, (1.0, 2.0)), (normal(2, 3),)),
    Denoiser: (
        Denoiser(
            **BLOCK,
            depth=2,
            in_channels=4,
            out_channels=4,
            text_width=5,
            freq_width=8,
            memory_channels=3,
            branch_layers=(1,),
            ray_channels=6,
        ),
        (LATENTS, TIMESTEP),
        {"text": PROMPT, "memory": normal(1, 2, 2, 4, 3), "rays": normal(1, 2, 2, 4, 6)},
    ),
    TextEncoder: (
        TextEncoder(11, width=8, heads=2, head_width=4, mlp_width=8, depth=2),
        (jnp.array([[3, 1, 4]]), jnp.array([[1, 1, 0]])),
    ),
    CellMLP: (CellMLP(3), (LATENTS,)),
    GeometryHead: (GeometryHead(width=4, mlp_ratio=1), (LATENTS, jnp.array([[True, False]]))),
    layers.RMSNorm: (layers.RMSNorm(), (normal(2, 3),)),
    layers.Conv2d: (layers.Conv2d(4), (CELLS,)),
    layers.CausalConv3d: (layers.CausalConv3d(3), (CELLS,)),
    vae_blocks.ResidualBlock: (vae_blocks.ResidualBlock(6), (CELLS,)),
    vae_blocks.FrameAttention: (vae_blocks.FrameAttention(), (CELLS,)),
    vae_blocks.Downsample: (vae_blocks.Downsample(True), (CELLS,)),
    vae_blocks.Upsample: (vae_blocks.Upsample(6, True), (CELLS,)),
    vae_blocks.TemporalMix: (vae_blocks.TemporalMix(5), ([CELLS, CELLS + 1, CELLS + 2],)),
    video_vae.Encoder: (video_vae.Encoder(2, 3, attention=True, **LEVELS), (CELLS,)),
    video_vae.Decoder: (video_vae.Decoder(2, 3, attention=True, **LEVELS), (CELLS,)),
    vae_linear_path.LinearEncoder: (vae_linear_path.LinearEncoder(4, 4, 2), (CLIP, True)),
    vae_linear_path.LinearDecoder: (vae_linear_path.LinearDecoder(4, 2), (LATENTS, True)),
    VideoVAE: (VideoVAE(2, 2, 4, **LEVELS), (CLIP,)),
    tiny_decoder.MemoryBlock: (tiny_decoder.MemoryBlock(4), (CELLS, CELLS[:, 0])),
    tiny_decoder.TinyDecoder: (tiny_decoder.TinyDecoder(4, widths=(4, 4, 4, 4)), (LATENTS,)),
    dinov2.LayerNorm: (dinov2.LayerNorm(), (normal(2, 3),)),
    dinov2.DINOv2: (dinov2.DINOv2(**BACKBONE, taps=(0, 1)), (PICTURE,)),
    depth_anything.Upsample: (depth_anything.Upsample(3, 2), (PATCHES[0],)),
    depth_anything.ResidualUnit: (depth_anything.ResidualUnit(), (PATCHES[0],)),
    depth_anything.Fusion: (depth_anything.Fusion(), (PATCHES[0], PATCHES[1], (2, 4))),
    depth_anything.DPTHead: (depth_anything.DPTHead((2, 2, 2, 2), 4, 2), (PATCHES,)),
    depth_anything.DepthAnything: (
        depth_anything.DepthAnything(
            **BACKBONE, taps=(0, 0, 1, 1), neck_widths=(2, 2, 2, 2), fusion_width=4, hidden_width=2
        ),
        (PICTURE,),
    ),
}


def public_modules():
    for found in pkgutil.walk_packages(mirage_jax.nn.__path__, "mirage_jax.nn."):
        for name, kind in inspect.getmembers(importlib.import_module(found.name), inspect.isclass):
            own = issubclass(kind, nn.Module) and kind.__module__ == found.name
            if own and not name.startswith("_"):
                yield kind


def test_no_public_module_is_left_out():
    assert set(public_modules()) == set(CASES)


def lift(module, inputs, options):
    """The wrapped module split into definition and state, both without values."""
    options = {**options, "rngs": jax.random.key(0)}
    wrapped = nnx.eval_shape(lambda: nnx.bridge.ToNNX(module).lazy_init(*inputs, **options))
    return nnx.split(wrapped)


def call(definition, state, params, run):
    """`run` of the wrapped module with these parameters."""
    nnx.replace_by_pure_dict(state, params)
    return run(nnx.merge(definition, state))


def program(function, params):
    """What JAX is told to compute, without the addresses of functions."""
    return re.sub(r"0x[0-9a-f]+", "", str(jax.make_jaxpr(function)(params)))


@pytest.mark.long
@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
def test_a_module_computes_the_same_without_jit_and_with_every_check(kind):
    module, inputs, *options = CASES[kind]
    options = options[0] if options else {}
    variables = jax.eval_shape(lambda: nn.unbox(module.init(jax.random.key(0), *inputs, **options)))
    draw = np.random.default_rng(0).normal
    variables = jax.tree.map(lambda leaf: jnp.float32(0.2 * draw(size=leaf.shape)), variables)
    expected = jax.jit(lambda v: module.apply(v, *inputs, **options))(variables)
    with (
        jax.disable_jit(),
        jax.debug_nans(True),
        jax.numpy_rank_promotion("raise"),
        jax.enable_x64(True),
    ):
        found = module.apply(variables, *inputs, **options)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype == np.float32
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
def test_a_wrapped_module_computes_the_same(kind):
    """In float32 where JAX counts in 64 bits, and with no broadcast that is not asked for."""
    module, inputs, *options = CASES[kind]
    options = options[0] if options else {}
    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
        definition, state = lift(module, inputs, options)
        params = nnx.to_pure_dict(state)
        assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} <= {"float32"}
        run = lambda wrapped: wrapped(*inputs, **options)  # noqa: E731
        found = program(lambda params: call(definition, state, params, run), params)
        apply = lambda params: module.apply({"params": params}, *inputs, **options)  # noqa: E731
        assert found == program(apply, params)
    assert found.count("\n") > 3 and "f32[" in found
    assert not re.search(r"f64\[\d", found)  # numbers of Python are f64[]


@pytest.mark.parametrize("kind", [DiTBlock, Denoiser, VideoVAE], ids=lambda kind: kind.__name__)
def test_a_wrapped_module_gives_the_same_values(kind):
    module, inputs, *options = CASES[kind]
    options = options[0] if options else {}
    definition, state = lift(module, inputs, options)
    params = jax.tree.map(lambda leaf: normal(*leaf.shape), nnx.to_pure_dict(state))
    run = lambda wrapped: wrapped(*inputs, **options)  # noqa: E731
    found, expected = jax.jit(
        lambda params: (
            call(definition, state, params, run),
            module.apply({"params": params}, *inputs, **options),
        )
    )(params)
    np.testing.assert_array_equal(found, expected)
    assert np.ptp(found) > 1


def in_two_chunks(method, first, second):
    """What a bound method gives for two chunks of a clip, and what it keeps of them."""
    one, kept = method(first)
    return one, kept, method(second, kept)


METHODS = {
    "encode": lambda vae: vae.encode(CLIP),
    "encode_images": lambda vae: vae.encode_images(CLIP),
    "decode": lambda vae: vae.decode(LATENTS),
    "encode_chunk": lambda vae: in_two_chunks(vae.encode_chunk, CLIP, CLIP[:, :2]),
    "decode_chunk": lambda vae: in_two_chunks(vae.decode_chunk, LATENTS, LATENTS[:, :1]),
}


@pytest.mark.parametrize("method", METHODS)
def test_other_methods_of_a_wrapped_module(method):
    module, inputs = CASES[VideoVAE]
    definition, state = lift(module, inputs, {})
    params, run = nnx.to_pure_dict(state), METHODS[method]
    found = program(lambda params: call(definition, state, params, run), params)
    assert found == program(lambda params: module.apply({"params": params}, method=run), params)
    assert found.count("\n") > 3


def test_names_of_axes_stay_with_the_variables():
    module, inputs, options = CASES[Denoiser]
    _, state = lift(module, inputs, options)
    mlp = state["blocks"]["block"]["mlp_in"]["kernel"]
    assert mlp.get_metadata()["out_sharding"] == ("layers", "embed", "mlp")
    assert mlp.shape == (2, 12, 8)


@pytest.mark.parametrize("rules", [(), (("mlp", "model"), ("embed", None))])
def test_a_mesh_needs_no_rules_and_rules_are_followed(rules):
    mesh = jax.make_mesh((1,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
        wrapped = nnx.bridge.ToNNX(Linear(3, 4), rngs=nnx.Rngs(0))
        nnx.bridge.lazy_init(wrapped, jnp.zeros((2, 3)))
    spec = getattr(wrapped.kernel.get_value().sharding, "spec", None)
    assert (spec == jax.sharding.PartitionSpec(None, "model")) == bool(rules)
