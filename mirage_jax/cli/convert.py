"""mirage convert: released weights to exports of ours, and back.

    mirage convert --source=Wan2.2-TI2V-5B --to=exports/wan --model=wan22_ti2v_5b
    mirage convert --source=Wan2.2-TI2V-5B,step_0010000_vace.safetensors --model=mirage_5b \
        --to=exports/mirage
    mirage convert --source=Wan2.2-TI2V-5B/vae --to=exports/vae
    mirage convert --source=Wan2.2-TI2V-5B,step_0010000_lora.safetensors --lora_alpha=64 \
        --model=wan22_ti2v_5b --to=exports/tuned
    mirage convert --source=Wan2.2-TI2V-5B,style.safetensors,speed.safetensors \
        --lora_strength=0.7,1 --model=wan22_ti2v_5b --dtype=bfloat16 --to=exports/styled
    mirage convert --source=all_in_one.safetensors --part=vae --to=exports/vae
    mirage convert --source=taew2_2.safetensors --to=runs/wan/model/tiny_decoder
    mirage convert --source=Wan2.2-TI2V-5B-Diffusers/text_encoder --to=exports/text
    mirage convert --source=exports/mirage --part=branch --to=vace.safetensors
    mirage convert --source=exports/vae --naming=diffusers --to=vae
    mirage convert --source=exports/mirage --format=orbax --to=orbax/mirage
    mirage convert --source=orbax/mirage --format=export --to=exports/mirage

A source is a safetensors file, a folder of them or an index of shards: diffusion transformer,
control branch (alone or with its base), adapters (one alone, or several with a base they are merged
into), video VAE, TAEHV's tiny decoder, UMT5 text encoder or Depth Anything, in the naming of the
original releases, of diffusers and transformers or of ComfyUI, in 8 to 64 bits. What a file has
beside that is listed. An export of ours as the source is written back as safetensors: to a file, or
to a folder with shards. With --format=orbax either becomes an Orbax checkpoint:
`orbax.checkpoint.v1.load` gives its parameters on any mesh, the custom metadata hold the
architecture. Such a checkpoint as the source is taken as an export is; --format=export makes it one
again. Every name and shape is checked before the first value is read; values go from file to file
one tensor at a time, so that little memory is needed.
What was at --to is replaced at the end or not at all; folders of shards and Orbax checkpoints must
be new.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
from absl import flags
from rich.console import Console

from mirage_jax.cli.helpers import common, source_flag
from mirage_jax.cli.helpers.flag_types import Integer, PathName, Real
from mirage_jax.cli.helpers.source_flag import SOURCE
from mirage_jax.convert.all_in_one import PARTS
from mirage_jax.io import outputs
from mirage_jax.world.conditioners import KINDS

FLAG_MODULES = (source_flag.__name__,)

_DTYPES = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}

_TO = flags.DEFINE(PathName(), "to", "", "Folder of the export, or what to write an export to.")
_MODEL = flags.DEFINE_string("model", "", "wan22_ti2v_5b, mirage_5b or spatia_5b: what to expect.")
_HEADS = flags.DEFINE(
    Integer(least=0), "heads", 0, "Attention heads, if neither model nor source says; 0 = they do."
)
_BRANCH_LAYERS = flags.DEFINE_list(
    "branch_layers", [], "Blocks that a branch's hints belong to, if there is no --model."
)
_CONTEXT = flags.DEFINE_enum(
    "context",
    "",
    ["", *KINDS],
    "Conditioner that a branch was trained with, if there is no --model.",
)
_ALPHA = flags.DEFINE(
    Real(above=0),
    "lora_alpha",
    None,
    "Alpha of low-rank adapters that store none; scales by alpha / rank.",
)
_STRENGTH = flags.DEFINE_list(
    "lora_strength",
    [],
    "What the updates of each adapter are multiplied by before they are merged, in the order of "
    "--source, or one number for all; 1 by default.",
)
_DTYPE = flags.DEFINE_enum(
    "dtype",
    "same",
    ["same", *_DTYPES],
    "Of what is written; by default that of the source, bfloat16 for 8 bits, float32 for 8 bits "
    "with scales.",
)
_NAMING = flags.DEFINE_enum(
    "naming", "original", ["original", "diffusers"], "Names of tensors written from an export."
)
_PART = flags.DEFINE_enum(
    "part",
    "all",
    ["all", "base", "branch", *PARTS],
    "What to write of an exported denoiser: all, base or branch; what to take from a file that "
    f"holds several networks: {', '.join(PARTS)}.",
)
_FORMAT = flags.DEFINE_enum(
    "format",
    "",
    ["", "export", "safetensors", "orbax"],
    "What to write: by default an export of released weights, and safetensors of an export.",
)
_SHARD_GB = flags.DEFINE(Real(least=0.001), "shard_gb", 5.0, "Size of a shard, in GB.")

_FILES = (".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".gguf", ".json", ".zip")
"""Endings of files; a folder that is called so is a mistake."""


def run(console: Console) -> None:
    from mirage_jax.convert.incoming import import_checkpoint, save_export
    from mirage_jax.convert.options import ImportOptions
    from mirage_jax.convert.orbax_folder import save_orbax
    from mirage_jax.convert.outgoing import copy_export, export_checkpoint, is_ours

    if not SOURCE.value or not _TO.value:
        raise common.UserError("give --source=FILE_OR_FOLDER and --to=FOLDER_OR_FILE")
    sources, out = [Path(s) for s in SOURCE.value], Path(_TO.value)
    dtype = _DTYPES.get(_DTYPE.value)
    save = save_orbax if _FORMAT.value == "orbax" else save_export
    ours = is_ours(sources[0])
    if ours and len(sources) > 1:
        raise common.UserError(f"--source: {sources[0]} is an export and goes out alone")
    _check_target(out, sources, _FORMAT.value or ("safetensors" if ours else "export"))
    with console.status("") as status:
        if ours and _PART.value in PARTS:
            raise common.UserError(
                f"--part: found {_PART.value!r}, expected all, base or branch of an export"
            )
        if ours and _FORMAT.value in ("", "safetensors"):
            count = export_checkpoint(
                sources[0],
                out,
                naming=_NAMING.value,
                part=_PART.value,
                dtype=dtype,
                shard_bytes=int(_SHARD_GB.value * 1e9),
                notify=status.update,
            )
            console.print(f"{count} tensors -> {out}")
        elif ours:
            _refuse_naming()
            count = copy_export(sources[0], out, save=save, dtype=dtype, notify=status.update)
            console.print(f"{count} parameters -> {out}")
        elif _FORMAT.value == "safetensors":
            raise common.UserError(
                "--format: found 'safetensors', expected export or orbax for released weights"
            )
        else:
            options = ImportOptions(
                model=_MODEL.value,
                heads=_HEADS.value,
                branch_layers=_branch_layers(),
                alpha=_ALPHA.value,
                context=_CONTEXT.value,
                strengths=_strengths(),
                part=_part_of_file(),
            )
            kind = import_checkpoint(
                sources,
                out,
                options=options,
                dtype=dtype,
                notify=status.update,
                report=lambda line: console.print(line, markup=False, soft_wrap=True),
                save=save,
            )
            console.print(f"{kind} -> {out}")


def _check_target(out: Path, sources: Sequence[Path], form: str) -> None:
    """Raises ValueError if writing a format to `out` is not possible, or would lose a file."""
    from mirage_jax.convert.outgoing import TENSORS
    from mirage_jax.io.exports import check_target

    where = f"--to {out}"
    reads: dict[str, Path] = {}
    for source in sources:
        if outputs.same_file(source, out):
            raise common.UserError(f"{where}: that is what --source reads, expected another name")
        files = source.iterdir() if source.is_dir() else [source]
        reads |= {f"--source ({file})": file for file in files if file.is_file()}
    if form == "safetensors" and out.suffix.lower() == ".safetensors":
        outputs.check_file(where, out, TENSORS, reads=reads)
        return
    if out.suffix.lower() in _FILES and not out.is_dir():
        expected = " or a .safetensors file" if form == "safetensors" else ""
        raise common.UserError(f"{where}: found {out.suffix!r}, expected a folder{expected}")
    if form == "export":
        check_target(where, out, reads)
        return
    if os.path.lexists(out):
        raise common.UserError(f"{where}: is there already; expected a new folder")
    outputs.check_parents(where, out)


def _refuse_naming() -> None:
    """Names and parts are those of safetensors; the other formats hold an export as it is."""
    for flag, default in ((_NAMING, "original"), (_PART, "all")):
        if flag.value != default:
            raise common.UserError(
                f"--{flag.name}: found {flag.value!r}, expected {default!r} with "
                f"--format={_FORMAT.value}"
            )


def _branch_layers() -> tuple[int, ...]:
    words = _BRANCH_LAYERS.value
    if not all(word.isdecimal() for word in words):
        raise common.UserError(f"--branch_layers: found {words}, expected numbers such as 0,2,4")
    return tuple(map(int, words))


def _strengths() -> tuple[float, ...]:
    try:
        found = tuple(map(float, _STRENGTH.value))
    except ValueError:
        found = (math.nan,)
    if not all(math.isfinite(strength) and strength for strength in found):
        raise common.UserError(
            f"--lora_strength: found {_STRENGTH.value}, expected numbers such as 0.7,1, none 0"
        )
    return found


def _part_of_file() -> str:
    if _PART.value in ("base", "branch"):
        raise common.UserError(
            f"--part: found {_PART.value!r}, expected {', '.join(PARTS)} of released weights, and "
            "base or branch of an export"
        )
    return "" if _PART.value == "all" else _PART.value


def main() -> None:
    run(Console())


def cli() -> None:
    common.run(main, __name__, config=False)


if __name__ == "__main__":
    cli()
