"""Every tensor of the released models: names and shapes, against tables made from the releases."""

import ast
import gzip
import hashlib
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax.traverse_util import flatten_dict

from helpers import paths
from mirage_jax.convert import presets
from mirage_jax.convert.placement import check_params
from mirage_jax.convert.wan_dit import (
    diffusers_name,
    original_names,
    wan_dit_fields,
    wan_dit_plan,
)
from mirage_jax.convert.wan_vae import wan_vae_fields, wan_vae_plan
from mirage_jax.nn.denoiser import Denoiser
from mirage_jax.nn.video_vae import VideoVAE

KEYS = paths.GOLDEN / "keys"
# How the released loader knows a checkpoint: MD5 over its names, with and without shapes.
DIGESTS = {
    "original_dit5b": "1f5ab7703c6fc803fdded85ff040c316",
    "original_vae22": "e1de6c02cdac79f8b739f4d3698cd216",
}


def table(name):
    """Tensor name -> shape."""
    lines = gzip.decompress((KEYS / f"{name}.tsv.gz").read_bytes()).decode().splitlines()
    return {line.split("\t")[0]: ast.literal_eval(line.split("\t")[1]) for line in lines}


def branch_table(layers):
    """The branch's table, cut to its first `layers` blocks."""
    found = table("original_vace5b")
    kept = {f"vace_blocks.{i}." for i in range(layers)} | {"vace_patch_embedding."}
    return {name: shape for name, shape in found.items() if name.startswith(tuple(kept))}


class Shape:
    """What a tensor's header tells."""

    def __init__(self, shape):
        self.shape = shape


def renamings(name):
    """(original, diffusers' name, shape) of every tensor of a small model."""
    data = gzip.decompress((KEYS / f"map_{name}_original_to_diffusers.tsv.gz").read_bytes())
    rows = [line.split("\t") for line in data.decode().splitlines()]
    return [(original, theirs, Shape(ast.literal_eval(shape))) for original, theirs, shape in rows]


def tensors_of(plan):
    return {name: p.tensor_shape for p in plan for name in p.names}


def abstract(module, *inputs):
    made = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    return flatten_dict(nn.unbox(made), sep="/")


def count(shapes):
    return sum(math.prod(shape) for shape in shapes.values())


@pytest.mark.parametrize(
    ("preset", "layers", "tensors", "params"),
    [
        ("wan22_ti2v_5b", 0, 0, 0),
        ("mirage_5b", 15, 439, 2_607_077_376),
        ("spatia_5b", 8, 236, 1_395_398_656),
    ],
)
def test_the_denoiser_has_every_tensor_of_the_release(preset, layers, tensors, params):
    fields = presets.DENOISERS[preset]
    branch = branch_table(layers) if layers else {}
    assert (len(branch), count(branch)) == (tensors, params)
    expected = {**table("original_dit5b"), **branch}
    plan = wan_dit_plan(fields)
    assert tensors_of(plan) == expected
    # The module as built, not as the plan says it is built.
    made = abstract(Denoiser(**fields), jnp.zeros((1, 1, 2, 2, 48)), jnp.zeros((1, 1)))
    check_params(plan, made, preset)
    assert sum(leaf.size for leaf in made.values()) == 4_999_787_712 + params
    # The shapes in turn tell the fields.
    shapes = {name: Shape(shape) for name, shape in expected.items()}
    found = wan_dit_fields(shapes, heads=24, branch_layers=fields["branch_layers"])
    assert found == fields


def test_the_video_vae_has_every_tensor_of_the_release():
    plan = wan_vae_plan(presets.WAN22_VAE)
    expected = table("original_vae22")
    assert tensors_of(plan) == expected
    made = abstract(VideoVAE(**presets.WAN22_VAE), jnp.zeros((1, 1, 16, 16, 3)))
    check_params(plan, made, "VideoVAE")
    assert (len(made), sum(leaf.size for leaf in made.values())) == (196, 704_688_668)
    shapes = {name: Shape(shape) for name, shape in expected.items()}
    assert wan_vae_fields(shapes) == presets.WAN22_VAE


@pytest.mark.parametrize("name", DIGESTS)
def test_the_tables_have_the_digests_that_the_released_loader_looks_for(name):
    shapes = table(name)
    words = [f"{key}:{'_'.join(map(str, shape))}" for key, shape in shapes.items()]
    text = ",".join(sorted([*shapes, *words]))
    assert hashlib.md5(text.encode()).hexdigest() == DIGESTS[name]


@pytest.mark.parametrize(("name", "channels"), [("vae21", 16), ("vae22", 48)])
def test_every_tensor_of_the_video_vae_has_the_name_that_diffusers_gives_it(name, channels):
    rows = renamings(name)
    fields = wan_vae_fields({original: shape for original, _, shape in rows})
    assert fields == wan_vae_fields({theirs: shape for _, theirs, shape in rows})
    assert fields["level_shortcuts"] == (name == "vae22")
    assert (fields["blocks"], fields["latent_channels"]) == (2, channels)
    plans = (wan_vae_plan(fields, diffusers=diffusers) for diffusers in (False, True))
    found = {(ours.names[0], theirs.names[0]) for ours, theirs in zip(*plans, strict=True)}
    assert found == {(original, theirs) for original, theirs, _ in rows}


def test_every_tensor_of_the_denoiser_has_the_name_that_diffusers_gives_it():
    rows = renamings("dit_vace")
    for original, theirs, _ in rows:
        assert diffusers_name(original) == theirs
    back = original_names({theirs: original for original, theirs, _ in rows})
    assert len(back) == len(rows) and all(name == original for name, original in back.items())


def test_wan21_is_wan22_without_folding_and_shortcuts():
    """No table of the full size is at hand; the small one, of as many blocks, has as many names."""
    names = {original for original, _, _ in renamings("vae21")}
    assert set(tensors_of(wan_vae_plan(presets.WAN21_VAE))) == names
