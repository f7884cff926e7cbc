"""mirage bench explore: how fast one walks through a world, without a browser.

    mirage bench explore --workdir=runs/quickstart
    mirage bench explore --workdir=runs/quickstart --chunks=1000 --together=16

Starts from a recorded clip of the work directory, or from the weights and a picture that ship
(--workdir=demo, or where nothing is trained), compiles, fills the memory, and walks. Prints
frames a second (new ones alone), where the time goes, whether chunks take longer in the end than
in the beginning, how long it takes from a key to its picture, and from the start to the first
picture, and writes <workdir>/bench_explore.json.
"""

from __future__ import annotations

import time
from typing import Any

from absl import flags
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from mirage_jax.cli.helpers import common, model_flags, run_weights
from mirage_jax.cli.helpers.flag_types import Integer
from mirage_jax.io import outputs
from mirage_jax.io.json_files import write_json
from mirage_jax.io.workdir import Workdir

FLAG_MODULES = (model_flags.__name__,)

_CHUNKS = flags.DEFINE(Integer(least=20), "chunks", 200, "Chunks to time.")
_FILL = flags.DEFINE(
    Integer(least=0), "fill", 400, "At most so many chunks before, until the memory is full."
)
_WALKERS = flags.DEFINE(
    Integer(least=0), "together", 0, "Time so many walkers that share a step, too; 0: none."
)
_LENGTH = flags.DEFINE(Integer(least=5), "chunk_length", 5, "Frames of a chunk: 1 + 4 n.")


def run(weights: Workdir, workdir: Workdir, worlds: Any, console: Console) -> None:
    """Walks, prints and writes.

    Args:
      weights: whose parts and clips are taken.
      workdir: where the numbers, and what is compiled, are kept.
      worlds: of the config.
      console: to print to.

    Raises:
      FileNotFoundError: where the work directory has no trained parts or recorded clips.
    """
    begun = time.perf_counter()
    import jax

    from mirage_jax.evaluation import walking
    from mirage_jax.world import Session, SessionOptions, load
    from mirage_jax.world.bodies import with_body_fields
    from mirage_jax.world.warming import denoise_steps

    path = workdir.root / "bench_explore.json"
    outputs.check_file("bench", path, outputs.json_kind("file of a walk", ["chunks", "ledger"]))
    # Small programs take long as well, where there are many.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    cached = workdir.root / "compilation_cache"
    warm = cached.is_dir() and any(cached.iterdir())
    options = SessionOptions(chunk_frames=_LENGTH.value)
    model = load(
        weights.root,
        memory=model_flags.latent_denoiser(),
        decoder=model_flags.decoder("auto"),
        bodies=model_flags.bodies(),
    )
    model = with_body_fields(model, model_flags.body_fields())
    picture, camera = _start(weights, worlds, model.size)
    seconds = {"load": time.perf_counter() - begun}
    with Progress(console=console) as progress:
        bar = progress.add_task("compiling", total=1.0)
        start = time.perf_counter()
        session = Session(model, picture, camera=camera, options=options)
        seconds["start"] = time.perf_counter() - start
        start = time.perf_counter()
        session.warm_up(lambda what, share: progress.update(bar, completed=share))
        seconds["warm_up"] = time.perf_counter() - start
        session.step(["w"])
        seconds["to_first_picture"] = time.perf_counter() - begun
        steps = denoise_steps(session)
        bar = progress.add_task("walking", total=_FILL.value + _CHUNKS.value)
        outcome = walking.measure(
            session,
            chunks=_CHUNKS.value,
            fill=_FILL.value,
            advance=lambda: progress.advance(bar),
        )
    outcome["denoise_steps_ms"] = [1e3 * step for step in steps]
    outcome["start_seconds"] = seconds | {"cache": "warm" if warm else "cold"}
    if _WALKERS.value:
        starts = [session.world] * _WALKERS.value
        outcome["together"] = walking.measure_together(model, starts, chunks=10, options=options)
    write_json(path, outcome)
    _print(outcome, console)
    console.print(f"-> {path}")


def _start(weights: Workdir, worlds: Any, size: tuple[int, int]) -> tuple[Any, Any]:
    """The first picture of a held-out clip and its camera, or a picture that ships."""
    import numpy as np

    from data_pipelines.loading import ClipSource
    from mirage_jax.geometry import Camera
    from mirage_jax.world import shipped

    if weights.root == shipped.DEMO:
        return next(iter(shipped.start_pictures().values())), None
    folder = weights.worlds(weights.recorded(worlds)[0])
    clip = ClipSource(folder, "eval", fields=("video", "intrinsics", "cam2world"))[0]
    pose = np.asarray(clip["cam2world"][0], np.float64)
    return clip["video"][0], Camera(np.asarray(clip["intrinsics"][0]), pose, size)


def _print(outcome: dict[str, Any], console: Console) -> None:
    height, width = outcome["size"]
    memory, growth = outcome["memory"], outcome["growth"]
    table = Table(
        "stage", "median, ms", "95 %, ms", "early, ms", "late, ms",
        title=f"{outcome['chunks']} chunks of {outcome['chunk_frames'] - 1} new frames, "
        f"{height}x{width} ({outcome['device']})",
    )  # fmt: skip
    for name, row in outcome["ledger"].items():
        numbers = (
            row["median_ms"],
            row["p95_ms"],
            *(outcome[part][name]["median_ms"] for part in ("early", "late")),
        )
        table.add_row(name.replace("_", " "), *(f"{number:.1f}" for number in numbers))
    console.print(table)
    steps = ", ".join(f"{step:.1f}" for step in outcome["denoise_steps_ms"])
    console.print(f"denoising step by step, timed apart: {steps} ms")
    key, start = outcome["key_to_picture_ms"], outcome["start_seconds"]
    console.print(
        f"{outcome['frames_per_second']:.1f} new frames a second "
        f"({100 * outcome['distinct']:.0f} % distinct); {outcome['cpu_ms']:.0f} ms of "
        f"CPU a chunk; late / early {growth:.2f}; {outcome['compiled']} programs compiled while "
        "walking"
    )
    console.print(
        f"key to picture: {key['median_ms']:.0f} ms, 95 %: {key['p95_ms']:.0f} ms; start to first "
        f"picture: {start['to_first_picture']:.1f} s ({start['cache']} cache)"
    )
    console.print(
        f"memory: {memory['elements']:,} of {memory['capacity']:,} elements, "
        f"{memory['evicted']:,} evicted; {memory['undo_bytes'] / 1e3:,.0f} kB to undo "
        f"{memory['undoable']} steps"
    )
    if "together" in outcome:
        found = outcome["together"]
        console.print(
            f"{found['walkers']} walkers together: {found['frames_per_second']:.1f} frames a "
            f"second, {found['step_ms']:.0f} ms a step"
        )


def main() -> None:
    config, console = common.resolve_config(), Console()
    workdir = run_weights.workdir()
    common.prepare_jax(config, workdir, timed=True)
    run(run_weights.trained_or_shipped(workdir, console), workdir, config.worlds, console)
