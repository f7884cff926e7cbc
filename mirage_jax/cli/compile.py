"""mirage compile: compile the training step and the sampling of a chunk for a TPU slice.

    mirage compile --config=experiments/wan22_5b_memory.py --topology=v5p:4x4x8
    mirage compile --config=experiments/wan22_5b_memory.py --config.tiny=true --topology=cpu:8
    mirage compile --config=experiments/distill.py:wan22_5b --program=distill --topology=v5p:4x4x8

No TPU is needed, only its compiler (pip install 'mirage_jax[tpu]'). The mesh is that of the config
(--config.mesh.data=4 --config.mesh.fsdp=64). Prints what one device needs and writes the same to
<workdir>/compile/; with --config.data.shapes there is a program for each picture shape. Exit status
1 if one does not fit its device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from absl import flags
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from mirage_jax.cli.helpers import common, config_check
from mirage_jax.io import outputs
from mirage_jax.io.json_files import write_json
from mirage_jax.io.workdir import Workdir

PROGRAMS = ("train", "sample")

_TOPOLOGY = flags.DEFINE_string(
    "topology",
    "v5p:2x2x4",
    "Slice to compile for: v5e:4x4, v5p:4x4x8, v6e:16x16, tpu7x:2x2x2, cpu:8.",
)
_PROGRAM = flags.DEFINE_enum(
    "program",
    "all",
    ("all", *PROGRAMS, "distill", "match"),
    "What to compile; all = train and sample. distill, match: steps of experiments/distill.py.",
)
_LEVEL = flags.DEFINE_enum(
    "optimization_level",
    "O1",
    ("O0", "O1", "O2", "O3"),
    "How hard the TPU compiler tries; it takes minutes at O1.",
)


def run(
    config: ConfigDict,
    workdir: Workdir,
    console: Console,
    *,
    topology: str,
    program: str = "all",
) -> int:
    """Compiles, prints and writes; 1 if something does not fit."""
    import jax
    from flax import linen as nn

    from mirage_jax.cli.helpers import picture_shapes, programs
    from mirage_jax.parallel import footprint, preset
    from mirage_jax.parallel import topology as slices

    target = slices.open_slice(topology)
    on = slices.make_mesh(target, config.mesh.to_dict())
    if target.chip is not None and config.denoiser.attention_backend == "auto":
        config = config.copy_and_resolve_references()
        with config.unlocked():
            config.denoiser.attention_backend = tpu_attention(config.denoiser.heads, on.shape)
    rules = preset(config.rules)
    axes = "-".join(f"{axis}{size}" for axis, size in on.shape.items() if size > 1)
    path = workdir.root / "compile" / f"{topology.replace(':', '_')}-{axes}-{program}.json"
    outputs.check_file("compile", path, outputs.json_kind("report", ["topology", "programs"]))
    results, configs = {}, picture_shapes.of_each_size(config)
    for name in PROGRAMS if program == "all" else (program,):
        for (height, width), own in configs.items():
            title = f"{name} {height}x{width}" if len(configs) > 1 else name
            with jax.set_mesh(on), nn.logical_axis_rules(rules):
                traced, facts = getattr(programs, name)(own, on, rules)
                console.print(f"compiling {title} for {topology} ...")
                results[title] = {**facts, **footprint.measure(traced, target).to_json()}
    report = {
        "config": config.name,
        "topology": topology,
        "mesh": dict(on.shape),
        "jax": jax.__version__,
        "optimization_level": jax.config.values["jax_optimization_level"],
        "programs": results,
    }
    write_json(path, report)
    console.print(table(report))
    console.print(f"-> {path}", soft_wrap=True)
    return int(any(result["memory"]["fits"] is False for result in results.values()))


def tpu_attention(heads: int, mesh: Mapping[str, int]) -> str:
    """What "auto" takes on TPUs; here, where there are none, it would ask for the CPU's."""
    if mesh["context"] == 1:
        return "splash"
    return "ring" if heads // mesh["tensor"] % mesh["context"] else "ulysses:splash"


