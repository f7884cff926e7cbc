"""What an experiment reads and replaces, looked at before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from data_pipelines.loading import ClipSource
from mirage_jax import parallel
from mirage_jax.cli.helpers import build, config_check, training_sections
from mirage_jax.cli.helpers.held_out_sets import with_held_out
from mirage_jax.io.exports import WEIGHTS, check_target, stored_architecture
from mirage_jax.io.outputs import check_folder, json_fields
from mirage_jax.io.workdir import Workdir
from mirage_jax.training import checkpoints
from mirage_jax.world import conditioners

SPLITS = ("train", "eval")


def check_training(
    config: ConfigDict, workdir: Workdir, stages: Sequence[str], memory: str
) -> None:
    """Checks all that stages of training read, but for recordings, and what they write.

    Raises:
      FileNotFoundError, ValueError: naming the file or field.
    """
    mesh = parallel.make_mesh(**config.mesh.to_dict())
    config_check.check_batches(config, dict(mesh.shape), stages)
    for stage in stages:
        part = workdir.part(stage, memory)
        if stage == "cache":
            check_folder(str(workdir.latents("", "").parent), workdir.latents("", "").parent)
            continue
        check_folder(str(workdir.stage(part)), workdir.stage(part))
        target = workdir.export(stage, memory)
        check_target(str(target), target)
        source = training_sections.OF_STAGE[stage](config).init_from
        if source and not Path(source).exists():
            name = "vae_training" if stage == "encoder" else f"{stage}_training"
            raise ValueError(f"config.{name}.init_from: {source}: no such file or folder")
    encoder = workdir.model("encoder")
    if "encoder" not in stages and not (encoder / WEIGHTS).is_file():
        raise FileNotFoundError(
            f"{encoder}: no {WEIGHTS} there; expected what `mirage train --stage=encoder` makes"
        )
    if memory == "latent" and "geometry" not in stages:
        _check_history_head(config, workdir.model("geometry"), stages)
    if "geometry" in stages:
        _check_head(config, workdir.stage("geometry"))
    if "encoder" in stages:
        _check_encoder(config, workdir.model("encoder"))
    for stage in ("distill", "match"):
        if stage in stages and "denoiser" not in stages:
            _check_teacher(config, workdir.export("denoiser", memory), stage)
    if "match" in stages:
        _check_student(config)
    if "denoiser" in stages:
        if memory == "latent":
            _check_conditioner(config, workdir.stage("denoiser_latent"))
        build.texts(config)
        if build.trained(config) != "all" and config.denoiser_training.pretrained != "random":
            build.open_pretrained(config)


def _check_teacher(config: ConfigDict, path: Path, stage: str) -> None:
    """That there is a trained denoiser to start a student from."""
    named = training_sections.student(config, stage).teacher
    folder = Path(named or path)
    if named != "random" and not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(
            f"{folder}: no {WEIGHTS} there; expected the trained denoiser that is distilled "
            f"(config.{stage}_training.teacher, or what `mirage train --stage=denoiser` makes)"
        )


def _check_student(config: ConfigDict) -> None:
    """That there is the student that `match_training.student` names."""
    named = training_sections.match(config).student
    if named not in ("", "teacher") and not (Path(named) / WEIGHTS).is_file():
        raise FileNotFoundError(
            f"{named}: no {WEIGHTS} there; expected the student to go on from "
            "(config.match_training.student)"
        )


def _check_conditioner(config: ConfigDict, run: Path) -> None:
    """That checkpoints a stage would go on from were trained with the config's conditioner."""
    reads = ("reads", "fine") if config.memory.conditioner in conditioners.BODY_KINDS else ()
    _check_trained_with(config, run, "memory", ("conditioner", *reads))


def _check_head(config: ConfigDict, run: Path) -> None:
    """That checkpoints a stage would go on from are of the config's geometry head."""
    names = ("width", "layers", "mlp_ratio", "cells_up", "movers_up", "cell_hidden")
    _check_trained_with(config, run, "geometry", names)


