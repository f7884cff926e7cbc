"""mirage quickstart: the whole chain. Record, train, generate, evaluate, report.

Each stage goes on from what an earlier call finished. With --compare it also trains the two
comparison models (no memory, RGB memory) on the same budget and rewrites the report.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

from absl import flags
from rich.console import Console

from mirage_jax.cli import common, evaluate, record, train
from mirage_jax.layout import Layout

_COMPARE = flags.DEFINE_bool("compare", False, "Train and score the comparison models too.")


@contextmanager
def timed(layout: Layout, console: Console, stage: str) -> Iterator[None]:
    """Announces a stage and adds its wall time to <workdir>/seconds.json."""
    console.rule(stage)
    start = time.monotonic()
    yield
    seconds = json.loads(layout.seconds.read_text()) if layout.seconds.exists() else {}
    seconds[stage] = round(seconds.get(stage, 0.0) + time.monotonic() - start, 1)
    layout.seconds.write_text(json.dumps(seconds, indent=1) + "\n")


def main() -> None:
    config = common.resolve_config()
    layout = Layout(common.workdir())
    console = Console()
    common.prepare_jax(config, layout)
    with timed(layout, console, "record"):
        record.run(config, layout, console)
    for stage in train.STAGES:
        with timed(layout, console, stage):
            train.run(config, layout, console, stage)
    if _COMPARE.value:
        with timed(layout, console, "denoiser without memory"):
            train.run(config, layout, console, "denoiser", memory="none")
        with timed(layout, console, "cache with RGB memory"):
            train.run(config, layout, console, "cache", memory="rgb")
        with timed(layout, console, "denoiser with RGB memory"):
            train.run(config, layout, console, "denoiser", memory="rgb")
    with timed(layout, console, "evaluate"):
        evaluate.run(config, layout, console)


def cli() -> None:
    common.run(main, __name__)


if __name__ == "__main__":
    cli()
