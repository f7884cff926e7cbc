"""mirage quickstart: the whole chain. Record, train, generate, evaluate, report.

Each stage goes on from what an earlier call finished. With --compare it also trains the two
comparison models (no memory, RGB memory) on the same budget and rewrites the report. Wall times
are in <workdir>/seconds.json. --source=walks takes footage of one's own (docs/data.md); where none
of it is held out, nothing is evaluated.
"""

from __future__ import annotations

from absl import flags
from ml_collections import ConfigDict
from rich.console import Console

from mirage_jax.cli import evaluate, record, train
from mirage_jax.cli.helpers import common, config_check, input_check, short_flags
from mirage_jax.cli.helpers.held_out_sets import (
    say_what_is_not_evaluated,
    with_held_out,
    without_held_out,
)
from mirage_jax.cli.helpers.timing import timed
from mirage_jax.io.workdir import Workdir

_COMPARE = flags.DEFINE_bool("compare", False, "Train and score the comparison models too.")

SHORT_FLAGS = (short_flags.SOURCE,)

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
    say_what_is_not_evaluated(config, workdir, console)
    stages = {stage: (stage, "latent") for stage in train.stages(config)}
    for title, (stage, memory) in (stages | (_COMPARISONS if _COMPARE.value else {})).items():
        console.rule(title)
        with timed(workdir, title, *train.outputs(workdir, stage, memory)):
            train.run(config, workdir, console, stage, memory=memory)
    left_out = without_held_out(workdir, config.worlds)
    scored = tuple(world for world in config.worlds if world not in left_out)
    if left_out and not with_held_out(workdir, scored):
        return
    console.rule("evaluate")
    evaluate.run(_of_worlds(config, scored) if left_out else config, workdir, console)


def _of_worlds(config: ConfigDict, worlds: tuple[str, ...]) -> ConfigDict:
    """The config for some of its worlds alone."""
    some = config.copy_and_resolve_references()
    with some.unlocked():
        some.worlds, some.loading.weights = worlds, ()
    return some


def cli() -> None:
    common.run(main, __name__)


if __name__ == "__main__":
    cli()
