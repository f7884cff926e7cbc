import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.evaluation import network_cases, network_costs
from mirage_jax.evaluation.network_cases import DENOISERS, VAES, DenoiserCase, VAECase
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


@pytest.mark.parametrize("name", DENOISERS)
def test_every_denoiser_predicts_its_target_frames(name):
    case = DENOISERS[name]
    network = denoiser(name)
    out = jax.eval_shape(network.passes["forward"], network.params, network.inputs)
    assert out.shape == (1, *case.latents, case.fields["out_channels"])


@pytest.mark.parametrize("name", ["tiny", "wan21", "wan22"])
def test_every_vae_decodes_what_it_encodes(name):
    network = vae(name)
    encoded = jax.eval_shape(network.passes["encode"], network.params, network.inputs)
    assert encoded[0].shape == network.inputs["latents"].shape
    decoded = jax.eval_shape(network.passes["decode"], network.params, network.inputs)
    assert decoded.shape == (1, *VAES[name].video, 3)


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
