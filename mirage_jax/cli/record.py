"""mirage record: record clips of third-party worlds, with exact depth and poses, to ArrayRecord.

Writes <workdir>/worlds/<source>/ with shards, dataset.json and contact sheets; run again, it
finishes what was interrupted. A world that cannot be rendered here is left out, and said.
"""

from __future__ import annotations

import json

from ml_collections import ConfigDict
from rich.console import Console

from data_pipelines import recording, sources
from mirage_jax.cli.helpers import common, config_check
from mirage_jax.io import outputs
from mirage_jax.io.atomic import write_atomically
from mirage_jax.io.workdir import Workdir


def run(config: ConfigDict, workdir: Workdir, console: Console) -> tuple[str, ...]:
    """Records every world of the config that can be rendered here; returns their names."""
    config_check.check(config)
    found, skipped = _sources(config, console)
    shared = {"seed": config.record.seed, "shard_clips": config.record.shard_clips}
    outputs.check_file("worlds/skipped.json", workdir.root / "worlds" / "skipped.json", _SKIPPED)
    for name, source in found.items():
        for split, count in _counts(config, name).items():
            recording.check(source, workdir.worlds(name), split, count, **shared)
    for name, source in found.items():
        for split, count in _counts(config, name).items():
            report = recording.record(
                source,
                workdir.worlds(name),
                split,
                count,
                **shared,
                workers=config.record.workers,
                console=console,
            )
            console.print(
                f"{name} {split}: {report.clips} clips, {report.rejected} rejected "
                f"{report.reasons or ''} in {report.seconds:.0f} s -> {workdir.worlds(name)}"
            )
    path = workdir.root / "worlds" / "skipped.json"
    write_atomically(path, json.dumps(skipped, indent=1) + "\n")
    return tuple(found)


def _sources(
    config: ConfigDict, console: Console
) -> tuple[dict[str, sources.Source], dict[str, str]]:
    """The sources of the config's worlds by name, and why others cannot be rendered here.

    Raises:
      UserError: naming the field that no source can be made with, or if there is no source.
    """
    size, width = common.picture_size(config)
    if size != width:
        raise common.UserError(f"record.width: found {width}, expected {size}: worlds are square")
    found, skipped = {}, {}
    for name in config.worlds:
        source_class = sources.source_class(name)
        available, reason = getattr(source_class, "available", lambda: (True, ""))()
        if not available:
            skipped[name] = reason
            console.print(f"[yellow]{name} is left out: {reason}[/]")
            continue
        options = {"size": size, "frames": config.record.frames}
        if "gamma" in sources.source_options(name):
            options["gamma"] = config.record.gamma
        found[name] = sources.make(name, **options)
        if name not in config.record.train_clips:
            known = ", ".join(config.record.train_clips)
            raise common.UserError(f"record.train_clips: no number for {name!r}, only for {known}")
    if not found:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise common.UserError(f"no world can be rendered on this machine ({reasons})")
    return found, skipped


def _counts(config: ConfigDict, name: str) -> dict[str, int]:
    return {"train": config.record.train_clips[name], "eval": config.record.eval_clips}


_SKIPPED = outputs.json_map_kind("list of the worlds that were left out", str)


def main() -> None:
    run(common.resolve_config(), Workdir(common.workdir()), Console())


def cli() -> None:
    common.run(main, __name__)


if __name__ == "__main__":
    cli()
