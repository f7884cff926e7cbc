"""mirage train: train the latent encoder, its geometry head and the denoiser on recorded worlds.

Stages, each going on from its newest checkpoint: encoder, cache (clips encoded once), geometry,
denoiser. Checkpoints, metrics (JSONL and TensorBoard) and sample sheets are in <workdir>/training,
finished weights in <workdir>/model.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict
from rich.console import Console

from mirage_jax.cli import build, common
from mirage_jax.layout import Layout
from mirage_jax.training.denoiser_task import MEMORY_KINDS

STAGES = ("encoder", "cache", "geometry", "denoiser")

_STAGE = flags.DEFINE_enum("stage", "all", ("all", *STAGES), "Which stage to run.")
_MEMORY = flags.DEFINE_enum(
    "memory", "latent", MEMORY_KINDS, "What the denoiser remembers with; 'rgb' and 'none' compare."
)


def run(
    config: ConfigDict, layout: Layout, console: Console, stage: str, *, memory: str = "latent"
) -> None:
    """Runs one stage (or "all")."""
    for name in STAGES if stage == "all" else (stage,):
        _RUNNERS[name](config, layout, console, memory)


def outputs(layout: Layout, stage: str, memory: str) -> tuple[Path, ...]:
    """Folders that one stage fills."""
    if stage == "cache":
        return (layout.latents("", "", rgb=memory == "rgb").parent,)
    name = f"denoiser_{memory}" if stage == "denoiser" else stage
    return layout.stage(name), layout.model(name)


def _options(
    config: ConfigDict, training: ConfigDict, layout: Layout, console: Console
) -> dict[str, Any]:
    """What every training stage takes from the config."""
    from mirage_jax.parallel.mesh import make_mesh
    from mirage_jax.training.optimizers import BETAS

    return {
        "steps": training.steps,
        "batch_size": training.batch_size,
        "learning_rate": training.learning_rate,
        "warmup": training.warmup,
        "ema_decay": training.ema_decay,
        "weight_decay": training.weight_decay,
        "betas": tuple(training.get("betas", BETAS)),
        "seed": config.seed,
        "mesh": make_mesh(**config.mesh.to_dict()),
        "workers": config.loader_workers,
        "log_every": config.log_every,
        "sample_every": config.sample_every,
        "save_every": config.save_every,
        "config": config.to_dict(),
        "console": console,
    }


def _encoder(config: ConfigDict, layout: Layout, console: Console, _: str) -> None:
    from mirage_jax.training import stages

    training = config.vae_training
    if training.get("pretrained", False):
        build.check_encoder(config, layout.model("encoder"))
        return
    encoder = stages.train_vae(
        build.vae(config),
        [layout.worlds(world) for world in layout.recorded(config.worlds)],
        layout.stage("encoder"),
        frames=config.chunk_frames,
        pixels=training.pixels,
        kl_weight=training.kl_weight,
        stats_per_channel=training.stats_per_channel,
        pca_power=training.pca_power,
        **_options(config, training, layout, console),
    )
    encoder.save(layout.model("encoder"))


def _cache(config: ConfigDict, layout: Layout, console: Console, memory: str) -> None:
    from mirage_jax.latent_encoder import LatentEncoder
    from mirage_jax.training import stages
    from mirage_jax.training.export import fingerprint

    path = layout.model("encoder")
    encoder, encoder_id = LatentEncoder.load(path), fingerprint(path)
    rgb = memory == "rgb"
    for world in layout.recorded(config.worlds):
        for split in ("train", "eval"):
            stages.refresh_cache(
                encoder,
                encoder_id,
                layout.worlds(world),
                split,
                layout.latents(world, split, rgb=rgb),
                chunk_frames=config.chunk_frames,
                sky_depth=config.sky_depth,
                rgb=rgb,
                say=functools.partial(console.print, markup=False, soft_wrap=True),
                console=console,
            )


def _sources(
    config: ConfigDict, layout: Layout, memory: str, texts: Mapping[str, np.ndarray] | None = None
) -> tuple[Any, Any]:
    """Cached clips to train on and to evaluate on, with the text of their world if there is one."""
    from mirage_jax.training.latent_cache import LatentSource
    from mirage_jax.training.stages import Joined
    from mirage_jax.training.with_text import WithText

    worlds = layout.recorded(config.worlds)

    def source(split: str) -> Any:
        paths = {world: layout.latents(world, split, rgb=memory == "rgb") for world in worlds}
        if not texts:
            return LatentSource(paths.values())
        return Joined([WithText(LatentSource([path]), texts[w]) for w, path in paths.items()])

    train, held_out = source("train"), source("eval")
    return train, held_out


def _geometry(config: ConfigDict, layout: Layout, console: Console, _: str) -> None:
    from mirage_jax.latent_encoder import LatentEncoder, module_fields
    from mirage_jax.training import stages
    from mirage_jax.training.export import export
    from mirage_jax.training.geometry_task import GeometryTask

    vae = LatentEncoder.load(layout.model("encoder")).vae
    height, width = (side // vae.spatial_stride for side in build.picture_size(config))
    head = build.geometry_head(config)
    train, held_out = _sources(config, layout, "latent")
    params = stages.train_task(
        GeometryTask(head, (height, width, vae.latent_channels), config.sky_depth),
        train,
        layout.stage("geometry"),
        eval_batches=functools.partial(stages.eval_batches, held_out),
        name="geometry",
        **_options(config, config.geometry_training, layout, console),
    )
    export(layout.model("geometry"), params, {"kind": "geometry_head", "head": module_fields(head)})


def _denoiser(config: ConfigDict, layout: Layout, console: Console, memory: str) -> None:
    from mirage_jax.latent_encoder import LatentEncoder
    from mirage_jax.training import stages
    from mirage_jax.training.branch_task import BranchTask, starting_params
    from mirage_jax.training.denoiser_task import Preview
    from mirage_jax.training.export import export
    from mirage_jax.training.latent_cache import FIELDS, LatentClip
    from mirage_jax.training.prior_fit import fit_memory_prior

    train, held_out = _sources(config, layout, memory, build.texts(config))
    encoder = LatentEncoder.load(layout.model("encoder"))
    task = build.denoiser_task(config, memory, encoder.spread)
    if task.denoiser.memory_prior:
        console.print("fitting the memory prior")
        task = dataclasses.replace(task, prior=fit_memory_prior(task, train))
    values, start = {}, None
    if build.trained(config) != "all":
        values = build.pretrained(config, task)
        task = build.branch_task(config, task, values)
        start = starting_params(values, task.denoiser.branch_layers)
    if config.sample_every:
        shown = {name: np.stack([held_out[i][name] for i in range(4)]) for name in FIELDS}
        how = {name: config.sampling[name] for name in ("steps", "shift", "method")}
        preview = Preview(encoder, LatentClip(**shown), **how)
        task = dataclasses.replace(task, preview=preview)
    params = stages.train_task(
        task,
        train,
        layout.stage(f"denoiser_{memory}"),
        eval_batches=functools.partial(stages.eval_batches, held_out),
        init_from=start,
        name=f"denoiser ({memory} memory)",
        **_options(config, config.denoiser_training, layout, console),
    )
    if isinstance(task, BranchTask):
        as_stored = functools.partial(np.asarray, dtype=np.float32)
        params = task.whole(jax.tree.map(as_stored, values), params)
    architecture = build.denoiser_architecture(config, task)
    export(layout.model(f"denoiser_{memory}"), params, architecture)


_RUNNERS = {"encoder": _encoder, "cache": _cache, "geometry": _geometry, "denoiser": _denoiser}


def main() -> None:
    config = common.resolve_config()
    layout = Layout(common.workdir())
    common.prepare_jax(config, layout)
    run(config, layout, Console(), _STAGE.value, memory=_MEMORY.value)


def cli() -> None:
    common.run(main, __name__)


if __name__ == "__main__":
    cli()
