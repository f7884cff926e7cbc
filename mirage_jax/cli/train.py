"""mirage train: train the latent encoder, its geometry head and the denoiser on recorded worlds.

Stages, each going on from its newest checkpoint: encoder, cache (clips encoded once), geometry,
denoiser and, where the experiment says how (experiments/distill.py), distill, a student that
samples in few steps, match, which goes on with it on rollouts of its own, and tiny_decoder, which
decodes for less. Checkpoints, metrics (JSONL and TensorBoard) and sample sheets are in
<workdir>/training, finished weights in <workdir>/model. Footage (--source) is recorded first. On
several hosts the same command runs on each; they find each other through SLURM, GKE and the like,
or through --coordinator. docs/training.md says more.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict
from rich.console import Console

from mirage_jax.cli import record
from mirage_jax.cli.helpers import (
    build,
    clip_sources,
    common,
    config_check,
    dry_run,
    history_heads,
    input_check,
    process_flags,
    quick_models,
    short_flags,
    starts,
    training_sections,
    world_names,
)
from mirage_jax.cli.helpers.held_out_sets import say_what_is_not_evaluated, with_held_out
from mirage_jax.cli.helpers.picture_shapes import picture_sizes
from mirage_jax.cli.helpers.training_sections import TrainingSection
from mirage_jax.io.workdir import Workdir
from mirage_jax.parallel.processes import first_alone
from mirage_jax.training.denoiser_task import DenoiserTask
from mirage_jax.training.stage import StageOptions, train_task
from mirage_jax.world.options import SamplerOptions

if TYPE_CHECKING:
    from mirage_jax.cli.helpers.training_data import TrainingData

STAGES = ("encoder", "cache", "geometry", "denoiser")
"""Of every experiment; those with sections for them go on with `training_sections.OPTIONAL`."""

_STAGE = flags.DEFINE_enum(
    "stage", "all", ("all", *STAGES, *training_sections.OPTIONAL), "Which stage to run."
)
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

SHORT_FLAGS = (short_flags.SOURCE,)


def run(
    config: ConfigDict, workdir: Workdir, console: Console, stage: str, *, memory: str = "latent"
) -> None:
    """Runs one stage (or "all").

    Raises:
      FileNotFoundError, ValueError: before anything runs, if a field of the config is out of range,
        a file that a stage reads is missing, or recordings do not fit the config.
    """
    config_check.check(config)
    if memory != "latent" and stage in training_sections.OPTIONAL:
        raise common.UserError(f"--memory: found {memory} with --stage={stage}, expected latent")
    input_check.check_training(config, workdir, _chosen(config, stage), memory)
    if _reads_clips(config, stage):
        input_check.check_recordings(config, workdir, held_out=False)
    for name in _chosen(config, stage):
        if memory != "latent" and name in training_sections.OPTIONAL:
            continue  # a student and a tiny decoder are of the latent denoiser's work directory
        _RUNNERS[name](config, workdir, console, memory)


def stages(config: ConfigDict) -> tuple[str, ...]:
    """What "all" runs: `STAGES`, and what else the config has a section for."""
    found = training_sections.stages(config)
    return (*STAGES, *(name for name in training_sections.OPTIONAL if name in found))


def _chosen(config: ConfigDict, stage: str) -> tuple[str, ...]:
    return stages(config) if stage == "all" else (stage,)


def _reads_clips(config: ConfigDict, stage: str) -> bool:
    """Whether recorded clips are read, and not their latents alone."""
    readers = {"encoder", "cache", "tiny_decoder"}
    if config.loading.latents == "video":
        readers |= {"geometry", "denoiser", "distill", "match"}
    return not readers.isdisjoint(_chosen(config, stage))


def outputs(workdir: Workdir, stage: str, memory: str) -> tuple[Path, ...]:
    """Folders that one stage fills."""
    if stage == "cache":
        return (workdir.latents("", "", rgb=memory == "rgb").parent,)
    return workdir.stage(workdir.part(stage, memory)), workdir.export(stage, memory)


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
    worlds = world_names.to_train(config, workdir, "encoder")
    encoder = train_encoder(
        build.vae(config),
        [workdir.worlds(world) for world in worlds],
        workdir.stage("encoder"),
        training_sections.encoder_settings(config),
        _options(config, section, console) if section.steps else None,
        held_out=[workdir.worlds(world) for world in with_held_out(workdir, worlds)],
    )
    first_alone("encoder", lambda: encoder.save(workdir.model("encoder")))


def _cache(config: ConfigDict, workdir: Workdir, console: Console, memory: str) -> None:
    from mirage_jax.cli.helpers.encoding import encode_recordings

    encode_recordings(config, workdir, console, memory)


def _geometry(config: ConfigDict, workdir: Workdir, console: Console, _: str) -> None:
    from mirage_jax.cli.helpers.training_data import training_data
    from mirage_jax.training.geometry_task import GeometryTask
    from mirage_jax.weights import export, module_fields
    from mirage_jax.world.latent_encoder import LatentEncoder

    vae = LatentEncoder.load(workdir.model("encoder")).vae
    height, width = (side // vae.spatial_stride for side in build.picture_size(config))
    head = build.geometry_head(config)
    section = training_sections.geometry(config)
    options = _options(config, section, console)
    data = training_data(config, workdir, "latent", options.mesh, stage="geometry")
    grid = (height, width, vae.latent_channels)
    params = train_task(
        GeometryTask(head, grid, config.sky_depth, section.mover_weight, data.shapes),
        data.source,
        workdir.stage("geometry"),
        options,
        name="geometry",
        transform=data.transform,
        prepare=data.prepare,
        mixture=data.mixture,
        eval_batches=data.eval_batches,
    )
    made = {"kind": "geometry_head", "head": module_fields(head)}
    first_alone("geometry", lambda: export(workdir.model("geometry"), params, made))


def _denoiser(config: ConfigDict, workdir: Workdir, console: Console, memory: str) -> None:
    from mirage_jax.cli.helpers.training_data import training_data
    from mirage_jax.training.branch_task import BranchTask, starting_params
    from mirage_jax.training.prior_fit import fit_memory_prior
    from mirage_jax.weights import export

    section = training_sections.denoiser(config)
    options = _options(config, section, console)
    texts = build.texts(config)
    data = training_data(config, workdir, memory, options.mesh, texts)
    task = _whole_task(config, workdir, memory, data, build.sampler(config))
    if task.denoiser.memory_prior:
        console.print("fitting the memory prior")
        prior = fit_memory_prior(task, data.train, apart=data.train_apart)
        task = dataclasses.replace(task, prior=prior)
    values = {}
    if section.trained != "all":
        values = build.pretrained(config, task)
        task = build.branch_task(config, task, values)
        start = starting_params(values, task.denoiser.branch_layers)
        options = dataclasses.replace(options, init_from=start)
    params = train_task(
        task,
        clip_sources.of_all_lengths(config, workdir, memory, texts, data.source),
        workdir.stage(f"denoiser_{memory}"),
        options,
        name=f"denoiser ({memory} memory)",
        transform=data.transform,
        prepare=data.prepare,
        mixture=data.mixture,
        eval_batches=data.eval_batches,
    )
    if isinstance(task, BranchTask):
        params = task.whole(_stored(values), params)
    worlds = workdir.recorded(config.worlds)
    architecture = build.denoiser_architecture(config, task, worlds)
    path = workdir.model(f"denoiser_{memory}")
    first_alone(f"denoiser {memory}", lambda: export(path, params, architecture))


def _student(
    config: ConfigDict, workdir: Workdir, console: Console, memory: str, *, stage: str
) -> None:
    from mirage_jax.cli.helpers.training_data import training_data
    from mirage_jax.training.branch_task import BranchTask
    from mirage_jax.training.matching_task import MatchingTask
    from mirage_jax.weights import export

    section = training_sections.student(config, stage)
    options = _options(config, section, console)
    texts = build.texts(config)
    data = training_data(config, workdir, memory, options.mesh, texts)
    sampler = quick_models.student_sampler(section)
    whole = _whole_task(config, workdir, memory, data, sampler)
    source = section.teacher or workdir.export("denoiser", memory)
    values = quick_models.trained_denoiser(config, whole, source)
    task = quick_models.student_task(config, workdir, stage, whole, values)
    start = quick_models.starting_params(config, workdir, task, whole, values)
    params = train_task(
        task,
        clip_sources.of_all_lengths(config, workdir, memory, texts, data.source),
        workdir.stage(workdir.part(stage, memory)),
        dataclasses.replace(options, init_from=start),
        name=stage,
        transform=data.transform,
        prepare=data.prepare,
        mixture=data.mixture,
        eval_batches=data.eval_batches,
    )
    if isinstance(task, MatchingTask):
        params = params["student"]
    if isinstance(task.base, BranchTask):
        params = task.base.whole(_stored(values), params)
    made = build.denoiser_architecture(config, whole, workdir.recorded(config.worlds))
    architecture = {**made, "sampler": dataclasses.asdict(sampler)}
    first_alone(stage, lambda: export(workdir.export(stage, memory), params, architecture))


def _tiny_decoder(config: ConfigDict, workdir: Workdir, console: Console, _: str) -> None:
    from mirage_jax.training.encoder_training import train_tiny_decoder
    from mirage_jax.weights import export, module_fields
    from mirage_jax.world import decoders
    from mirage_jax.world.latent_encoder import LatentEncoder

    section = training_sections.tiny_decoder(config)
    decoder = quick_models.tiny_decoder(config)
    worlds = world_names.to_train(config, workdir, "tiny_decoder")
    params = train_tiny_decoder(
        decoder,
        LatentEncoder.load(workdir.model("encoder")),
        [workdir.worlds(world) for world in worlds],
        workdir.stage("tiny_decoder"),
        _options(config, section, console),
        frames=config.chunk_frames,
        pixels=section.pixels,
        held_out=[workdir.worlds(world) for world in with_held_out(workdir, worlds)],
    )
    made = {"kind": "tiny_decoder", "tiny_decoder": module_fields(decoder)}
    made |= decoders.trained_for(workdir.model("encoder"))
    first_alone("tiny_decoder", lambda: export(workdir.model("tiny_decoder"), params, made))


def _whole_task(
    config: ConfigDict, workdir: Workdir, memory: str, data: TrainingData, sampler: SamplerOptions
) -> DenoiserTask:
    """The task of the whole denoiser, with the clips of its sample sheets where there are any."""
    from mirage_jax.training.denoiser_task import Preview
    from mirage_jax.world.latent_clip import from_fields
    from mirage_jax.world.latent_encoder import LatentEncoder

    encoder = LatentEncoder.load(workdir.model("encoder"))
    task = build.denoiser_task(config, memory, encoder.spread)
    sizes = picture_sizes(config, workdir.recorded(config.worlds))
    latents = task.chunk_latents + task.context_frames.preceding_latents
    constants = jax.jit(task.conditioner.constants, static_argnums=(1, 2))
    of_grid = {task.conditioner.grid(size): constants(encoder, latents, size) for size in sizes}
    task = dataclasses.replace(task, size=sizes[0], sizes=len(sizes), constants=of_grid)
    if task.conditioner.encodes:
        task = dataclasses.replace(task, encoder=encoder)
    if task.predicted:
        head = history_heads.trained(config, workdir, encoder.vae.latent_channels)
        task = dataclasses.replace(task, head=head)
    if not config.sample_every:
        return task
    records = data.shown(4)
    shown = {name: np.stack([record[name] for record in records]) for name in records[0]}
    preview = Preview(encoder, from_fields(shown), sampler, fps=config.evaluation.fps)
    return dataclasses.replace(task, preview=preview)


def _stored(values: Mapping[str, Any]) -> Any:
    """Parameters as exports hold them."""
    return jax.tree.map(functools.partial(np.asarray, dtype=np.float32), values)


_RUNNERS: dict[str, Callable[[ConfigDict, Workdir, Console, str], None]] = {
    "encoder": _encoder,
    "cache": _cache,
    "geometry": _geometry,
    "denoiser": _denoiser,
    "distill": functools.partial(_student, stage="distill"),
    "match": functools.partial(_student, stage="match"),
    "tiny_decoder": _tiny_decoder,
}


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
        record.run(config, workdir, console, (jax.process_index(), jax.process_count()))
        first_alone("record", lambda: None)  # until all have recorded their share
    if _DRY_RUN.value:
        source = starts.overridden(*common.overrides(), config.tiny)
        dry_run.run(
            config,
            workdir,
            console,
            _chosen(config, _STAGE.value),
            memory=_MEMORY.value,
            source=source,
        )
    else:
        say_what_is_not_evaluated(config, workdir, console)
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
