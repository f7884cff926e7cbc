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
from pathlib import Path

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
    dry_run,
    input_check,
    process_flags,
    starts,
    training_sections,
)
from mirage_jax.cli.helpers.training_sections import TrainingSection
from mirage_jax.io.workdir import Workdir
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

FLAG_MODULES = (process_flags.__name__,)
"""Helpers whose flags the command has too, for its help."""


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
    if _reads_clips(config, stage):
        input_check.check_recordings(config, workdir)
    for name in _chosen(stage):
        _RUNNERS[name](config, workdir, console, memory)


def _chosen(stage: str) -> tuple[str, ...]:
    return STAGES if stage == "all" else (stage,)


def _reads_clips(config: ConfigDict, stage: str) -> bool:
    """Whether recorded clips are read, and not their latents alone."""
    readers = {"encoder", "cache"}
    if config.loading.latents == "video":
        readers |= {"geometry", "denoiser"}
    return not readers.isdisjoint(_chosen(stage))


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
        skip_share=config.loading.skip_share,
        batch_seconds=config.loading.seconds,
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
    from mirage_jax.cli.helpers.encoding import encode_recordings

    encode_recordings(config, workdir, console, memory)


def _geometry(config: ConfigDict, workdir: Workdir, console: Console, _: str) -> None:
    from mirage_jax.cli.helpers.training_data import training_data
    from mirage_jax.training import held_out
    from mirage_jax.training.geometry_task import GeometryTask
    from mirage_jax.weights import export, module_fields
    from mirage_jax.world.latent_encoder import LatentEncoder

    vae = LatentEncoder.load(workdir.model("encoder")).vae
    height, width = (side // vae.spatial_stride for side in build.picture_size(config))
    head = build.geometry_head(config)
    options = _options(config, training_sections.geometry(config), console)
    data = training_data(config, workdir, "latent", options.mesh)
    params = train_task(
        GeometryTask(head, (height, width, vae.latent_channels), config.sky_depth),
        data.source,
        workdir.stage("geometry"),
        options,
        name="geometry",
        transform=data.transform,
        prepare=data.prepare,
        mixture=data.mixture,
        eval_batches=functools.partial(held_out.clip_batches, data.held_out),
    )
    made = {"kind": "geometry_head", "head": module_fields(head)}
    first_alone("geometry", lambda: export(workdir.model("geometry"), params, made))


def _denoiser(config: ConfigDict, workdir: Workdir, console: Console, memory: str) -> None:
    from mirage_jax.cli.helpers.training_data import training_data
    from mirage_jax.training import held_out
    from mirage_jax.training.branch_task import BranchTask, starting_params
    from mirage_jax.training.denoiser_task import Preview
    from mirage_jax.training.prior_fit import fit_memory_prior
    from mirage_jax.weights import export
    from mirage_jax.world.latent_clip import FIELDS, LatentClip
    from mirage_jax.world.latent_encoder import LatentEncoder

    section = training_sections.denoiser(config)
    options = _options(config, section, console)
    data = training_data(config, workdir, memory, options.mesh, build.texts(config))
    encoder = LatentEncoder.load(workdir.model("encoder"))
    task = build.denoiser_task(config, memory, encoder.spread)
    latents = task.chunk_latents + task.context_frames.preceding_latents
    constants = jax.jit(task.conditioner.constants, static_argnums=(1, 2))
    task = dataclasses.replace(task, constants=constants(encoder, latents, task.size))
    if task.denoiser.memory_prior:
        console.print("fitting the memory prior")
        task = dataclasses.replace(task, prior=fit_memory_prior(task, data.train))
    values = {}
    if section.trained != "all":
        values = build.pretrained(config, task)
        task = build.branch_task(config, task, values)
        start = starting_params(values, task.denoiser.branch_layers)
        options = dataclasses.replace(options, init_from=start)
    if config.sample_every:
        records = [data.held_out[i] for i in held_out.spread_over(len(data.held_out), 4)]
        shown = {name: np.stack([record[name] for record in records]) for name in FIELDS}
        preview = Preview(
            encoder, LatentClip(**shown), build.sampler(config), fps=config.evaluation.fps
        )
        task = dataclasses.replace(task, preview=preview)
    params = train_task(
        task,
        data.source,
        workdir.stage(f"denoiser_{memory}"),
        options,
        name=f"denoiser ({memory} memory)",
        transform=data.transform,
        prepare=data.prepare,
        mixture=data.mixture,
        eval_batches=functools.partial(held_out.clip_batches, data.held_out),
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
    process_flags.connect(workdir)
    console = Console(quiet=jax.process_index() > 0)
    needs_clips = _reads_clips(config, _STAGE.value)
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
