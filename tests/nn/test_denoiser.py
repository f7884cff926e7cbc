"""The denoiser against diffusers and the released Mirage model, and its own additions."""

import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file

from helpers import paths, tiny_world
from mirage_jax.convert import wan_dit
from mirage_jax.nn.block import REMAT, DiTBlock, over_layers
from mirage_jax.nn.denoiser import (
    Denoiser,
    _Layer,
    velocity_preconditioning,
)
from mirage_jax.nn.rope import video_rotations
from mirage_jax.nn.timesteps import timestep_embedding
from mirage_jax.parallel.flops import matmul_flops

GOLDEN = paths.GOLDEN
GATE = 2e-5
CASES = (
    "t2v_no_mem",
    "first_chunk",
    "ref2_pre2",
    "ref1_pre0",
    "ref0_pre2",
    "ref4_pre2_scale05",
    "per_frame_sigma_b2",
    "single_timestep_fused",
    "unfused_scalar_t",
)
TINY = {
    "width": 48,
    "depth": 3,
    "heads": 2,
    "mlp_width": 64,
    "in_channels": 6,
    "out_channels": 6,
    "freq_width": 32,
}


def golden(folder):
    with np.load(GOLDEN / folder / "io.npz") as arrays:
        return load_file(GOLDEN / folder / "weights.safetensors"), dict(arrays)


def apply(model, params, *inputs, all_frames=False, **options):
    """`model.apply`, compiled as one program: far quicker than compiling every operation."""
    return _apply(model, params, inputs, options, all_frames)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _apply(model, params, inputs, options, all_frames):
    return model.apply(params, *inputs, **options, all_frames=all_frames)


def channels_last(x):
    return jnp.asarray(np.moveaxis(x, 1, -1))


@pytest.fixture(scope="module")
def mirage():
    tensors, arrays = golden("official_mirage_dit_vace")
    fields = wan_dit.wan_dit_fields(tensors, heads=2, branch_layers=(0, 2))
    return Denoiser(**fields), {"params": wan_dit.from_wan_dit(tensors)}, arrays


def mirage_inputs(arrays, case):
    get = lambda name: arrays[f"{case}/{name}"]  # noqa: E731
    references, target, _ = (int(n) for n in get("meta_R_T_P"))
    frames = channels_last(get("latents"))
    timestep = get("timestep")
    if len(timestep) == 1:  # one level; with "fuse" the first target frame is clean
        timestep = np.repeat(timestep, target)
        timestep[0] *= 1 - int(get("fuse"))
    else:
        timestep = timestep[references : references + target]
    reference, latents, preceding = np.split(frames, [references, references + target], axis=1)
    context = get("vace_context") if f"{case}/vace_context" in arrays else None
    return (
        jnp.asarray(latents),
        jnp.broadcast_to(jnp.asarray(timestep, jnp.float32), latents.shape[:2]),
    ), {
        "reference": jnp.asarray(reference) if reference.shape[1] else None,
        "preceding": jnp.asarray(preceding) if preceding.shape[1] else None,
        "text": jnp.asarray(get("context")),
        "memory": None if context is None else channels_last(context),
        "branch_scale": float(get("vace_scale")),
    }


@pytest.mark.parametrize("case", CASES)
def test_equals_the_released_model(mirage, case):
    model, params, arrays = mirage
    inputs, options = mirage_inputs(arrays, case)
    expected = channels_last(arrays[f"{case}/out"])
    found = apply(model, params, *inputs, **options, all_frames=True)
    np.testing.assert_allclose(found, expected, rtol=0, atol=GATE)


def test_returns_the_target_frames_alone(mirage):
    model, params, arrays = mirage
    inputs, options = mirage_inputs(arrays, "ref2_pre2")
    found = apply(model, params, *inputs, **options)
    expected = channels_last(arrays["ref2_pre2/out"])[:, 2:5]
    np.testing.assert_allclose(found, expected, rtol=0, atol=GATE)


def test_tables_equal_the_released_model(mirage):
    _, _, arrays = mirage
    table = video_rotations(3, 2, 2, (2, 3), 24)
    np.testing.assert_allclose(table, arrays["mid_ref2_pre2/rope_cos_sin"], rtol=0, atol=1e-7)
    steps = np.repeat(arrays["ref2_pre2/timestep"], 6)
    found = timestep_embedding(jnp.asarray(steps), 256)
    np.testing.assert_allclose(found, arrays["mid_ref2_pre2/sinus"], rtol=0, atol=5e-7)


