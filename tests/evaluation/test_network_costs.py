import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.evaluation import network_cases, network_costs
from mirage_jax.evaluation.network_cases import DENOISERS, VAES, DenoiserCase, VAECase
from mirage_jax.nn.video_vae import VideoVAE
from mirage_jax.parallel.flops import matmul_flops

DIT = DenoiserCase(
    {**DENOISERS["tiny"].fields, "width": 24, "heads": 1, "mlp_width": 32, "freq_width": 8},
    (2, 4, 4),
    references=1,
    precedings=1,
    text_tokens=3,
)
VAE = VAECase(
    {**VAES["tiny"].fields, "width_mults": (1, 1), "temporal_downsample": (True,)}, (3, 8, 8)
)


@pytest.fixture
def small(monkeypatch):
    """Small cases in the place of the named ones."""
    monkeypatch.setattr(network_costs, "CASES", {"denoiser": {"a": DIT}, "vae": {"b": VAE}})
    monkeypatch.setitem(network_cases.RECORDED_MS["denoiser"], "a", {"forward": 12.0})


@functools.cache
def denoiser(name):
    return network_costs.denoiser(DENOISERS[name])


@functools.cache
def vae(name):
    return network_costs.vae(VAES[name])


def size(network):
    return sum(leaf.size for leaf in jax.tree.leaves(network.params))


def test_the_named_sizes_are_what_they_say():
    """Against the numbers of parameters of the released models."""
    assert size(vae("wan22")) == 704_688_668
    assert size(denoiser("5b")) == 4_999_787_712
    assert round(size(denoiser("1.3b")) / 1e9, 2) == 1.42
    assert round(size(denoiser("10m")) / 1e6) == 10
    assert round(size(denoiser("47m")) / 1e6) == 47


def drawn(network):
    """Parameters without a zero among them, and inputs; large enough that every part counts."""
    trees = network_costs.draw(network.params, 1), network_costs.draw(network.inputs, 2)
    return jax.tree.map(lambda leaf: 20 * leaf, trees)


def test_every_input_of_a_denoiser_reaches_its_output():
    """A pass that left out, say, the reference frames would be measured as too fast."""
    network = network_costs.denoiser(DIT)
    params, inputs = drawn(network)
    assert set(inputs) == {"latents", "timestep", "reference", "preceding", "text"}
    moved = jax.jit(jax.grad(lambda inputs: network.passes["forward"](params, inputs).sum()))
    for name, gradient in moved(inputs).items():
        assert float(jnp.abs(gradient).max()) > 0, name


def test_every_parameter_has_a_gradient_in_the_backward_pass():
    network = network_costs.denoiser(DIT)
    params, inputs = drawn(network)
    gradients = jax.jit(network.passes["forward_backward"])(params, inputs)

    def loss(params):
        return jnp.mean(jnp.square(network.passes["forward"](params, inputs)))

    # Along the gradient the loss rises by the square of its norm.
    square = sum(float(jnp.vdot(g, g)) for g in jax.tree.leaves(gradients))
    step = 1e-3 * float(loss(params)) / square
    ahead, behind = (
        loss(jax.tree.map(lambda p, g, s=sign: p + s * step * g, params, gradients))
        for sign in (1, -1)
    )
    np.testing.assert_allclose((ahead - behind) / (2 * step), square, rtol=1e-2)


def test_a_vae_is_measured_on_the_latents_and_clips_of_its_strides():
    """wan22: 1 + 8 latents of 16 x 16 pixels from 33 frames, by the structure of the release."""
    for name, latents in (("wan22", (1, 9, 44, 80, 48)), ("wan21", (1, 9, 60, 104, 16))):
        assert vae(name).inputs["latents"].shape == latents
        for what, frames in (("encode", "latents"), ("decode", "video")):
            network = vae(name)
            out = jax.eval_shape(network.passes[what], network.params, network.inputs)
            assert jax.tree.leaves(out)[0].shape == network.inputs[frames].shape


