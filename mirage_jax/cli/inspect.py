"""mirage inspect: a recorded dataset as one page, to see in a minute whether its geometry is right.

    mirage inspect runs/walks/worlds/footage
    mirage inspect runs/walks/worlds/footage page.html --clips=60 --split=eval

DATASET is a folder with dataset.json, as `mirage record` writes it. The page, by default
DATASET/inspect.html, is a single file without scripts and fetches nothing: counts and what was left
out, the range of every measure beside its filter and, of clips evenly spread over the dataset, the
frames, the path from above, the numbers, and the checks of the geometry: a frame moved by depth and
poses beside the one that it should look like, and the points that two frames share. See
docs/data.md.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

from absl import flags
from rich.console import Console

from data_pipelines.card import CARD
from mirage_jax.cli.helpers import common
from mirage_jax.cli.helpers.flag_types import Integer
from mirage_jax.evaluation.dataset_page import DATASET_PAGE, dataset_page
from mirage_jax.io import outputs
from mirage_jax.io.atomic import write_atomically

_CLIPS = flags.DEFINE(Integer(least=1), "clips", 24, "Clips shown of each split, evenly spread.")
_SPLIT = flags.DEFINE_list("split", [], "Splits that are shown; by default all.")


def run(dataset: Path, page: Path, console: Console) -> int:
    """Writes the page."""
    if not dataset.is_dir():
        raise common.UserError(f"{dataset}: no such folder, expected a recorded dataset")
    reads = {CARD: dataset / CARD}
    outputs.check_file(str(page), page, DATASET_PAGE, reads=reads, suffixes=(".html",))
    with console.status("measuring clips"):
        text = dataset_page(dataset, clips=_CLIPS.value, splits=tuple(_SPLIT.value))
    page.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(page, text)
    console.print(f"{dataset} -> {page}", soft_wrap=True)
    return 0


def _main(words: list[str]) -> int:
    if not 1 <= len(words) <= 2:
        raise common.UserError(f"found {len(words)} names, expected DATASET, or DATASET PAGE.html")
    dataset = Path(words[0]).expanduser()
    page = Path(words[1]).expanduser() if len(words) == 2 else dataset / "inspect.html"
    return run(dataset, page, Console())


def cli() -> None:
    words, options = common.names_and_options(sys.argv[1:])
    common.run(functools.partial(_main, words), __name__, [sys.argv[0], *options], config=False)


if __name__ == "__main__":
    cli()
