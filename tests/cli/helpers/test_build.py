"""From configs to modules and models."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from helpers import command_line, tiny_world
from mirage_jax.cli.helpers import build, common
from mirage_jax.io.text import TextEmbeddings, save_embeddings
from mirage_jax.nn.video_vae import LatentStats
from mirage_jax.parallel import unboxed
from mirage_jax.training.branch_task import ADDED
from mirage_jax.weights import as_fields, export, load_export, module_fields
from mirage_jax.world.latent_encoder import LatentEncoder


@pytest.fixture
def tiny_branch():
    """The tiny variant of the config that trains a branch."""
    return command_line.tiny_config("wan22_5b_memory.py")


def test_a_frozen_backbone_is_read_from_an_export(tiny_branch, tmp_path):
    config = tiny_branch
    task = build.denoiser_task(config, "latent", ())
    config.denoiser_training.pretrained = ""
    with pytest.raises(common.UserError, match=r"denoiser_training\.pretrained: found none"):
        build.pretrained(config, task)
    shapes = jax.eval_shape(lambda: nn.unbox(task.init(jax.random.key(0))))
    pretrained = {
        name: jax.tree.map(lambda leaf: np.full(leaf.shape, 2.5, np.float32), part)
        for name, part in shapes.items()
        if name not in ADDED
    }
    export(tmp_path, pretrained, {})
    config.denoiser_training.pretrained = str(tmp_path)
    frozen = unboxed(build.branch_task(config, task, build.pretrained(config, task)).frozen)
    jax.tree.map(np.testing.assert_array_equal, frozen, pretrained)


def test_what_is_trained_is_checked(tiny_branch):
    tiny_branch.denoiser_training.trained = "brunch"
    with pytest.raises(common.UserError, match="found 'brunch', expected one of all, branch, bra"):
        build.trained(tiny_branch)


def test_every_world_gets_the_text_of_its_prompt(tiny_branch, tmp_path):
    config = tiny_branch
    assert build.texts(config) == {}
    prompts = tuple(config.text.prompts.values())
    tokens = np.random.default_rng(0).normal(size=(len(prompts), 3, 24)).astype(np.float32)
    lengths = np.full(len(prompts), 3, np.int32)
    save_embeddings(tmp_path / "text", TextEmbeddings(prompts, tokens, lengths))
    config.text.embeddings = str(tmp_path / "text")
    config.worlds = ("procedural", "labmaze")
    found = build.texts(config)
    assert tuple(found) == config.worlds
    for world in config.worlds:
        expected = tokens[prompts.index(config.text.prompts[world])]
        np.testing.assert_array_equal(found[world], expected)
    config.worlds = ("elsewhere",)
    with pytest.raises(common.UserError, match=r"text\.prompts: found none for 'elsewhere'"):
        build.texts(config)


def test_a_pretrained_encoder_must_have_the_latents_of_the_config(tiny_branch, tmp_path):
    made = dataclasses.replace(tiny_world.encoder(), spread=(1.0,) * tiny_world.CHANNELS)
    made.save(tmp_path)
    tiny_branch.vae.latent_channels = 5
    with pytest.raises(ValueError, match="latent_channels: found 4, expected 5"):
        build.check_encoder(tiny_branch, tmp_path)
    tiny_branch.vae.latent_channels = 4
    build.check_encoder(tiny_branch, tmp_path)


def test_an_autoencoder_of_another_stride_is_refused(tiny_config):
    config = tiny_config.copy_and_resolve_references()
    config.vae.temporal_downsample = (True, False)
    with pytest.raises(ValueError, match=r"merges 2 frames into a latent, expected 4"):
        build.vae(config)


def test_memory_context_channels_by_kind(tiny_config):
    channels = tiny_config.vae.latent_channels
    # A latent; what is known of a cell, and how far it is, in each of four frames.
    assert build.conditioner(tiny_config).channels == channels + 4 + 4
    # Four reads of 2 x 2 cells; tokens of hits and of holes, three numbers and what was filled.
    folded = tiny_config.copy_and_resolve_references()
    folded.memory.conditioner = "folded"
    assert build.conditioner(folded).channels == 4 * 2 * 2 * (2 * channels + 4)
    open_holes = folded.copy_and_resolve_references()
    open_holes.memory.footprint = 1
    assert build.conditioner(open_holes).channels == 4 * 2 * 2 * (channels + 3)
    assert build.conditioner(tiny_config, "rgb").channels == channels + 4
    assert build.conditioner(tiny_config, "none").channels == 0


def test_bodies_and_fused_histories_are_of_the_latent_memory_alone(tiny_config):
    config = tiny_config.copy_and_resolve_references()
    plain = build.conditioner(config)
    assert build.history_fusion(config) is None and build.movers(config) is None
    config.memory.movers = config.memory.fuse_histories = True
    told = build.conditioner(config)
    assert told.movers and told.channels == plain.channels  # bodies are part of what is drawn
    config.memory.conditioner = "folded"
    folded = build.conditioner(config)
    assert 0 < folded.body_channels < folded.channels
    config.memory.conditioner = "surfels"
    task = build.denoiser_task(config, "latent", ())
    assert task.fusion == build.memory_options(config).fusion(task.context_frames)
    assert (
        build.denoiser_architecture(config, task)["movers"]["slots"] == build.movers(config).slots
    )
    for memory in ("rgb", "none"):
        baseline = build.denoiser_task(config, memory, ())
        assert baseline.fusion is None
        assert "movers" not in build.denoiser_architecture(config, baseline)
    config.memory.conditioner = "visibility"
    with pytest.raises(common.UserError, match=r"memory\.movers: found True with conditioner 'vis"):
        build.conditioner(config)


def test_models_are_rebuilt_from_their_own_files(tiny_config, trained):
    model = build.world_model(trained, "latent", tiny_config)
    assert model.encoder.vae == build.vae(tiny_config)
    assert model.head == build.geometry_head(tiny_config)
    assert model.denoiser == build.denoiser(tiny_config, "latent", model.encoder.spread)
    assert model.size == (32, 32) and model.chunk_frames == 17 and model.memory.sky_depth == 200
    assert model.grid == (4, 4)
    told = model.conditioner
    assert (told.kind, told.reads, told.fine, told.prefer) == ("surfels", 4, 2, "nearest")
    assert (model.sampler.steps, model.sampler.method) == (2, "euler")
    plain = build.world_model(trained, "none", tiny_config)
    assert plain.denoiser.memory_channels == 0 and plain.denoiser.branch_layers == ()


@pytest.mark.parametrize(
    ("field", "value", "found"), [("conditioner", "visibility", "Surfels"), ("reads", 1, "reads=4")]
)
def test_weights_of_another_conditioner_than_the_config_s_are_refused(
    tiny_config, trained, field, value, found
):
    other = tiny_config.copy_and_resolve_references()
    other.memory[field] = value
    with pytest.raises(ValueError, match=rf"denoiser_latent: found .*{found}.*config.memory asks"):
        build.world_model(trained, "latent", other)


def test_models_of_another_kind_or_encoder_are_refused(tiny_config, trained):
    with pytest.raises(FileNotFoundError, match="denoiser_rgb"):
        build.world_model(trained, "rgb", tiny_config)
    trained.model("denoiser_latent").rename(trained.model("denoiser_rgb"))
    with pytest.raises(
        ValueError, match=r"denoiser_rgb: field conditioner: found 'surfels', expected 'rgb'"
    ):
        build.world_model(trained, "rgb", tiny_config)
    # An encoder with other channels under the same denoiser.
    other = tiny_config.copy_and_resolve_references()
    other.vae.latent_channels = 12
    vae = build.vae(other)
    dataclasses.replace(
        tiny_world.encoder(),
        vae=vae,
        params=tiny_world.random_params(vae, 0, jnp.zeros((1, 5, 16, 16, 3))),
        stats=LatentStats(np.zeros(12, np.float32), np.ones(12, np.float32)),
        spread=(1.0,) * 12,
    ).save(trained.model("encoder"))
    with pytest.raises(
        ValueError, match=r"denoiser_none: .* of 8 latent channels, expected 12 as the encoder"
    ):
        build.world_model(trained, "none", tiny_config)


def reexport(path, change):
    """Writes an export again with another architecture over the same tensors."""
    params, architecture = load_export(path)
    change(architecture)
    export(path, params, architecture)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("encoder", lambda a: a["vae"].update(depth=3), "field vae.depth: found 3, but a VideoVAE"),
        ("encoder", lambda a: a.pop("spread"), "field spread: found None, expected list"),
        ("geometry", lambda a: a["head"].update(width=8), "another architecture; tensor '"),
        ("denoiser_latent", lambda a: a["denoiser"].update(depth=3), "another architecture; tens"),
        ("denoiser_latent", lambda a: a["denoiser"].update(later=1), "field denoiser.later: found"),
        ("denoiser_latent", lambda a: a["denoiser"].update(heads=0), "field denoiser: found what"),
        (
            "denoiser_latent",
            lambda a: a["conditioner"].update(fast=1),
            "field conditioner.fast: fo",
        ),
        ("denoiser_latent", lambda a: a.pop("size"), "field size: found None, expected int"),
    ],
)
def test_an_export_that_describes_another_model_is_refused(
    part, change, message, tiny_config, trained
):
    reexport(trained.model(part), change)
    with pytest.raises(ValueError, match=re.escape(f"{trained.model(part)}: {message}")):
        build.world_model(trained, "latent", tiny_config)


def test_a_head_trained_on_other_latents_is_refused(tiny_config, trained):
    head = build.geometry_head(tiny_config)
    latents = jnp.zeros((1, 2, 4, 4, 12))
    params = tiny_world.random_params(head, 0, latents, jnp.zeros((1, 2), bool))
    architecture = {"kind": "geometry_head", "head": module_fields(head)}
    export(trained.model("geometry"), params, architecture)
    with pytest.raises(ValueError, match=r"geometry: .*tensor.*the encoder has 8 latent channels"):
        build.world_model(trained, "latent", tiny_config)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, "bfloat16"])
def test_a_model_is_evaluated_in_the_precision_it_was_trained_in(dtype, tmp_path):
    module = tiny_world.denoiser(0, dtype=dtype)
    again = type(module)(**as_fields(json.loads(json.dumps(module_fields(module)))))
    plain = tiny_world.denoiser(0, dtype=jnp.dtype(dtype).type)
    assert again == plain and hash(again) == hash(plain)
    inputs = jnp.zeros((1, 2, 2, 3, tiny_world.CHANNELS)), jnp.zeros((1, 2))

    def program(denoiser):
        params = jax.eval_shape(denoiser.init, jax.random.key(0), *inputs)
        return str(jax.make_jaxpr(denoiser.apply)(params, *inputs))

    assert program(again) == program(module)
    assert ("bf16" in program(again)) == (jnp.dtype(dtype) == jnp.bfloat16)
    encoder = tiny_world.encoder()
    encoder = encoder.replace(vae=encoder.vae.clone(dtype=dtype))
    encoder.save(tmp_path)
    assert jnp.dtype(LatentEncoder.load(tmp_path).vae.dtype) == jnp.dtype(dtype)
    with pytest.raises(ValueError, match="dtype: found 'bfloat17', expected a name such as"):
        as_fields({"dtype": "bfloat17"})