def _check_trained_with(config: ConfigDict, run: Path, section: str, names: Sequence[str]) -> None:
    folder = run / checkpoints.FOLDER
    saved = checkpoints.saved_steps(folder)
    if not saved:
        return
    try:
        before = checkpoints.read_meta(folder / str(saved[-1])).get("config") or {}
    except (checkpoints.CheckpointError, checkpoints.DamagedCheckpoint):
        return  # which the stage deals with
    for name in names:
        found, expected = before.get(section, {}).get(name), config[section].get(name)
        if found not in (None, expected):
            raise ValueError(
                f"config.{section}.{name}: found {expected!r}, expected {found!r}, which the "
                f"checkpoints in {folder} were trained with; name another --workdir, or move {run} "
                "away"
            )


def _check_encoder(config: ConfigDict, path: Path) -> None:
    """That an encoder is there if it is not to be trained, and none is replaced that was given."""
    given = training_sections.encoder(config).pretrained
    if given and not (path / WEIGHTS).is_file():
        raise FileNotFoundError(
            f"{path}: no {WEIGHTS} there; expected an encoder (config.vae_training.pretrained), "
            "as `mirage convert` makes one of released weights"
        )
    if not given and stored_architecture(path).get("spread") == []:
        raise ValueError(
            f"{path}: found an encoder that was converted, which training would replace; set "
            "--config.vae_training.pretrained=true to use it, or move it away"
        )


def _check_history_head(config: ConfigDict, geometry: Path, stages: Sequence[str]) -> None:
    shares = {}
    if not {"denoiser", "distill", "match"}.isdisjoint(stages):
        share = training_sections.denoiser(config).predicted_histories
        shares["denoiser_training.predicted_histories"] = share
    if "match" in stages:
        shares["match_training.rollouts"] = training_sections.match(config).rollouts
    for name, share in shares.items():
        if share and not (geometry / WEIGHTS).is_file():
            raise FileNotFoundError(
                f"{geometry}: no {WEIGHTS} there; expected what `mirage train --stage=geometry` "
                f"makes, as {name} is {share}"
            )


def check_recordings(config: ConfigDict, workdir: Workdir, *, held_out: bool = True) -> None:
    """Checks that recorded clips are whole and of the config's length and size.

    Args:
      config: the experiment.
      workdir: with the recordings.
      held_out: whether every one has to have held-out clips too; False for training, which can do
        without those of footage, but for `keep_best`, where any are there.

    Raises:
      ValueError: naming the recording, if there is none or it does not fit.
    """
    scored = with_held_out(workdir, config.worlds)
    if not scored and config.keep_best and not held_out:
        raise ValueError(
            f"config.keep_best: found {config.keep_best!r}, expected '': no clips are held out "
            "that checkpoints could be compared on (config.data.eval_share)"
        )
    for world in workdir.recorded(config.worlds):
        wanted = (config.record.frames, *build.picture_size(config, world))
        folder = workdir.worlds(world)
        splits = json_fields(folder / "dataset.json").get("splits", {})
        for split in SPLITS:
            card = splits.get(split, {})
            found = tuple(card.get(name) for name in ("frames", "height", "width"))
            if None not in found and found != wanted:
                raise ValueError(
                    f"{folder}: found {split} clips of {_clip(found)}, expected {_clip(wanted)} as "
                    "config.record says; change that, or record into another --workdir"
                )
            if split == "eval" and world not in scored:
                if held_out:
                    raise ValueError(
                        f"{folder}: found no held-out clips, expected some to evaluate on: more "
                        "footage or shorter clips (config.record.frames), with "
                        "config.data.eval_share above 0"
                    )
                continue
            ClipSource(folder, split, fields=("video",))


def _clip(shape: tuple[int, ...]) -> str:
    frames, height, width = shape
    return f"{frames} frames of {height} x {width} pixels"
