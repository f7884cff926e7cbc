"""mirage quickstart: the whole chain. Record, train, generate, evaluate, report.

Each stage goes on from what an earlier call finished. With --compare it also trains the two
comparison models (no memory, RGB memory) on the same budget and rewrites the report. Wall times
are in <workdir>/seconds.json.
"""

from __future__ import annotations

from absl import flags
from rich.console import Console

from mirage_jax.cli import evaluate, record, train
from mirage_jax.cli.helpers import common, config_check, input_check
from mirage_jax.cli.helpers.timing import timed
from mirage_jax.io.workdir import Workdir

_COMPARE = flags.DEFINE_bool("compare", False, "Train and score the comparison models too.")

_COMPARISONS = {
    "denoiser without memory": ("denoiser", "none"),
    "cache with RGB memory": ("cache", "rgb"),
    "denoiser with RGB memory": ("denoiser", "rgb"),
}


def main() -> None:
    config = common.resolve_config()
    workdir = Workdir(common.workdir())
    console = Console()
    common.prepare_jax(config, workdir)
    config_check.check(config)
    evaluate.check_outputs(workdir)
    input_check.check_training(config, workdir, train.stages(config), "latent")
    console.rule("record")
    with timed(workdir, "record", workdir.root / "worlds"):
        record.run(config, workdir, console)
    stages = {stage: (stage, "latent") for stage in train.stages(config)}
    for title, (stage, memory) in (stages | (_COMPARISONS if _COMPARE.value else {})).items():
        console.rule(title)
        with timed(workdir, title, *train.outputs(workdir, stage, memory)):
            train.run(config, workdir, console, stage, memory=memory)
    console.rule("evaluate")
    evaluate.run(config, workdir, console)


def cli() -> None:
    common.run(main, __name__)


if __name__ == "__main__":
    cli()