def table(report: dict[str, Any]) -> Table:
    """What was found, a column for each program."""
    programs = report["programs"]
    mesh = " ".join(f"{axis}={size}" for axis, size in report["mesh"].items() if size > 1)
    rooflines = [result["roofline"] for result in programs.values() if result["roofline"]]
    out = Table(
        "of one device",
        *programs,
        title=f"{report['topology']}, mesh {mesh}",
        caption=rooflines[0]["assumes"] if rooflines else None,
    )
    for label, cell in _ROWS.items():
        out.add_row(label, *(cell(result) for result in programs.values()))
    for kind in sorted(
        {k for r in programs.values() for k in (r["program"] or {}).get("collectives", {})}
    ):
        out.add_row(kind, *(_traffic(result, kind) for result in programs.values()))
    return out


def _gib(count: float | int | None) -> str:
    return "-" if count is None else f"{count / 2**30:.2f} GiB"


def _fits(result: dict[str, Any]) -> str:
    return {True: "yes", False: "NO", None: "-"}[result["memory"]["fits"]]


def _traffic(result: dict[str, Any], kind: str) -> str:
    found = (result["program"] or {}).get("collectives", {}).get(kind)
    if not found:
        return "-"
    return f"{found['static']} ({found['executed']} executed), {_gib(found['wire'])} sent"


def _roofline(result: dict[str, Any]) -> str:
    line = result["roofline"]
    if line is None:
        return "-"
    parts = ", ".join(f"{name} {line[name]:.3f}" for name in ("compute", "hbm", "ici"))
    return f"{line['overlapped']:.3f} to {line['serial']:.3f} s ({parts})"


def _attention(result: dict[str, Any]) -> str:
    """What was asked for and what of it is in the program: matrix products are no kernel."""
    found = (result["program"] or {}).get("kernels", {})
    kernels = {name: count for name, count in sorted(found.items()) if "splash" in name}
    shown = ", ".join(f"{name} x{count}" for name, count in kernels.items())
    return f"{result['attention']}: {shown or 'no kernel of its own'}"


_ROWS: dict[str, Any] = {
    "parameters trained / frozen": lambda r: f"{r['trained']:,} / {r['frozen']:,}",
    "batch, tokens of a clip": lambda r: f"{r['batch']}, {r['tokens']:,}",
    "beside them, clean": lambda r: f"{r['clean_tokens']:,}",
    "arguments": lambda r: _gib(r["memory"]["arguments"]),
    "outputs beside them": lambda r: _gib(r["memory"]["outputs"] - r["memory"]["reused"]),
    "temporaries": lambda r: _gib(r["memory"]["temporaries"]),
    "needed in all": lambda r: _gib(r["memory"]["needed"]),
    "peak by the compiler": lambda r: _gib(r["memory"]["peak"]),
    "there is": lambda r: _gib(r["memory"]["capacity"]),
    "fits": _fits,
    "attention": _attention,
    "matrix products": lambda r: f"{r['flops'] / 1e12:.2f} TFLOP",
    "at best (roofline)": _roofline,
    "loops of unknown length": lambda r: str((r["program"] or {}).get("unknown_loops", "-")),
    "traced + compiled": lambda r: "{:.0f} + {:.0f} s".format(*r["seconds"]),
}


def main() -> int:
    import jax

    from mirage_jax.parallel import topology as slices

    config = common.resolve_config()
    config_check.check(config)
    kind, extent = slices.parse(_TOPOLOGY.value)
    jax.config.update("jax_platforms", "cpu")
    if kind == "cpu":
        jax.config.update("jax_num_cpu_devices", math.prod(extent))
    else:
        jax.config.update("jax_optimization_level", _LEVEL.value)
    workdir, console = Workdir(common.workdir()), Console()
    return run(config, workdir, console, topology=_TOPOLOGY.value, program=_PROGRAM.value)


def cli() -> None:
    common.run(main, __name__)


if __name__ == "__main__":
    cli()