def test_intermediates_equal_the_released_model(mirage):
    """What every part hands on, in one pass; the first block alone, as the blocks run in a loop."""
    model, params, arrays = mirage
    inputs, options = mirage_inputs(arrays, "ref2_pre2")
    parts = ("time_out", "time_projection", "text_out", "patch_embedding", "branch")

    @jax.jit
    def look(params, inputs, options):
        return model.apply(
            params,
            *inputs,
            **options,
            capture_intermediates=lambda module, _: module.name in parts,
            mutable=["intermediates"],
        )[1]["intermediates"]

    shown = look(params, inputs, options)
    time, modulation, text, x, hints = (shown[part]["__call__"][0] for part in parts)
    modulation = modulation.reshape(1, 7, 1, 6, 48)
    block = jax.tree.map(lambda leaf: leaf[0], params["params"]["blocks"]["block"])
    run = jax.jit(DiTBlock(width=48, heads=2, mlp_width=96, text=True).apply)
    after = run({"params": block}, x, modulation, video_rotations(3, 2, 2, (2, 3), 24), text)
    found = {
        "t_emb": time.repeat(6, axis=2),  # a row per frame here, one per token there
        "t_mod": modulation.repeat(6, axis=2),
        "context_emb": text,
        "x_tokens": x,
        "vace_hint0": hints[0],
        "vace_hint1": hints[1],
        "block0_out": after,
    }
    rest = {"sinus", "rope_cos_sin"}  # see the test above
    assert {f"mid_ref2_pre2/{name}" for name in found.keys() | rest} == {
        name for name in arrays if name.startswith("mid_")
    }
    for name, ours in found.items():
        theirs = arrays[f"mid_ref2_pre2/{name}"]
        assert np.ptp(theirs) > 0.1, name
        np.testing.assert_allclose(
            ours.reshape(theirs.shape), theirs, rtol=0, atol=GATE, err_msg=name
        )


@pytest.mark.parametrize("kind", ["tokens", "scalar"])
def test_equals_diffusers(kind):
    tensors, arrays = golden("diffusers_wan_ti2v")
    config = json.loads((GOLDEN / "diffusers_wan_ti2v" / "config.json").read_text())
    model = Denoiser(**wan_dit.wan_dit_fields(tensors, heads=config["num_attention_heads"]))
    latents = channels_last(arrays["hidden_states"])
    timestep = jnp.asarray(arrays[f"timestep_{kind}"])
    if kind == "tokens":
        timestep = timestep.reshape(2, 3, 2, 3)
    else:
        timestep = jnp.broadcast_to(timestep[:, None], (2, 3))
    found = apply(
        model,
        {"params": wan_dit.from_wan_dit(tensors)},
        latents,
        timestep,
        text=jnp.asarray(arrays["encoder_hidden_states"]),
    )
    np.testing.assert_allclose(found, channels_last(arrays[f"out_{kind}"]), rtol=0, atol=GATE)


@pytest.mark.parametrize("folder", ["official_mirage_dit_vace", "diffusers_wan_ti2v"])
def test_weights_survive_the_round_trip(folder):
    tensors, _ = golden(folder)
    layers = (0, 2) if "vace_patch_embedding.weight" in tensors else ()
    fields = wan_dit.wan_dit_fields(tensors, heads=2, branch_layers=layers)
    back = wan_dit.to_wan_dit(wan_dit.from_wan_dit(tensors), fields)
    original = wan_dit.original_names(tensors)
    assert set(back) == set(original)
    for name, tensor in original.items():
        np.testing.assert_array_equal(back[name], tensor, err_msg=name)


def test_weights_of_another_model_are_refused():
    tensors, _ = golden("official_mirage_dit_vace")
    broken = {k: v for k, v in tensors.items() if k != "blocks.1.ffn.0.bias"}
    with pytest.raises(ValueError, match=r"missing: blocks\.1\.ffn\.0\.bias"):
        wan_dit.from_wan_dit(broken)
    with pytest.raises(ValueError, match=r"unknown: img_emb\.proj"):
        wan_dit.from_wan_dit({**tensors, "img_emb.proj": np.zeros(3)})
    odd = {**tensors, "blocks.2.modulation": np.zeros((1, 6, 24), np.float32)}
    with pytest.raises(
        ValueError, match=r"blocks\.2\.modulation: found shape \(1, 6, 24\), expected"
    ):
        wan_dit.from_wan_dit(odd)
    with pytest.raises(
        ValueError, match=r"found 2 vace_blocks.*expected 1 for branch_layers \(0,\)"
    ):
        wan_dit.wan_dit_fields(tensors, heads=2, branch_layers=(0,))
    with pytest.raises(ValueError, match="not a Wan diffusion transformer"):
        wan_dit.wan_dit_fields({"encoder.conv1.weight": np.zeros((1, 1))}, heads=2)


RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


LATENTS, TIMESTEP = normal(2, 3, 4, 4, 6), jnp.asarray([[0.0, 500.0, 500.0], [30.0, 40.0, 999.0]])
REFERENCE, PRECEDING = normal(2, 1, 4, 4, 6), normal(2, 2, 4, 4, 6)
MEMORY, RAYS = normal(2, 3, 4, 4, 5), normal(2, 3, 4, 4, 7)
ADDED = {"memory_channels": 5, "branch_layers": (0, 2), "ray_channels": 7}


def initialise(model, latents=LATENTS, timestep=TIMESTEP):
    init = jax.jit(lambda k: nn.unbox(model.init(k, latents, timestep)))
    return init(jax.random.key(0, impl="rbg"))  # whose draws compile fast


def drawn(model):
    """Random parameters without compiling the initialisers."""
    shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), LATENTS, TIMESTEP))
    return shaken(jax.tree.map(lambda a: np.zeros(a.shape, np.float32), shapes))


def shaken(params, scale=0.2):
    """No zero-initialised tensor left, so that every part shows in the output."""
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(3)
    return tree.unflatten([a + scale * rng.normal(size=a.shape).astype(np.float32) for a in leaves])


@pytest.fixture(scope="module")
def full():
    model = Denoiser(**TINY, **ADDED, zero_head=False)
    params = initialise(model)
    return model, params, shaken(params)


def test_new_parts_start_without_effect(full):
    model, params, other = full
    plain = Denoiser(**TINY)
    new = ("branch", "memory_hint", "ray_adapter")
    base = {name: value for name, value in params["params"].items() if name not in new}
    inputs = {"reference": REFERENCE, "preceding": PRECEDING}
    fields = {"memory": MEMORY, "rays": RAYS}

    @jax.jit
    def look(params):
        return model.apply(
            params,
            LATENTS,
            TIMESTEP,
            **inputs,
            **fields,
            capture_intermediates=lambda module, _: module.name in new,
            mutable=["intermediates"],
        )

    found, shown = look(params)
    handed_on = {name: part["__call__"][0] for name, part in shown["intermediates"].items()}
    assert sorted(handed_on) == sorted(new)
    for name, array in handed_on.items():
        assert not np.asarray(array).any(), name
    # As programs the two round differently.
    expected = apply(plain, {"params": base}, LATENTS, TIMESTEP, **inputs)
    assert float(jnp.abs(expected).max()) > 0.1
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)

    with_all = apply(model, other, LATENTS, TIMESTEP, **fields)

    def change(**without):
        return float(jnp.abs(with_all - apply(model, other, LATENTS, TIMESTEP, **without)).max())

    assert change(memory=MEMORY) > 1e-3
    assert change(rays=RAYS) > 1e-3


def test_zero_head_predicts_zero_and_learns():
    model = Denoiser(**{**TINY, "depth": 1})
    params = initialise(model)
    loss = jax.jit(
        jax.value_and_grad(lambda p: jnp.square(model.apply(p, LATENTS, TIMESTEP) - 1).mean())
    )
    value, gradient = loss(params)
    assert float(value) == 1.0  # (0 - 1)^2
    assert float(jnp.abs(gradient["params"]["head"]["kernel"]).max()) > 0


def loss_and_gradient(changes, params=None):
    """Of two layers, the second with a hint from the branch."""
    fields = {**TINY, "depth": 2, "memory_channels": 5, "branch_layers": (1,), **changes}
    model = Denoiser(**fields)
    params = drawn(model) if params is None else params

    def loss(p):
        out = model.apply(p, LATENTS, TIMESTEP, memory=MEMORY)
        return jnp.square(out).mean()

    return params, *jax.jit(jax.value_and_grad(loss))(params)


@pytest.fixture(scope="module")
def reference_gradient():
    return loss_and_gradient({})