@pytest.mark.long
def test_passes_of_a_vae_are_its_encoder_its_decoder_and_the_gradient_of_both():
    network = network_costs.vae(VAE)
    params, inputs = drawn(network)
    model = VideoVAE(**VAE.fields)
    apply = functools.partial(model.apply, {"params": params})
    mean = jax.jit(functools.partial(apply, method="encode"))(inputs["video"])[0]
    found = jax.jit(network.passes["encode"])(params, inputs)[0]
    np.testing.assert_allclose(found, mean, atol=1e-6)
    frames = jax.jit(functools.partial(apply, method="decode"))(mean)
    found = jax.jit(network.passes["decode"])(params, {**inputs, "latents": mean})
    np.testing.assert_allclose(found, frames, atol=1e-6)
    assert np.std(mean) > 1e-2 and np.std(frames) > 1e-2
    gradients = jax.jit(network.passes["forward_backward"])(params, inputs)
    for part in ("encoder", "decoder"):
        assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(gradients[part]))


def test_operations_of_a_denoiser_in_closed_form():
    network = denoiser("10m")
    tokens, text, width, mlp, depth = 9 * 8 * 8, 512, 256, 1152, 8
    block = 2 * tokens * (6 * width**2 + 2 * width * mlp) + 2 * text * 2 * width**2
    block += 4 * tokens * (tokens + text) * width
    ends = 2 * tokens * 2 * (4 * 48) * width + 2 * text * (512 * width + width**2)
    time = 2 * 9 * (256 * width + width**2 + 6 * width**2)
    found = matmul_flops(jax.make_jaxpr(network.passes["forward"])(network.params, network.inputs))
    assert found == depth * block + ends + time


def test_every_pass_is_timed_and_weighed(small):
    told = []
    found = network_costs.measure("denoiser", ["a"], repeats=1, notify=told.append)
    assert json.loads(json.dumps(found)) == found and told == ["a"]
    assert (found["subject"], found["dtype"], found["repeats"]) == ("denoiser", "float32", 1)
    entry = found["sizes"]["a"]
    assert entry["inputs"]["latents"] == [1, 2, 4, 4, 16]
    assert entry["inputs"]["reference"] == entry["inputs"]["preceding"] == [1, 1, 4, 4, 16]
    forward, both = entry["passes"]["forward"], entry["passes"]["forward_backward"]
    assert forward["ratio"] == 12.0 / forward["ms"] and both["ratio"] is None
    assert forward["cpu_ms"] > 0 and both["of_matmul"] > 0
    assert 2.5 < both["gflop"] / forward["gflop"] <= 3
    assert forward["argument_bytes"] > 4 * entry["parameters"] and both["temporary_bytes"] > 0
    assert entry["matmul_gflops"] > 0


def test_compiling_alone_tells_the_memory(small):
    found = network_costs.measure("vae", ["b"], dtype=jnp.bfloat16, passes=("decode",), repeats=0)
    entry = found["sizes"]["b"]
    assert list(entry["passes"]) == ["decode"] and entry["matmul_gflops"] is None
    decode = entry["passes"]["decode"]
    assert decode["ms"] is decode["cpu_ms"] is decode["of_matmul"] is decode["ratio"] is None
    assert decode["temporary_bytes"] > 0 and decode["gflop"] > 0


def test_recorded_times_are_of_known_sizes_and_passes():
    for subject, sizes in network_cases.RECORDED_MS.items():
        assert set(sizes) <= set(network_costs.CASES[subject])
        for passes in sizes.values():
            assert set(passes) <= set(network_costs.PASSES[subject])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"subject": "memory", "sizes": []}, "subject: found 'memory', expected one of denoiser"),
        ({"subject": "vae", "sizes": ["10m"]}, "size: found '10m', expected one of tiny, wan22"),
        (
            {"subject": "vae", "sizes": ["tiny"], "passes": ["forward"]},
            "pass: found 'forward', expected one of encode, decode",
        ),
    ],
)
def test_unknown_names_are_told_the_known_ones(arguments, words):
    with pytest.raises(ValueError, match=words):
        network_costs.measure(**arguments)


def test_drawn_values_are_small_and_of_the_wanted_type():
    shapes = {"a": jax.ShapeDtypeStruct((40, 50), jnp.bfloat16)}
    drawn = network_costs.draw(shapes)["a"]
    assert drawn.dtype == jnp.bfloat16
    assert math.isclose(float(np.std(np.float32(drawn))), 0.02, rel_tol=0.1)
