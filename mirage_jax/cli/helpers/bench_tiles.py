"""`mirage bench memory --tiles=SIZES`: memories in tiles against what is in view alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from mirage_jax.io import outputs
from mirage_jax.io.json_files import write_json
from mirage_jax.io.workdir import Workdir


def run(elements: Sequence[int], workdir: Workdir, console: Console) -> None:
    """Measures, prints a table and writes <workdir>/bench_tiles.json."""
    from mirage_jax.evaluation import tile_costs
    from mirage_jax.memory.tiles import PLACES

    path = workdir.root / "bench_tiles.json"
    outputs.check_file("bench", path, outputs.json_kind("file of timings", ["tiles"]))
    found = []
    with console.status("") as status:
        for size in elements:
            for place in PLACES:

                def tell(written: int, size: int = size, place: str = place) -> None:
                    status.update(f"{place}: {written:,} of {size:,} elements written")

                found.append(tile_costs.measure(size, place=place, on_write=tell))
    write_json(path, {"tiles": found})
    console.print(_table(found))
    console.print(
        "alone, tiles: ms; ratio: of these; CPU: of CPU time; same: whether tokens and depths are"
    )
    console.print(f"-> {path}")


def _table(found: list[dict[str, Any]]) -> Table:
    first = found[0]
    title = (
        f"reading memories in tiles, {first['channels']} channels into "
        f"{first['grid'][0]}x{first['grid'][1]} cells, one view or a chunk of {first['poses']} "
        f"({first['device']})"
    )
    table = Table(title=title, box=box.SIMPLE, padding=0)
    for name in ("elements", "lie on", "read", "in view", "alone", "tiles", "ratio", "CPU", "same"):
        table.add_column(name, no_wrap=True, min_width=7)
    for row in found:
        for name in ("view", "chunk"):
            race = row[name]
            table.add_row(
                f"{row['elements']:,}",
                row["place"],
                name,
                f"{race['in_view']:,}",
                f"{race['alone_ms']:.2f}",
                f"{race['tiled_ms']:.2f}",
                f"{race['ratio']:.2f}",
                f"{race['cpu_ratio']:.2f}",
                str(race["identical"]),
            )
    return table