@pytest.mark.parametrize(
    "changes", [{"scan": False}, *({"remat": name} for name in REMAT if name != "none")], ids=str
)
def test_execution_options_change_neither_values_nor_gradients(reference_gradient, changes):
    params, expected, gradient = reference_gradient
    _, found, other = loss_and_gradient(changes, params)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    other = flatten_dict(other, sep="/")
    for path, array in flatten_dict(gradient, sep="/").items():
        scale = float(jnp.abs(array).max())
        np.testing.assert_allclose(other[path], array, rtol=0, atol=5e-5 * scale, err_msg=path)
        assert scale > 0, path


def test_what_the_backward_pass_computes_again():
    plain = Denoiser(**{**TINY, "depth": 3})
    params = jax.eval_shape(lambda: plain.init(jax.random.key(0), LATENTS, TIMESTEP))

    def program_of_gradient(remat):
        loss = lambda params: plain.clone(remat=remat).apply(params, LATENTS, TIMESTEP).sum()  # noqa: E731
        return jax.make_jaxpr(jax.grad(loss))(params)

    programs = {name: program_of_gradient(name) for name in REMAT}
    flops = {name: matmul_flops(program.jaxpr) for name, program in programs.items()}
    forward = flops["full"] - flops["none"]
    assert flops["offload"] == flops["full"]
    # Attention's two products of 2 (n x n x d) each: 12 tokens a sample, width 48.
    scores = 3 * 2 * (2 * 2 * 12 * 12 * 48)
    assert flops["full"] - flops["attention"] == scores // 2  # its output is kept, weights are not
    assert flops["elementwise"] == flops["none"]
    assert flops["none"] <= flops["dots"] < flops["none"] + forward / 2
    assert "host" in str(programs["offload"]).lower()
    assert "host" not in str(programs["full"]).lower()


def test_a_loop_over_plain_blocks_is_the_same(full):
    """The stack against blocks applied one by one, hints after the blocks they belong to."""
    _, _, params = full
    stack = params["params"]["blocks"]
    x, modulation, hints = normal(2, 3, 4, 48), normal(2, 3, 1, 6, 48), normal(1, 2, 3, 4, 48)
    rotations = video_rotations(3, 0, 0, (2, 2), 24)
    fields = {"width": 48, "heads": 2, "mlp_width": 64}
    expected = x
    run = jax.jit(DiTBlock(**fields).apply)
    for layer in range(3):
        block = jax.tree.map(lambda a, i=layer: a[i], stack["block"])
        expected = run({"params": block}, expected, modulation, rotations)
        if layer == 1:
            expected = expected + hints[0]
    loop = over_layers(_Layer, 3, remat="none", scan=True)({**fields})
    shared = (modulation, rotations, None, hints)
    found, _ = jax.jit(loop.apply)({"params": stack}, x, jnp.asarray([-1, 0, -1]), shared)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=5e-5)


def test_timestep_per_frame_equals_timestep_per_patch(full):
    model, _, params = full
    each = jnp.broadcast_to(TIMESTEP[..., None, None], (2, 3, 2, 2))
    inputs = {"memory": MEMORY, "preceding": PRECEDING, "reference": REFERENCE}
    np.testing.assert_allclose(
        apply(model, params, LATENTS, each, **inputs),
        apply(model, params, LATENTS, TIMESTEP, **inputs),
        atol=1e-5,
    )


def test_memory_of_the_target_only_means_an_empty_one_elsewhere(full):
    model, _, params = full
    padded = jnp.concatenate([MEMORY, jnp.zeros((2, 2, 4, 4, 5))], axis=1)
    np.testing.assert_array_equal(
        apply(model, params, LATENTS, TIMESTEP, preceding=PRECEDING, memory=MEMORY),
        apply(model, params, LATENTS, TIMESTEP, preceding=PRECEDING, memory=padded),
    )


@pytest.fixture(scope="module")
def found_beside(full):
    """Prediction and gradient of the memory beside clean frames."""
    model, _, params = full

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def run(memory, clean):
        found = model.apply(params, LATENTS, TIMESTEP, memory=memory, rays=RAYS, **clean)
        return jnp.sin(found).sum(), found

    return lambda clean: run(MEMORY, clean)


