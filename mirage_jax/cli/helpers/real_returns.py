"""The revisit protocol on real captures: returns are looked for, recorded, encoded and scored."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data_pipelines import recording
from mirage_jax.cli.helpers import (
    capture_start,
    common,
    depth_network,
    held_out_clips,
    model_flags,
)
from mirage_jax.evaluation import protocol
from mirage_jax.evaluation.results import METHODS
from mirage_jax.evaluation.returns import ReturnsSource
from mirage_jax.io import outputs
from mirage_jax.io.json_files import write_json
from mirage_jax.io.workdir import Workdir
from mirage_jax.training.clip_encoding import settings_of
from mirage_jax.training.latent_encoding import refresh_cache
from mirage_jax.weights import fingerprint
from mirage_jax.world.loading import trained_sizes

SCORES = outputs.json_kind("scores of real returns", ["source", "returns", "scores"])


def run(
    config: ConfigDict, workdir: Workdir, root: str, most: int, console: Console
) -> tuple[Path, ...]:
    """Scores the model of a work directory on footage, and writes revisit/NAME/scores.json.

    Of weights that were trained on several picture shapes each scene is scored in the nearest, and
    every shape that has returns gets a file of its own.

    Args:
      config: of whose `data` the fields of reading are gone by.
      workdir: of the model.
      root: folder or file of the footage.
      most: returns that are scored.
      console: for progress and the table.

    Raises:
      UserError: if nothing in the footage comes back.
      ValueError: as reading the footage, and for footage without depth where nothing estimates it.
    """
    latent = model_flags.world_model(workdir, "latent", config)
    models = {"latent": model_flags.as_encoded(latent, config)}
    if workdir.model("denoiser_none").exists():
        models["none"] = model_flags.world_model(workdir, "none", config)
    sizes = trained_sizes(workdir.root) or (models["latent"].size,)
    sources = _returns(config, root, models["latent"], sizes, most)
    for source in sources:
        for reason in source.unreadable:
            console.print(f"[yellow]left out:[/] {escape(reason)}", soft_wrap=True)
    found = [source for source in sources if source.returns]
    if not found:
        longest = max((source.longest for source in sources), default=0)
        raise common.UserError(
            f"--source {root}: found no {config.record.frames} frames that leave a place and come "
            f"back to within 0.6 m and 15 degrees of it, in scenes of up to {longest} frames with "
            "poses; expected a capture that revisits"
        )
    return tuple(_scored(config, workdir, root, models, source, console) for source in found)


def _scored(
    config: ConfigDict,
    workdir: Workdir,
    root: str,
    models: dict[str, Any],
    source: ReturnsSource,
    console: Console,
) -> Path:
    """Scores the returns of one picture shape; gives the file of scores."""
    size = source.footage.shape
    models = {kind: model.replace(size=size) for kind, model in models.items()}
    model = models["latent"]
    folder = workdir.root / "revisit" / _name(root, source)
    scores_file = folder / "scores.json"
    outputs.check_file("evaluate", scores_file, SCORES)
    report = recording.record(source, folder, "eval", None, workers=0, console=console)
    held_out = _held_out(config, workdir, folder, model, console)
    scores = protocol.score(held_out, protocol.generate(models, held_out, seed=config.seed))
    found = {
        "source": root,
        "returns": [
            {"scene": one.scene, "frames": list(one.frames), "away": round(one.away, 3)}
            for one in source.returns
        ],
        "left_out": [*source.unreadable, *report.examples],
        "seed": config.seed,
        "scores": scores,
    }
    write_json(scores_file, found)
    console.print(_table(scores))
    console.print(f"{len(held_out)} returns of {root} -> {scores_file}", soft_wrap=True)
    return scores_file


def _returns(
    config: ConfigDict, root: str, model: Any, sizes: tuple[tuple[int, int], ...], most: int
) -> list[ReturnsSource]:
    """The farthest returns of all scenes, by the picture shape nearest to each."""
    frames = config.record.frames
    shapes = sizes if len(sizes) > 1 else ()
    footage = [capture_start.footage(config, root, size) for size in sizes]
    sources = [
        ReturnsSource(
            dataclasses.replace(one, shapes=shapes),
            frames=frames,
            history=frames - model.chunk_frames + 1,
            revisit=protocol.REVISITED_FRAMES,
            most=most,
        )
        for one in footage
    ]
    if len(sources) == 1:
        return sources
    away = [(-one.away, number) for number, each in enumerate(sources) for one in each.returns]
    kept = [number for _, number in sorted(away)[:most]]
    return [
        dataclasses.replace(source, most=kept.count(number))
        for number, source in enumerate(sources)
    ]


def _name(root: str, source: ReturnsSource) -> str:
    """Of the folder of a footage's returns; others for other frames or another size."""
    digest = hashlib.sha256(repr((source, source.returns)).encode()).hexdigest()
    return f"{Path(root).resolve().stem}-{digest[:8]}"


def _held_out(
    config: ConfigDict, workdir: Workdir, folder: Path, model: Any, console: Console
) -> protocol.HeldOut:
    settings = settings_of(model, depth_network=depth_network.identity(config))
    cache = folder / "latents.array_record"
    refresh_cache(
        model.encoder,
        fingerprint(workdir.model("encoder")),
        folder,
        "eval",
        cache,
        settings,
        say=functools.partial(console.print, markup=False, soft_wrap=True),
        console=console,
        depth_of=depth_network.load(config),
    )
    return held_out_clips.from_cache(folder, cache)


def _table(scores: dict[str, Any]) -> Table:
    table = Table(title="the last four frames of each return", title_justify="left")
    table.add_column("method")
    for name in ("PSNR, dB", "SSIM"):
        table.add_column(name, justify="right")
    for method, values in scores["revisit"].items():
        psnr, ssim = values["psnr"], values["ssim"]
        table.add_row(METHODS[method].label, f"{psnr['mean']:.2f}", f"{ssim['mean']:.3f}")
    return table
