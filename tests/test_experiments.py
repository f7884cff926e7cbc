"""The experiment files: consistent, buildable, and different in what the paper says."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from data_pipelines import sources
from helpers import command_line, paths
from mirage_jax.chunks import latents_of_frames
from mirage_jax.cli.helpers import build, common, programs, quick_models, world_names
from mirage_jax.parallel import unboxed
from mirage_jax.training.geometry_task import GeometryTask

ROOT = paths.ROOT


EXPERIMENTS = sorted(p for p in (ROOT / "experiments").glob("*.py") if p.name != "__init__.py")


# What arXiv 2606.09828 gives for training and sampling: one read-out per latent, as fine as the
# latents, of the elements that fall into a cell alone; histories as they are.
PAPER = {
    "denoiser_training.betas": (0.0, 0.999),
    "denoiser_training.drop_text": 0.2,
    "denoiser_training.drop_memory": 0.0,
    "denoiser_training.depth_noise": 0.0,
    "denoiser_training.pose_noise": 0.0,
    "denoiser_training.token_noise": 0.0,
    "denoiser.memory_hint": False,
    "memory.conditioner": "visibility",
    "sampling.steps": 40,
}


BOTH_VARIANTS = {
    "denoiser.branch_layers": (0, 4, 8, 12, 16, 20, 24, 28),
    "denoiser.memory_prior": False,
    "denoiser_training.batch_size": 64,
    "denoiser_training.schedule": "cosine",
    "denoiser_training.weight_decay": 1e-3,
    "denoiser_training.shift": 5.0,
    "sampling.method": "unipc",
    "sampling.shift": 5.0,
}


STAGES = {
    "wan22_5b_memory": {
        "denoiser_training.trained": "branch",
        "denoiser_training.learning_rate": 1e-5,
    },
    "wan22_5b_joint": {
        "denoiser_training.trained": "branch_lora",
        "denoiser_training.learning_rate": 1e-4,
        "lora.rank": 64,
        "lora.alpha": 64.0,
        "lora.targets": ("self_attn/q", "self_attn/k", "self_attn/v", "self_attn/o"),
    },
}


@pytest.mark.parametrize("stage", STAGES)
def test_the_variants_of_the_recipe_differ_in_what_the_paper_says(stage):
    file = ROOT / "experiments" / f"{stage}.py"
    default, ours, paper = (
        flatten_dict(common.load_config(f"{file}{variant}").to_dict(), sep=".")
        for variant in ("", ":ours", ":paper")
    )
    assert default == ours and ours.keys() == paper.keys()
    dropout = {"lora.dropout": 0.05} if "lora.rank" in paper else {}
    changed = {name: value for name, value in paper.items() if value != ours[name]}
    assert changed == PAPER | dropout
    for config in (ours, paper):
        for name, value in (BOTH_VARIANTS | STAGES[stage]).items():
            assert config[name] == value, name
    with pytest.raises(common.UserError, match=r"variant: found 'mine', expected one of ours, pap"):
        common.load_config(f"{file}:mine")


@pytest.mark.parametrize("variant", ["ours", "paper"])
@pytest.mark.parametrize("stage", STAGES)
def test_the_tiny_variants_make_a_task(stage, variant):
    config = command_line.tiny_config(f"{stage}.py:{variant}")
    task = build.denoiser_task(config, "latent", ())
    assert task.denoiser.branch_layers == (0,)
    assert task.denoiser.memory_hint == (variant == "ours")
    told = task.conditioner
    # The paper reads the token and whether there is one, once a latent.
    expected = ("visibility", 1, 1) if variant == "paper" else ("folded", 4, 2)
    assert (told.kind, told.reads, told.fine) == expected
    if variant == "paper":
        assert told.channels == config.vae.latent_channels + 1


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiments_are_consistent(path):
    config = common.load_config(str(path))
    described = common.describe_config(config)
    for name, value in config.tiny_overrides:
        old = functools.reduce(getattr, name.split("."), config)
        assert type(old) is type(value), name
        assert any(line.startswith(f"{name} = ") for line in described)
    for each in (config, command_line.tiny_config(path.name)):
        stride = build.vae(each).spatial_stride
        chunks, rest = divmod(each.record.frames - 1, each.chunk_frames - 1)
        assert chunks >= 2 and rest == 0
        latents_of_frames(each.chunk_frames)
        height, width = build.picture_size(each)
        assert height % (stride * each.denoiser.patch[1]) == 0
        assert width % (stride * each.denoiser.patch[2]) == 0
        # The loader and the mesh share out batches.
        for training in (each.vae_training, each.geometry_training, each.denoiser_training):
            assert training.batch_size % each.host_devices == 0
        # A bank holds at least what one clip writes.
        cells = (height // stride) * (width // stride)
        assert each.memory.capacity >= cells * latents_of_frames(each.record.frames)
        for world in each.worlds:
            sources.source_class(world_names.source_name(world))


SIZED_AS_QUICKSTART = {"distill", "footage", "living"}


@pytest.mark.parametrize(
    ("path", "tiny"),
    [
        pytest.param(
            path,
            tiny,
            id=f"{path.stem}-{'tiny' if tiny else 'real'}",
            marks=pytest.mark.long if path.stem in SIZED_AS_QUICKSTART and not tiny else (),
        )
        for path in EXPERIMENTS
        for tiny in (True, False)
    ],
)
def test_experiments_can_be_built_and_trained(path, tiny):
    """Every network is initialised and every loss traced, by shape alone."""
    load = command_line.tiny_config if tiny else common.load_config
    config = load(str(path))
    vae = build.vae(config)
    channels = vae.latent_channels
    whole = build.trained(config) == "all"
    kinds = build.MEMORIES if whole else ("latent",)  # baselines are not fine-tuned
    tasks = [programs.whole_task(config, kind) for kind in kinds]
    size, chunks, latents = tasks[0].size, tasks[0].chunks, tasks[0].chunk_latents
    grid = tuple(side // vae.spatial_stride for side in size)
    tasks.append(GeometryTask(build.geometry_head(config), (*grid, channels), config.sky_depth))
    keyframes = latents_of_frames(config.record.frames)
    batch = {
        "chunks": abstract(2, chunks, latents, *grid, channels),
        "tokens": abstract(2, keyframes, *grid, channels),
        "depth": abstract(2, keyframes, *grid),
        "static": abstract(2, keyframes, *grid),
        "intrinsics": abstract(2, 4),
        "cam2world": abstract(2, config.record.frames, 4, 4),
        "rgb_chunks": abstract(2, 3, latents, *grid, channels),
        "rgb_hits": abstract(2, 3, latents, *grid, 4),
        "preceding": abstract(2, tasks[0].context_frames.preceding_latents, *grid, channels),
    }
    key = jax.eval_shape(lambda: jax.random.key(0))
    assert jax.eval_shape(vae.init, key, abstract(1, config.chunk_frames, *size, 3))["params"]
    if not whole:
        tasks.append(build.branch_task(config, tasks[0]))
    if "distill_training" in config:
        tasks.append(quick_models.distill_task(config, tasks[0]))
        tasks.append(programs.match_task(config, "latent"))
    for task in tasks:
        params = unboxed(jax.eval_shape(task.init, key))
        frozen = {} if task.frozen is None else {"frozen": unboxed(task.frozen)}
        extra = frozen | ({"ema": params} if task.needs_ema else {})
        extra |= {"step": jax.ShapeDtypeStruct((), jnp.int32)} if task.needs_step else {}
        step = jax.grad(functools.partial(task.loss, train=True), has_aux=True)
        gradients, _ = jax.eval_shape(step, params, batch, key, **extra)
        assert jax.tree.map(np.shape, gradients) == jax.tree.map(np.shape, params)


def abstract(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)
