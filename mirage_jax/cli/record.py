"""mirage record: record clips of worlds, or of footage of one's own, to ArrayRecord.

    mirage record --config=experiments/quickstart.py
    mirage record --config=experiments/footage.py --source=walks
    mirage record --config=experiments/footage.py --source=walks --share=0/4

Third-party worlds come with exact depth and poses; footage (--source: videos, pictures, data of
other projects: docs/data.md) with what its files have. Writes <workdir>/worlds/<source>/ with
shards, dataset.json and contact sheets; run again, it finishes what was interrupted. With --share
several hosts record into one folder, each its part. A world that cannot be rendered here is left
out, and said; so is a clip that cannot be read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from absl import flags
from ml_collections import ConfigDict
from rich.console import Console

from data_pipelines import recording, sources
from data_pipelines.clip_codecs import ENCODINGS
from data_pipelines.filters import Filters
from data_pipelines.recording import originals
from mirage_jax.cli.helpers import common, config_check, world_names
from mirage_jax.cli.helpers.flag_types import Share
from mirage_jax.cli.helpers.picture_shapes import FOOTAGE, is_footage, picture_size, picture_sizes
from mirage_jax.cli.helpers.short_flags import SOURCE
from mirage_jax.io import outputs
from mirage_jax.io.json_files import write_json
from mirage_jax.io.workdir import Workdir
from mirage_jax.settings import from_mapping

_SHARE = flags.DEFINE(
    Share(), "share", "0/1", "I/N: records every N-th shard, from number I on, as host I of N."
)


def run(
    config: ConfigDict, workdir: Workdir, console: Console, share: tuple[int, int] = (0, 1)
) -> tuple[str, ...]:
    """Records every world of the config that can be rendered here, or its footage.

    Args:
      config: the experiment.
      workdir: that takes the clips.
      console: where to print.
      share: (i, n): this is host i of n that record together.

    Returns:
      Their names.
    """
    footage = any(map(is_footage, config.worlds))
    config_check.check(config, chunks=not footage)
    with console.status("looking for clips"):
        found, skipped = _sources(config, console, workdir)
        splits = {name: _splits(config, name, source) for name, source in found.items()}
        for name, source in found.items():
            if is_footage(name) and not workdir.worlds(name).exists():
                _check_readable(source)
    shared: dict[str, Any] = {"seed": config.record.seed, "shard_clips": config.record.shard_clips}
    if "data" in config:
        shared["codecs"] = ENCODINGS[config.data.encoding]
    if footage:
        filters = config.filters.to_dict() if "filters" in config else {}
        shared["filters"] = from_mapping(Filters, filters, "config.filters")
    outputs.check_file("worlds/skipped.json", workdir.root / "worlds" / "skipped.json", _SKIPPED)
    for name, source in found.items():
        for split, count in splits[name].items():
            recording.check(source, workdir.worlds(name), split, count, **shared)
    for name, source in found.items():
        for split, count in splits[name].items():
            report = recording.record(
                source,
                workdir.worlds(name),
                split,
                count,
                **shared,
                workers=config.record.workers,
                console=console,
                share=share,
            )
            here, worker = report.peak_mib
            console.print(
                f"{name} {split}: {report.clips} clips, {report.rejected} rejected "
                f"{report.reasons or ''} in {report.seconds:.0f} s, at most {here} MiB of memory "
                f"and {worker} of a worker -> {workdir.worlds(name)}"
            )
            if report.missing:
                console.print(f"{name} {split}: {report.missing} shards of other hosts are missing")
    if share[0] == 0:
        write_json(workdir.root / "worlds" / "skipped.json", skipped)
    return tuple(found)


def _sources(
    config: ConfigDict, console: Console, workdir: Workdir | None = None
) -> tuple[dict[str, sources.Source], dict[str, str]]:
    """The sources of the config's worlds by name, and why others cannot be rendered here.

    Raises:
      UserError: naming the field that no source can be made with, or if there is no source.
    """
    found, skipped = {}, {}
    for name in config.worlds:
        if is_footage(name):
            source = _footage(config, name, console, workdir)
            if source.scenes():
                found[name] = source
            else:
                skipped[name] = f"no scene of {config.data.root} is nearest to its picture shape"
                console.print(f"[yellow]{name} is left out: {skipped[name]}[/]")
            continue
        available, reason = world_names.available(name)
        if not available:
            skipped[name] = reason
            console.print(f"[yellow]{name} is left out: {reason}[/]")
            continue
        found[name] = sources.make(world_names.source_name(name), **_options(config, name))
        if name not in config.record.train_clips:
            known = ", ".join(config.record.train_clips)
            raise common.UserError(f"record.train_clips: no number for {name!r}, only for {known}")
    if not found:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise common.UserError(f"no world can be rendered on this machine ({reasons})")
    return found, skipped


def _options(config: ConfigDict, name: str) -> dict[str, Any]:
    """What a world is recorded with; UserError if bodies are wanted that its source has not."""
    record, source = config.record, world_names.source_name(name)
    known = sources.source_options(source)
    options = {"size": record.size, "frames": record.frames}
    if record.width not in (0, record.size):
        options["width"] = record.width
    options |= {option: record[option] for option in ("gamma", "maps") if option in known}
    if source == "openarena":
        if not record.openarena:
            raise common.UserError(
                "record.openarena: found '', expected the folder of the game's .pk3 files"
            )
        options["root"] = record.openarena
    if world_names.has_bodies(name):
        if "bodies" not in known:
            raise common.UserError(
                f"worlds: found {name!r}, expected {source!r}: no bodies walk in its clips"
            )
        walking = ("bodies", "skip", "skip_spread", "due")
        options |= {option: record[option] for option in walking}
    return options


def _footage(config: ConfigDict, world: str, console: Console, workdir: Workdir | None) -> Any:
    """The footage of `config.data`, or its set of a shape; says what of its files is in no clip."""
    if "data" not in config or not config.data.root:
        raise common.UserError(
            "data.root: found '', expected the folder or file of footage (--source)"
        )
    known, shapes = sources.source_options(FOOTAGE), picture_sizes(config)
    options = {k: v for k, v in config.data.items() if k in known}
    height, width = picture_size(config, world)
    options |= {"size": height, "width": width, "frames": config.record.frames}
    options["shapes"] = shapes if len(shapes) > 1 else ()
    made: Any = sources.source_class(FOOTAGE)(**options)
    if workdir is not None:
        originals.recall_survey(made, workdir.worlds(world))
    for reason, count in made.left_out().items():
        console.print(f"[yellow]{config.data.root}: {count} frames left out: {reason}[/]")
    return made


def _check_readable(source: Any) -> None:
    """Raises the ValueError of the first scene where none gives a clip, before anything is made."""
    first, worlds = None, source.worlds("train")
    for world in worlds:
        try:
            source.clip(world, 0)
            return
        except ValueError as error:
            first = first or error
    if first is not None:
        others = f"; no other of the {len(worlds)} scenes gives a clip either"
        raise ValueError(f"{first}{others if len(worlds) > 1 else ''}") from first


def _splits(config: ConfigDict, name: str, source: sources.Source) -> Mapping[str, int | None]:
    """How many clips of each split; None for all there are."""
    if not is_footage(name):
        return {"train": config.record.train_clips[name], "eval": config.record.eval_clips}
    # Held-out clips first: clips to train on without them say that there are none.
    held_out = {"eval": None} if source.worlds("eval") else {}
    return {**held_out, "train": config.data.clips or None}


SHORT_FLAGS = (SOURCE,)

_SKIPPED = outputs.json_map_kind("list of the worlds that were left out", str)


def main() -> None:
    run(common.resolve_config(), Workdir(common.workdir()), Console(), _SHARE.value)


def cli() -> None:
    common.run(main, __name__)


if __name__ == "__main__":
    cli()