@pytest.mark.parametrize("there", [(0, 0), (1, 0), (2, 2), (0, 2)], ids=str)
def test_absent_frames_are_as_good_as_left_out(found_beside, there):
    """Of room for two references and two preceding frames; what is in empty room does not count."""
    room = {"reference": 100 * normal(2, 2, 4, 4, 6), "preceding": 100 * normal(2, 2, 4, 4, 6)}
    references, precedings = there
    clean = {}
    if references:
        clean["reference"] = jnp.concatenate([REFERENCE, -REFERENCE], axis=1)[:, :references]
        room["reference"] = room["reference"].at[:, 2 - references :].set(clean["reference"])
    if precedings:
        clean["preceding"] = room["preceding"] = PRECEDING
    present = jnp.array([False] * (2 - references) + [True] * references + [precedings > 0] * 2)
    room["frame_mask"] = jnp.stack([present, present])

    for found, expected in zip(found_beside(room), found_beside(clean), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_frame_mask_must_cover_the_clean_frames(full):
    model, _, params = full
    inputs = {"reference": REFERENCE, "preceding": PRECEDING, "frame_mask": jnp.ones((2, 2), bool)}
    with pytest.raises(
        ValueError, match=r"frame_mask: found 2 frames, expected 1 reference and 2 prec"
    ):
        jax.eval_shape(lambda: model.apply(params, LATENTS, TIMESTEP, **inputs))


def test_no_text_is_any_number_of_zero_tokens():
    model = Denoiser(**{**TINY, "depth": 1}, text_width=8)
    params = drawn(model)
    none = apply(model, params, LATENTS, TIMESTEP)
    zeros = apply(model, params, LATENTS, TIMESTEP, text=jnp.zeros((2, 5, 8)))
    some = apply(model, params, LATENTS, TIMESTEP, text=normal(2, 5, 8))
    np.testing.assert_allclose(none, zeros, atol=1e-5)
    assert float(jnp.abs(none - some).max()) > 1e-3


def test_bfloat16_products_keep_a_float32_stream():
    model = Denoiser(**TINY)
    params = drawn(model)
    expected = apply(model, params, LATENTS, TIMESTEP)
    found = apply(model.clone(dtype=jnp.bfloat16), params, LATENTS, TIMESTEP)
    assert found.dtype == jnp.float32
    scale = float(jnp.abs(expected).max())
    difference = float(jnp.abs(found - expected).max())
    assert 0 < difference < 0.03 * scale


def test_bfloat16_stays_close_to_the_released_model(mirage):
    """With branch, text, references and preceding frames."""
    model, params, arrays = mirage
    inputs, options = mirage_inputs(arrays, "ref2_pre2")
    assert all(options[name] is not None for name in ("reference", "preceding", "text", "memory"))
    expected = channels_last(arrays["ref2_pre2/out"])
    half = model.clone(dtype=jnp.bfloat16)
    found = apply(half, params, *inputs, **options, all_frames=True)
    assert found.dtype == jnp.float32
    error = float(jnp.abs(found - expected).max() / jnp.abs(expected).max())
    assert 1e-3 < error < 0.02


def test_parameters_carry_their_axis_names():
    model = Denoiser(**TINY, **ADDED, text_width=8)
    boxed = jax.eval_shape(model.init, jax.random.key(0), LATENTS, TIMESTEP)
    specs = nn.get_partition_spec(boxed)["params"]
    specs = {path: tuple(spec) for path, spec in flatten_dict(specs, sep="/").items()}
    assert specs["blocks/block/self_attn/q/kernel"] == ("layers", "embed", "heads")
    assert specs["blocks/block/mlp_out/kernel"] == ("layers", "mlp", "embed")
    assert specs["branch/blocks/after_proj/kernel"] == ("layers", "embed", None)
    shapes = flatten_dict(nn.unbox(boxed)["params"], sep="/")
    for path, spec in specs.items():
        assert len(spec) == len(shapes[path].shape), path


@pytest.mark.parametrize(
    ("fields", "inputs", "words"),
    [
        ({"heads": 3}, {}, r"head size.*found 16.*\(6, 5, 5\).*18"),
        ({"heads": 5}, {}, "heads: found 5, expected a divisor of width 48"),
        ({"branch_layers": (3,), "memory_channels": 2}, {}, r"branch_layers: found \(3,\).*0\.\.2"),
        ({"branch_layers": (0,)}, {}, "memory_channels: found 0"),
        ({"remat": "some"}, {}, "remat: found 'some', expected one of none, elementwise, dots"),
        ({}, {"memory": MEMORY}, "memory: found 5 channels, expected 0"),
        ({"ray_channels": 7}, {"rays": RAYS[:, :2]}, "rays: found 2 frames, expected 3"),
        ({}, {"text": normal(2, 1, 8)}, "text_width is 0"),
        ({"patch": (1, 3, 3)}, {}, r"not divided by patch \(1, 3, 3\)"),
        ({"patch": (3, 2, 2)}, {"preceding": PRECEDING}, "expected 1 in time"),
    ],
)
def test_refuses(fields, inputs, words):
    model = Denoiser(**{**TINY, **fields})
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(lambda: model.init(jax.random.key(0), LATENTS, TIMESTEP, **inputs))


def test_graft():
    shapes = {name: np.zeros((2, 2)) for name in ("a", "b")}
    model, loaded = {"trunk": shapes, "branch": shapes}, {"trunk": {"a": np.ones((2, 2))}}
    grafted = wan_dit.graft(model, loaded)
    assert grafted["trunk"]["a"].all()
    assert not grafted["trunk"]["b"].any()
    assert not grafted["branch"]["a"].any()
    with pytest.raises(ValueError, match="trunk/c: found in the weights"):
        wan_dit.graft(model, {"trunk": {"c": np.ones((2, 2))}})
    with pytest.raises(ValueError, match=r"trunk/a: found shape \(3,\), expected \(2, 2\)"):
        wan_dit.graft(model, {"trunk": {"a": np.ones(3)}})


# -- preconditioning -----------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.0, 0.2, 0.7, 1.0])
@pytest.mark.parametrize("std", [0.3, 1.0, 4.0])
def test_what_the_network_must_add_has_unit_variance_and_is_new(sigma, std):
    rng = np.random.default_rng(0)
    x0, noise = std * rng.standard_normal(200_000), rng.standard_normal(200_000)
    x = (1 - sigma) * x0 + sigma * noise
    skip, scale = velocity_preconditioning(jnp.full(1, sigma), jnp.full(1, std))
    target = (noise - x0 - float(skip[0, 0]) * x) / float(scale[0, 0])
    assert abs(target.std() - 1.0) < 0.01
    assert abs(np.corrcoef(target, x)[0, 1]) < 0.01


def test_a_new_preconditioned_denoiser_predicts_the_regression():
    key = jax.random.key(0)
    model = Denoiser(48, 1, 2, 48, 4, 4, data_std=(0.5, 1.0, 1.0, 2.0))
    x = jax.random.normal(key, (2, 3, 2, 2, 4))
    timestep = jnp.array([[0.0, 500.0, 1000.0]] * 2)
    velocity = apply(model, initialise(model, x, timestep), x, timestep)
    expected = velocity_preconditioning(timestep / 1000.0, jnp.array(model.data_std))[0]
    np.testing.assert_allclose(velocity, expected[:, :, None, None] * x, atol=1e-6)


# -- the memory prior ----------------------------------------------------------------------------

STD = (0.5, 1.0, 1.0, 2.0)


@pytest.fixture(scope="module")
def denoiser_with_prior():
    """A new denoiser whose prior has weights, and those weights."""
    model = Denoiser(48, 1, 2, 48, 4, 4, memory_channels=3, data_std=STD, memory_prior=True)
    rng = np.random.default_rng(0)
    shapes = {"mean_kernel": (3, 4), "mean_bias": 4, "variance_kernel": (3, 4)}
    prior = {name: 0.05 * rng.normal(size=shape) for name, shape in shapes.items()}
    prior["variance_bias"] = 0.5 * np.square(STD)
    x = jnp.zeros((1, 2, 2, 2, 4))
    params = initialise(model, x, jnp.zeros((1, 2)))["params"]
    assert {n: a.shape for n, a in params["memory_prior"].items()} == {
        n: a.shape for n, a in prior.items()
    }
    prior = {name: jnp.asarray(value, jnp.float32) for name, value in prior.items()}
    return model, {"params": {**params, "memory_prior": prior}}, prior


def test_a_new_denoiser_with_a_prior_predicts_the_regression_given_the_memory(denoiser_with_prior):
    """Best linear guess of noise - x0 from x for x0 = N(mean, variance), by its definition."""
    model, params, prior = denoiser_with_prior
    key = jax.random.key(1)
    x = jax.random.normal(key, (2, 3, 2, 2, 4))
    memory = jax.random.normal(jax.random.key(2), (2, 3, 2, 2, 3))
    sigma = jnp.array([0.3, 0.6, 1.0])
    found = apply(model, params, x, jnp.tile(1000 * sigma, (2, 1)), memory=memory)

    mean = memory @ prior["mean_kernel"] + prior["mean_bias"]
    variance = memory @ prior["variance_kernel"] + prior["variance_bias"]
    s = sigma[:, None, None, None]
    covariance = s - (1 - s) * variance  # of noise - x0 with x
    surprise = x - (1 - s) * mean
    expected = -mean + covariance / (s**2 + (1 - s) ** 2 * variance) * surprise
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_without_memory_the_prior_is_the_spread_of_the_latents_and_clean_frames_stay(
    denoiser_with_prior,
):
    model, params, _ = denoiser_with_prior
    plain = Denoiser(48, 1, 2, 48, 4, 4, memory_channels=3, data_std=STD)
    rest = {name: leaf for name, leaf in params["params"].items() if name != "memory_prior"}
    key = jax.random.key(1)
    x, timestep = jax.random.normal(key, (2, 3, 2, 2, 4)), jnp.array([[0.0, 500.0, 900.0]] * 2)
    np.testing.assert_allclose(
        apply(model, params, x, timestep), apply(plain, {"params": rest}, x, timestep), atol=1e-6
    )
    # A clean frame enters and leaves the network as it is, whatever the memory says of it.
    head = rest["head"]["kernel"]
    trained = {**rest, "head": {**rest["head"], "kernel": head + 0.1}}
    memory = jax.random.normal(jax.random.key(2), (2, 3, 2, 2, 3))
    clean = jnp.zeros((2, 3))
    got = apply(model, {"params": params["params"] | trained}, x, clean, memory=memory)
    want = apply(plain, {"params": trained}, x, clean, memory=memory)
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert np.abs(want + x).max() > 0.1  # the network adds something


def test_no_gradient_reaches_a_fitted_prior(denoiser_with_prior):
    model, params, _ = denoiser_with_prior
    x = jax.random.normal(jax.random.key(1), (1, 2, 2, 2, 4))
    memory = jax.random.normal(jax.random.key(2), (1, 2, 2, 2, 3))

    def loss(params):
        return jnp.square(model.apply(params, x, jnp.full((1, 2), 500.0), memory=memory)).sum()

    gradient = jax.jit(jax.grad(loss))(params)["params"]
    assert not any(np.asarray(leaf).any() for leaf in gradient["memory_prior"].values())
    assert np.asarray(gradient["head"]["kernel"]).any()


def test_a_prior_needs_memory_and_the_spread_of_the_latents():
    for fields in ({"memory_channels": 3}, {"data_std": STD}):
        model = Denoiser(48, 1, 2, 48, 4, 4, memory_prior=True, **fields)
        with pytest.raises(ValueError, match="memory_prior: found"):
            model.init(jax.random.key(0), jnp.zeros((1, 2, 2, 2, 4)), jnp.zeros((1, 2)))


def test_each_layer_of_the_branch_has_a_strength_of_its_own():
    """A factor on a layer's hint is one on the projection that makes it."""
    model = tiny_world.denoiser(3, branch_layers=(0, 1))
    latents = jax.random.normal(jax.random.key(0), (1, 2, *tiny_world.GRID, tiny_world.CHANNELS))
    times, memory = jnp.full((1, 2), 500.0), jnp.ones((1, 2, *tiny_world.GRID, 3))
    params = tiny_world.random_params(model, 3, latents, times)
    run = jax.jit(
        lambda params, scale: model.apply(
            {"params": params}, latents, times, memory=memory, branch_scale=scale
        )
    )
    scaled = jax.tree.map(lambda leaf: leaf, params)
    after = scaled["branch"]["blocks"]["after_proj"]
    for name, leaf in after.items():
        after[name] = leaf * jnp.array([0.25, 2.0]).reshape(2, *(1,) * (leaf.ndim - 1))
    ones = jnp.ones(2)
    found = run(params, jnp.array([0.25, 2.0]))
    np.testing.assert_allclose(found, run(scaled, ones), rtol=1e-5, atol=1e-5)
    assert np.abs(found - run(params, ones)).max() > 1e-2
    with pytest.raises(ValueError, match=r"branch_scale: found shape \(3,\), expected one number"):
        jax.eval_shape(run, params, jnp.ones(3))
