"""mirage bench memory: time the latent memory against sort-and-scatter and the RGB point cloud.

    mirage bench memory
    mirage bench memory --after=1,5,20,100
    mirage bench memory --walk=100     # of a trained work directory, on walks of 100 chunks
    mirage bench memory --tiles=100000,1000000,10000000
    mirage bench steps --help          # a student of few steps beside its teacher
    mirage bench explore --help        # someone who walks: frames a second, and where they go
    mirage bench loader --help
    mirage bench movers --help
    mirage bench denoiser --help
    mirage bench vae --help

Prints a table and writes <workdir>/bench_memory.json, or bench_memory_walk.json with --walk and
bench_tiles.json with --tiles. All times are medians of warm runs, taken in turns within one
process.
"""

from __future__ import annotations

from functools import partial

from absl import flags
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Column, Table

from mirage_jax.cli.helpers import (
    bench_explore,
    bench_loader,
    bench_movers,
    bench_networks,
    bench_steps,
    bench_tiles,
    bench_walk,
    build,
    common,
    config_check,
)
from mirage_jax.cli.helpers.flag_types import Integer, Numbers
from mirage_jax.io import outputs
from mirage_jax.io.json_files import write_json
from mirage_jax.io.workdir import Workdir

_TILES = flags.DEFINE(
    Numbers(Integer(least=1)),
    "tiles",
    [],
    "Instead of all else, time memories in tiles of so many elements against one that holds what "
    "is in view alone; ten million take 3 GB.",
)
_AFTER = flags.DEFINE(
    Numbers(Integer(least=1)),
    "after",
    [1, 5, 20],
    "Chunks after which latent memories and RGB clouds are timed. Clouds of which more than a "
    "hundred million points are drawn, in all pictures of a chunk together, are drawn picture by "
    "picture; those that have more are counted alone.",
)
_WALK = flags.DEFINE(
    Integer(least=0),
    "walk",
    0,
    "Chunks to walk to and fro along held-out clips of a trained work directory, with memories "
    "that are fused, fused with little room, and appended; 0 times a made-up room instead.",
)


def run(config: ConfigDict, workdir: Workdir, console: Console) -> None:
    import jax

    from mirage_jax.evaluation import efficiency
    from mirage_jax.world import latent_encoder

    config_check.check(config)
    path = workdir.root / "bench_memory.json"
    outputs.check_file("bench", path, outputs.json_kind("file of timings", ["read_against_sort"]))
    encoder, encode = latent_encoder.untrained(build.vae(config)), None
    if workdir.model("encoder").exists():
        encoder = latent_encoder.LatentEncoder.load(workdir.model("encoder"))
        encode = jax.jit(lambda video: encoder.encode(video[None]))
    outcome = efficiency.measure(
        size=build.picture_size(config),
        conditioner=build.conditioner(config),
        encoder=encoder,
        chunk_frames=config.chunk_frames,
        chunks=_AFTER.value,
        kinds=tuple(efficiency.KINDS),
        encode=encode,
    )
    write_json(path, outcome)
    console.print(_reads(outcome))
    console.print(_growth(outcome))
    if encode is None:
        console.print("encode time is missing: no trained encoder in the work directory")
    console.print(f"-> {path}")


def _reads(outcome: dict) -> Table:
    races = outcome["read_against_sort"]
    first = next(iter(races.values()))
    height, width = first["grid"]
    title = (
        f"reading {first['elements']:,} elements of {first['channels']} channels into "
        f"{height}x{width} cells ({outcome['device']})"
    )
    shares = (f"{100 * race['in_view']:.0f} % in view" for race in races.values())
    table = Table("", *shares, title=title)
    rows = {
        "two segment reductions and a gather, ms": lambda race: f"{race['read_ms']:.2f}",
        "sort by depth and scatter, ms": lambda race: f"{race['sort_scatter_ms']:.2f}",
        "ratio": lambda race: f"{race['ratio']:.1f}x",
        "same tokens": lambda race: str(race["identical"]),
    }
    for label, cell in rows.items():
        table.add_row(label, *(cell(race) for race in races.values()))
    return table


def _growth(outcome: dict) -> Table:
    from mirage_jax.evaluation.efficiency import KINDS

    (height, width), (rows, columns) = outcome["size"], outcome["read_grid"]
    times = ("write", "raster", "encode", "read")
    counts = (Column(name, no_wrap=True, justify="right") for name in ("elements", "kB"))
    table = Table(
        "chunks", "memory", *counts, *(f"{name} ms" for name in times),
        title=f"{height}x{width} pictures; a chunk reads {outcome['poses_per_chunk']} poses of "
        f"{rows}x{columns} cells, or draws and encodes {outcome['pictures_per_chunk']} pictures; "
        "medians, and half of the distance of quartiles",
    )  # fmt: skip
    for chunks, entry in outcome["after_chunks"].items():
        for kind, row in entry.items():
            spread = row.get("spread_ms", {})
            table.add_row(
                chunks,
                KINDS[kind],
                "-" if row["elements"] is None else f"{row['elements']:,}",
                "-" if row["bytes"] is None else f"{row['bytes'] / 1e3:,.0f}",
                *(_time(row.get(f"{name}_ms"), spread.get(name)) for name in times),
            )
    return table


def _time(milliseconds: float | None, quartiles: tuple[float, float] | None) -> str:
    if milliseconds is None:
        return "-"
    if quartiles is None:
        return f"{milliseconds:.1f}"
    return f"{milliseconds:.1f} ±{(quartiles[1] - quartiles[0]) / 2:.1f}"


def main() -> None:
    config = common.resolve_config()
    workdir = Workdir(common.workdir())
    common.prepare_jax(config, workdir, timed=True)
    if _TILES.value:
        bench_tiles.run(_TILES.value, workdir, Console())
    elif _WALK.value:
        bench_walk.run(config, workdir, _WALK.value, Console())
    else:
        run(config, workdir, Console())


def cli() -> None:
    import sys

    subject = "memory"
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        subject = sys.argv.pop(1)
    if subject == "loader":
        common.run(bench_loader.main, bench_loader.__name__, config=False)
    elif subject == "explore":
        common.run(bench_explore.main, bench_explore.__name__)
    elif subject == "movers":
        common.run(bench_movers.main, bench_movers.__name__, config=False)
    elif subject in bench_networks.SUBJECTS:
        networks = partial(bench_networks.main, subject)
        common.run(networks, bench_networks.__name__, config=False)
    elif subject == "steps":
        common.run(bench_steps.main, bench_steps.__name__)
    elif subject != "memory":
        known = ", ".join(
            ("memory", "explore", "loader", "steps", "movers", *bench_networks.SUBJECTS)
        )
        common.fail(f"bench: no subject {subject!r}, expected one of {known}")
    else:
        common.run(main, __name__)


if __name__ == "__main__":
    cli()
