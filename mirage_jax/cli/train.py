"""mirage train: train the latent encoder, its geometry head and the denoiser on recorded worlds.

Stages, each going on from its newest checkpoint: encoder, cache (clips encoded once), geometry,
denoiser. Checkpoints, metrics (JSONL and TensorBoard) and sample sheets are in <workdir>/training,
finished weights in <workdir>/model. Footage (--config.data.root) is recorded first. On several
hosts the same command runs on each; they find each other through SLURM, GKE and the like, or
through --coordinator. docs/training.md says more.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict
from rich.console import Console

from mirage_jax.cli import record
from mirage_jax.cli.helpers import (
    build,
    common,
    config_check,
    depth_network,
    dry_run,
    input_check,
    starts,
    training_sections,
)
from mirage_jax.cli.helpers.flag_types import Integer
from mirage_jax.cli.helpers.training_sections import TrainingSection
from mirage_jax.io.workdir import Workdir
from mirage_jax.parallel import processes
from mirage_jax.parallel.processes import first_alone
from mirage_jax.training.stage import StageOptions, train_task

STAGES = ("encoder", "cache", "geometry", "denoiser")

_STAGE = flags.DEFINE_enum("stage", "all", ("all", *STAGES), "Which stage to run.")
_MEMORY = flags.DEFINE_enum(
    "memory",
    "latent",
    build.MEMORIES,
    "What the denoiser remembers with; 'rgb' and 'none' compare.",
)
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Print what would run, where parameters lie and what a step needs; no more."
)
_PROFILE = flags.DEFINE_string(
    "profile_steps", "", "first:last step of a trace, written to <workdir>/training/STAGE/profile."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator",
    "",
    "host:port of process 0 of a run on several hosts; 'auto' insists on finding it in the "
    "environment, which is searched anyway where a launcher says that there are several.",
)
_PROCESSES = flags.DEFINE(
    Integer(least=0), "processes", 0, "How many processes; with --coordinator. 0 = not said."
)
_PROCESS = flags.DEFINE(
    Integer(least=-1), "process", -1, "Which of them this is, from 0; -1 = not said."
)
_CONNECT_SECONDS = flags.DEFINE(
    Integer(least=1), "connect_seconds", 300, "How long processes wait for each other at the start."
)


def run(
    config: ConfigDict, workdir: Workdir, console: Console, stage: str, *, memory: str = "latent"
) -> None:
    """Runs one stage (or "all").

    Raises:
      FileNotFoundError, ValueError: before anything runs, if a field of the config is out of range,
        a file that a stage reads is missing, or recordings do not fit the config.
    """
    config_check.check(config)
    input_check.check_training(config, workdir, _chosen(stage), memory)
    if not {"encoder", "cache"}.isdisjoint(_chosen(stage)):
        input_check.check_recordings(config, workdir)
    for name in _chosen(stage):
        _RUNNERS[name](config, workdir, console, memory)


def _chosen(stage: str) -> tuple[str, ...]:
    return STAGES if stage == "all" else (stage,)


def outputs(workdir: Workdir, stage: str, memory: str) -> tuple[Path, ...]:
    """Folders that one stage fills."""
    if stage == "cache":
        return (workdir.latents("", "", rgb=memory == "rgb").parent,)
    name = f"denoiser_{memory}" if stage == "denoiser" else stage
    return workdir.stage(name), workdir.model(name)


def _options(config: ConfigDict, section: TrainingSection, console: Console) -> StageOptions:
    """How a stage is trained, from its section and from what all stages share."""
    from mirage_jax.parallel import make_mesh, preset

    return StageOptions(
        loop=training_sections.loop(config, section),
        optimizer=section,
        batch_size=section.batch_size,
        workers=config.loader_workers,
        mesh=make_mesh(**config.mesh.to_dict()),
        rules=preset(config.rules),
        init_from=section.init_from or None,
        config=config.to_dict(),
        console=console,
    )


def _encoder(config: ConfigDict, workdir: Workdir, console: Console, _: str) -> None:
    from mirage_jax.training.encoder_training import train_encoder

    section = training_sections.encoder(config)
    if section.pretrained:
        build.check_encoder(config, workdir.model("encoder"))
        return
    encoder = train_encoder(
        build.vae(config),
        [workdir.worlds(world) for world in workdir.recorded(config.worlds)],
        workdir.stage("encoder"),
        training_sections.encoder_settings(config),
        _options(config, section, console) if section.steps else None,
    )
    first_alone("encoder", lambda: encoder.save(workdir.model("encoder")))


def _cache(config: ConfigDict, workdir: Workdir, console: Console, memory: str) -> None:
    first_alone(f"cache {memory}", lambda: _encode_clips(config, workdir, console, memory))


def _encode_clips(config: ConfigDict, workdir: Workdir, console: Console, memory: str) -> None:
    from mirage_jax.training.latent_encoding import CacheSettings, refresh_cache
    from mirage_jax.weights import fingerprint
    from mirage_jax.world.latent_encoder import LatentEncoder

    path = workdir.model("encoder")
    encoder, encoder_id = LatentEncoder.load(path), fingerprint(path)
    rgb = memory == "rgb"
    settings = CacheSettings(
        chunk_frames=config.chunk_frames,
        sky_depth=config.sky_depth,
        rgb=rgb,
        preceding=training_sections.denoiser(config).preceding,
        depth_network=depth_network.identity(config),
    )
    depth_of = depth_network.load(config)
    for world in workdir.recorded(config.worlds):
        for split in ("train", "eval"):
            refresh_cache(
                encoder,
                encoder_id,
                workdir.worlds(world),
                split,
                workdir.latents(world, split, rgb=rgb),
                settings,
                say=functools.partial(console.print, markup=False, soft_wrap=True),
                console=console,
                depth_of=depth_of,
            )


def _sources(
    config: ConfigDict, workdir: Workdir, memory: str, texts: Mapping[str, np.ndarray] | None = None
) -> tuple[Any, Any]:
    """Cached clips to train on and to evaluate on, with the text of their world if there is one."""
    from mirage_jax.training.latent_cache import LatentSource
    from mirage_jax.training.sources import Joined, WithText

    worlds = workdir.recorded(config.worlds)

    def source(split: str) -> Any:
        paths = {world: workdir.latents(world, split, rgb=memory == "rgb") for world in worlds}
        if not texts:
            return LatentSource(paths.values())
        return Joined([WithText(LatentSource([path]), texts[w]) for w, path in paths.items()])

    return source("train"), source("eval")


def _geometry(config: ConfigDict, workdir: Workdir, console: Console, _: str) -> None:
    from mirage_jax.training import held_out
    from mirage_jax.training.geometry_task import GeometryTask
    from mirage_jax.weights import export, module_fields
    from mirage_jax.world.latent_encoder import LatentEncoder

    vae = LatentEncoder.load(workdir.model("encoder")).vae
    height, width = (side // vae.spatial_stride for side in build.picture_size(config))
    head = build.geometry_head(config)
    train, evaluated = _sources(config, workdir, "latent")
    section = training_sections.geometry(config)
    grid = (height, width, vae.latent_channels)
    params = train_task(
        GeometryTask(head, grid, config.sky_depth, section.mover_weight),
        train,
        workdir.stage("geometry"),
        _options(config, section, console),
        name="geometry",
        eval_batches=functools.partial(held_out.clip_batches, evaluated),
    )
    made = {"kind": "geometry_head", "head": module_fields(head)}
    first_alone("geometry", lambda: export(workdir.model("geometry"), params, made))


def _denoiser(config: ConfigDict, workdir: Workdir, console: Console, memory: str) -> None:
    from mirage_jax.training import held_out
    from mirage_jax.training.branch_task import BranchTask, starting_params
    from mirage_jax.training.denoiser_task import Preview
    from mirage_jax.training.prior_fit import fit_memory_prior
    from mirage_jax.weights import export
    from mirage_jax.world.latent_clip import FIELDS, LatentClip
    from mirage_jax.world.latent_encoder import LatentEncoder

    section = training_sections.denoiser(config)
    train, evaluated = _sources(config, workdir, memory, build.texts(config))
    encoder = LatentEncoder.load(workdir.model("encoder"))
    task = build.denoiser_task(config, memory, encoder.spread)
    latents = task.chunk_latents + task.context_frames.preceding_latents
    constants = jax.jit(task.conditioner.constants, static_argnums=(1, 2))
    task = dataclasses.replace(task, constants=constants(encoder, latents, task.size))
    if task.denoiser.memory_prior:
        console.print("fitting the memory prior")
        task = dataclasses.replace(task, prior=fit_memory_prior(task, train))
    options = _options(config, section, console)
    values = {}
    if section.trained != "all":
        values = build.pretrained(config, task)
        task = build.branch_task(config, task, values)
        start = starting_params(values, task.denoiser.branch_layers)
        options = dataclasses.replace(options, init_from=start)
    if config.sample_every:
        records = [evaluated[i] for i in held_out.spread_over(len(evaluated), 4)]
        shown = {name: np.stack([record[name] for record in records]) for name in FIELDS}
        preview = Preview(
            encoder, LatentClip(**shown), build.sampler(config), fps=config.evaluation.fps
        )
        task = dataclasses.replace(task, preview=preview)
    params = train_task(
        task,
        train,
        workdir.stage(f"denoiser_{memory}"),
        options,
        name=f"denoiser ({memory} memory)",
        eval_batches=functools.partial(held_out.clip_batches, evaluated),
    )
    if isinstance(task, BranchTask):
        as_stored = functools.partial(np.asarray, dtype=np.float32)
        params = task.whole(jax.tree.map(as_stored, values), params)
    architecture = build.denoiser_architecture(config, task)
    path = workdir.model(f"denoiser_{memory}")
    first_alone(f"denoiser {memory}", lambda: export(path, params, architecture))


_RUNNERS = {"encoder": _encoder, "cache": _cache, "geometry": _geometry, "denoiser": _denoiser}


def main() -> None:
    config = common.resolve_config()
    if _PROFILE.value:
        config.profile_steps = profile_steps(_PROFILE.value)
    workdir = Workdir(common.workdir())
    common.prepare_jax(config, workdir)
    processes.initialize(
        _COORDINATOR.value,
        processes=_PROCESSES.value,
        process=_PROCESS.value,
        timeout=_CONNECT_SECONDS.value,
        folder=workdir.root / "processes",
    )
    console = Console(quiet=jax.process_index() > 0)
    needs_clips = not {"encoder", "cache"}.isdisjoint(_chosen(_STAGE.value))
    if config.get("data", {}).get("root") and needs_clips and not _DRY_RUN.value:
        config_check.check(config)
        first_alone("record", lambda: record.run(config, workdir, console))
    if _DRY_RUN.value:
        chosen, source = _chosen(_STAGE.value), starts.overridden(*common.overrides(), config.tiny)
        dry_run.run(config, workdir, console, chosen, memory=_MEMORY.value, source=source)
    else:
        run(config, workdir, console, _STAGE.value, memory=_MEMORY.value)


def profile_steps(text: str) -> tuple[int, int]:
    """first:last as numbers.

    Raises:
      UserError: on anything else.
    """
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if match is None:
        raise common.UserError(f"--profile_steps: found {text!r}, expected first:last, as in 10:12")
    return int(match[1]), int(match[2])


def cli() -> None:
    common.run(main, __name__)


if __name__ == "__main__":
    cli()
