"""mirage quickstart: the whole chain. Record, train, generate, evaluate, report.

Each stage goes on from what an earlier call finished. With --compare it also trains the two
comparison models (no memory, RGB memory) on the same budget and rewrites the report. Wall times
are in <workdir>/seconds.json.
"""

from __future__ import annotations

from absl import flags
from rich.console import Console

from mirage_jax.cli import common, evaluate, record, train
from mirage_jax.cli.timing import timed
from mirage_jax.layout import Layout

_COMPARE = flags.DEFINE_bool("compare", False, "Train and score the comparison models too.")

_COMPARISONS = {
    "denoiser without memory": ("denoiser", "none"),
    "cache with RGB memory": ("cache", "rgb"),
    "denoiser with RGB memory": ("denoiser", "rgb"),
}


def main() -> None:
    config = common.resolve_config()
    layout = Layout(common.workdir())
    console = Console()
    common.prepare_jax(config, layout)
    console.rule("record")
    with timed(layout, "record", layout.root / "worlds"):
        record.run(config, layout, console)
    stages = {stage: (stage, "latent") for stage in train.STAGES}
    for title, (stage, memory) in (stages | (_COMPARISONS if _COMPARE.value else {})).items():
        console.rule(title)
        with timed(layout, title, *train.outputs(layout, stage, memory)):
            train.run(config, layout, console, stage, memory=memory)
    console.rule("evaluate")
    evaluate.run(config, layout, console)


def cli() -> None:
    common.run(main, __name__)


if __name__ == "__main__":
    cli()
