"""mirage bench: time the denoiser or the video VAE at named sizes, with random weights.

    mirage bench denoiser --sizes=10m,47m
    mirage bench vae --sizes=wan22_small,wan21_small
    mirage bench denoiser --sizes=5b_branch --precision=bfloat16 --passes=forward
    mirage bench denoiser --sizes=5b --repeats=0

Prints a table and writes bench_denoiser.json or bench_vae.json (--json=FILE). Times are medians of
warm runs that take turns within one process. The share of a matmul compares operations per second
with those of a plain matrix product in the same run; on a CPU per second of CPU time.

Sizes of the denoiser: tiny, 10m, 47m, 1.3b, 5b, 5b_frames (with 4 reference and 2 preceding frames)
and 5b_branch (with the control branch as well); of the VAE: tiny, wan22_small, wan21_small, wan21
and wan22. With --repeats=0 passes are compiled only, which gives the memory of a size that this
machine could not run.
"""

from __future__ import annotations

from typing import Any

from absl import flags
from rich.console import Console
from rich.table import Table

from mirage_jax.cli.helpers import json_flag
from mirage_jax.cli.helpers.compilation import use_own_kernels
from mirage_jax.cli.helpers.flag_types import Integer
from mirage_jax.io import outputs
from mirage_jax.io.json_files import write_json

SUBJECTS = ("denoiser", "vae")
FLAG_MODULES = (json_flag.__name__,)

_SIZES = flags.DEFINE_list("sizes", ["tiny"], "Sizes to measure, by name.")
_PASSES = flags.DEFINE_list(
    "passes", [], "Of forward, encode, decode, forward_backward; all that there are by default."
)
_PRECISION = flags.DEFINE_enum(
    "precision", "float32", ["float32", "bfloat16"], "Of parameters and products."
)
_REPEATS = flags.DEFINE(Integer(least=0), "repeats", 5, "Runs per median; 0 compiles only.")


_FIELDS = ("subject", "sizes", "repeats")


def run(subject: str, console: Console) -> None:
    import jax.numpy as jnp

    from mirage_jax.evaluation import network_costs

    if not any(_SIZES.value):
        raise ValueError("--sizes: found none, expected names such as tiny")
    path = json_flag.json_path(subject)
    outputs.check_file(f"--json {path}", path, outputs.json_kind("file of timings", _FIELDS))
    with console.status("") as status:
        outcome = network_costs.measure(
            subject,
            _SIZES.value,
            dtype=jnp.dtype(_PRECISION.value).type,
            passes=_PASSES.value,
            repeats=_REPEATS.value,
            notify=status.update,
        )
    write_json(path, outcome)
    console.print(table(outcome))
    console.print(f"-> {path}")


def table(outcome: dict[str, Any]) -> Table:
    """What `network_costs.measure` found, a line per size and pass."""
    known = any(
        entry["recorded_ms"]
        for size in outcome["sizes"].values()
        for entry in size["passes"].values()
    )
    result = Table(
        "size", "pass", "ms", "CPU ms", "GFLOP", "of a matmul", "arguments MB", "temporary MB",
        *(("recorded PyTorch ms", "recorded / ours") if known else ()),
        title=f"{outcome['subject']}, {outcome['dtype']}, batch 1 on {outcome['device']} "
        f"({outcome['cores']} CPU cores), jax {outcome['jax']}, medians of {outcome['repeats']}",
        caption="Recorded: PyTorch, float32, two CPU cores, in another run and not measured in "
        "this one; the ratio is therefore one of machines and moments too." if known else None,
    )  # fmt: skip
    for size, found in outcome["sizes"].items():
        for name, entry in found["passes"].items():
            cells = [
                size,
                name,
                _number(entry["ms"], ".1f"),
                _number(entry["cpu_ms"], ".1f"),
                _number(entry["gflop"], ",.1f"),
                _number(entry["of_matmul"], ".0%"),
                _number(entry["argument_bytes"], ",.0f", 1e-6),
                _number(entry["temporary_bytes"], ",.0f", 1e-6),
            ]
            if known:
                cells += [
                    _number(entry["recorded_ms"], ".0f"),
                    _number(entry["ratio"], ".2f"),
                ]
            result.add_row(*cells)
    return result


def _number(value: float | int | None, form: str, scale: float = 1.0) -> str:
    return "-" if value is None else format(value * scale, form)


def main(subject: str) -> None:
    use_own_kernels()
    run(subject, Console())
