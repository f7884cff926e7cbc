"""mirage world: look at saved worlds, edit, merge and branch them, and take them to other tools.

    mirage world info walk.world
    mirage world show walk.world walk.html                 # one page: maps, camera path, numbers
    mirage world export walk.world walk.ply                # or walk.glb, transforms.json, a folder
    mirage world edit walk.world fewer.world --do=delete --region=box:-1,-2,3,1,0,5
    mirage world edit walk.world moved.world --do=move --region=sphere:0,0,4,0.5 --shift=2,0,0
    mirage world edit walk.world other.world --do=swap --region=sphere:0,0,4,1 \\
        --other_region=sphere:3,0,4,1 --keep_as=before
    mirage world merge monday.world tuesday.world both.world
    mirage world branch walk.world walk.world --add="at the door"
    mirage world branch walk.world back.world --switch="at the door"

A world is what `mirage generate` writes beside its video, and continues with --world. What is read
comes first, then what is written; an edited world continues from where it was. `info` and `branch`
with one file only print.

Coordinates are the world's, metres; in worlds that began with a picture x points right, y down and
z ahead of the first camera. Files of an export are called by their end: .ply (points), .glb (points
and camera path, for viewers), .json (transforms.json with points beside it), or none (the folder of
a COLMAP model). See docs/worlds.md.
"""

from __future__ import annotations

import dataclasses
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from rich.console import Console
from rich.table import Table

from mirage_jax.cli.helpers import common, world_edits, world_exports
from mirage_jax.cli.helpers.flag_types import Integer, PathName, Real
from mirage_jax.cli.helpers.flag_values import two_numbers
from mirage_jax.cli.helpers.world_edits import EDITS, numbers_of, region_of
from mirage_jax.evaluation.world_page import WORLD_PAGE, world_numbers, world_page
from mirage_jax.io import outputs
from mirage_jax.io.atomic import write_atomically
from mirage_jax.memory.alignment import AlignmentOptions, estimate_pose
from mirage_jax.origin import UPS
from mirage_jax.world import branches, check_world, editing, viewpoints
from mirage_jax.world.colours import decoded_colours, token_colours
from mirage_jax.world.loading import load
from mirage_jax.world.world_file import WORLD, WorldFile, read_world_file, write_world_file

_UP = flags.DEFINE_enum(
    "up", "-y", [*UPS], "Direction away from the floor: of maps, turns and merging by yaw."
)
_SLAB = flags.DEFINE(
    Real(least=0), "slab", 0.0, "show: thickness of sections, metres; 0 = a fifth of the extent."
)
_WEIGHTS = flags.DEFINE(
    PathName(),
    "weights",
    "",
    "show, export: work directory or model whose autoencoder decodes the colours; by default those "
    "are the principal components of the tokens.",
)
_EVERY = flags.DEFINE(
    Integer(least=1), "every", 4, "export: frames from one camera to the next; 4: of every latent."
)
_PICTURE_SIZE = flags.DEFINE_list(
    "picture_size", [], "HEIGHT,WIDTH in pixels, for worlds without a camera path."
)
_DO = flags.DEFINE_enum("do", None, [*EDITS], "edit: what is done to the elements in --region.")
_KINDS = "; ".join(f"{kind}:{numbers}" for kind, numbers in world_edits.REGIONS.items())
_REGION = flags.DEFINE_string("region", "", f"edit: of space, {_KINDS}.")
_OTHER_REGION = flags.DEFINE_string("other_region", "", "edit: what --region is swapped with.")
_EDGES = flags.DEFINE_bool(
    "edges",
    False,
    "edit: of a delete, move or swap, also delete what shows some of the thing in --region though "
    "it lies behind, as cells at the thing's edges do. The region is to be no larger than the "
    "thing: all that was seen through an empty part of it would go too.",
)
_SHIFT = flags.DEFINE_list("shift", ["0", "0", "0"], "edit: x,y,z metres of a move or duplicate.")
_TURN = flags.DEFINE(
    Real(), "turn", 0.0, "edit: degrees of a move or duplicate, about --up through the region."
)
_MEND = flags.DEFINE_bool(
    "mend", True, "edit: whether the last frame takes what the memory shows now where it changed."
)
_KEEP_AS = flags.DEFINE_string("keep_as", "", "edit: name of a branch for the world as it was.")
_POSE = flags.DEFINE(
    PathName(),
    "pose",
    "",
    "merge: file of poses (.npz, .npy, .json, .txt) whose first takes the second world's "
    "coordinates to the first's; by default it is estimated from what both have seen.",
)
_ALIGN = flags.DEFINE_enum(
    "align", "yaw", ["yaw", "rigid"], "merge: turns that an estimate looks for, about --up or any."
)
_VOXEL = flags.DEFINE(
    Real(least=0),
    "voxel",
    0.0,
    "merge: side of voxels, metres, of which what the first world knows is left out; 0 = none.",
)
_ADD = flags.DEFINE_string("add", "", "branch: name for the present state as a branch.")
_PARENT = flags.DEFINE_string("parent", None, "branch: name of the branch that --add grows from.")
_SWITCH = flags.DEFINE_string("switch", "", "branch: name of the branch to be the present state.")
_REMOVE = flags.DEFINE_string("remove", "", "branch: name of the branch to take out of the file.")

_MOST_VIEWS = 48
"""Cameras from which colours are decoded."""


def _size(file: WorldFile) -> tuple[int, int]:
    given = None
    if _PICTURE_SIZE.value:
        given = two_numbers("picture_size", _PICTURE_SIZE.value, "HEIGHT,WIDTH in whole pixels")
    return viewpoints.picture_size(file, given)


def _colours(file: WorldFile, console: Console) -> np.ndarray | None:
    """Decoded colours of all slots; None without --weights, and where colours are stored."""
    if not _WEIGHTS.value or file.world.bank.tokens.dtype == np.uint8:
        return None
    model = load(Path(_WEIGHTS.value))
    check_world(file.world, model, f"--weights {_WEIGHTS.value}: the world")
    cameras = viewpoints.viewpoints(file, _size(file)).at_most(_MOST_VIEWS)
    with console.status(f"decoding {len(cameras.frames)} views"):
        colours, share = decoded_colours(
            file.world.bank,
            model.encoder,
            cameras.camera,
            model.grid,
            cells=model.conditioner.cells,
        )
    console.print(f"colours: {share:.0%} of the elements as decoded, the rest by their tokens")
    return colours


def _info(paths: list[Path], console: Console) -> None:
    for name, entries in world_numbers(read_world_file(paths[0])).items():
        table = Table(name, "", show_header=True)
        for label, value in entries.items():
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            table.add_row(label, text)
        console.print(table)


def _show(paths: list[Path], console: Console) -> None:
    source, out = paths
    outputs.check_file(str(out), out, WORLD_PAGE, reads={"show": source}, suffixes=(".html",))
    file = read_world_file(source)
    colours = _colours(file, console)
    page = world_page(file, source.name, up=_UP.value, slab=_SLAB.value, colours=colours)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, page)
    console.print(f"-> {out}", soft_wrap=True)


def _export(paths: list[Path], console: Console) -> None:
    source, out = paths
    for path, kind in world_exports.targets(out).items():
        outputs.check_file(str(out), path, kind, reads={"export": source})
    file = read_world_file(source)
    cameras = None
    if out.suffix != ".ply":
        cameras = viewpoints.viewpoints(file, _size(file), _EVERY.value)
    colours = _colours(file, console)
    if colours is None:
        mem = file.world.bank
        valid = np.asarray(mem.valid)
        colours = np.zeros((mem.capacity, 3), np.uint8)
        colours[valid] = token_colours(np.asarray(mem.tokens)[valid])
    out.parent.mkdir(parents=True, exist_ok=True)
    points = world_exports.write(out, file, cameras, colours)
    views = "" if cameras is None else f", {len(cameras.frames)} cameras"
    console.print(f"{points} points{views} -> {out}", soft_wrap=True)


def _edit(paths: list[Path], console: Console) -> None:
    source, out = paths
    _check_world(out, {"edit": source})
    what = _DO.value
    if what is None:
        raise common.UserError(f"edit: give --do={'|'.join(EDITS)}")
    if (what == "compact") == bool(_REGION.value):
        wanted = "none" if what == "compact" else "one"
        raise common.UserError(
            f"--region: found {_REGION.value!r} with --do={what}, expected {wanted}"
        )
    file = read_world_file(source)
    if _KEEP_AS.value:
        file = branches.with_branch(file, _KEEP_AS.value, f"before {what}")
    if what == "compact":
        world = editing.compact_world(file.world)
        console.print(f"{int(world.bank.count)} elements in the first slots")
    else:
        world, outcome = editing.edit_world(
            file.world, _change(what), _size(file), mend=_MEND.value
        )
        _print_outcome(outcome, console)
        lost = int(world.bank.dropped) - int(file.world.bank.dropped)
        if lost:
            console.print(f"[yellow]the memory was full: {lost} elements did not fit[/]")
    note = {"edit": " ".join(sys.argv[1:])}
    edits = [*file.provenance.get("edits", []), note]
    file = dataclasses.replace(file, world=world, provenance={**file.provenance, "edits": edits})
    _write(out, file, console)


def _change(what: str) -> Any:
    region = region_of("region", _REGION.value, _UP.value)
    other = None
    if (what == "swap") != bool(_OTHER_REGION.value):
        raise common.UserError("--other_region: goes with --do=swap, and with no other edit")
    if what == "swap":
        other = region_of("other_region", _OTHER_REGION.value, _UP.value)
    shift = np.array(numbers_of("shift", _SHIFT.value, 3, "x,y,z in metres"))
    moves = what in ("move", "duplicate")
    if moves != bool(shift.any() or _TURN.value):
        raise common.UserError(f"--do={what}: --shift and --turn go with move and duplicate")
    by = world_edits.turn_about(np.asarray(region.pose)[:3, 3], _TURN.value, _UP.value)
    by[:3, 3] += shift
    if _EDGES.value and what not in world_edits.LEAVING:
        raise common.UserError(f"--edges: found --do={what}, expected delete, move or swap")
    return world_edits.change_of(what, region, other, by, edges=_EDGES.value)


def _print_outcome(outcome: editing.EditOutcome, console: Console) -> None:
    counts = ", ".join(f"{number} {name}" for name, number in outcome.memory.items())
    console.print(f"elements: {counts}")
    if outcome.reference_frames or outcome.preceding_latents:
        console.print(
            f"no longer shown to the denoiser: {outcome.reference_frames} reference frames, "
            f"{outcome.preceding_latents} preceding latents"
        )
    left = outcome.last_frame_cells - outcome.last_frame_mended
    if outcome.last_frame_mended:
        console.print(f"last frame: {outcome.last_frame_mended} cells take what is there now")
    if left:
        console.print(
            f"[yellow]the last frame still shows {left} cells of what was changed, and the next "
            "chunk begins with it: go on with a path that turns away[/]"
        )


def _merge(paths: list[Path], console: Console) -> None:
    first, second, out = paths
    _check_world(out, {"merge (WORLD)": first, "merge (OTHER)": second})
    file, other = read_world_file(first), read_world_file(second)
    how: dict[str, Any] = {"pose from": _POSE.value}
    if _POSE.value:
        pose = world_edits.pose_from(Path(_POSE.value))
    else:
        up = tuple(UPS[_UP.value].tolist())
        options = AlignmentOptions(rotation=_ALIGN.value, up=up)
        with console.status("looking for what both have seen"):
            found = estimate_pose(file.world.bank, other.world.bank, options)
        pose = found.pose
        how = {name: value for name, value in vars(found).items() if name != "pose"}
        how = {name: round(value, 4) if np.isfinite(value) else None for name, value in how.items()}
        console.print(
            f"pose: {found.overlap:.0%} overlap, {found.margin:.2f} times better than the next, "
            f"surfaces {found.residual:.3f} m apart"
        )
    world, report = editing.merge_worlds(file.world, other.world, pose, voxel=_VOXEL.value)
    console.print(
        f"{int(report.added)} elements added, {int(report.known)} known already, "
        f"{int(report.dropped)} did not fit"
    )
    if other.entities is not None or other.branches:
        console.print("[yellow]entities and branches of the second world are not merged[/]")
    note = {"with": second.name, "pose": np.round(pose, 9).tolist(), **how}
    merged = [*file.provenance.get("merged", []), note]
    file = dataclasses.replace(file, world=world, provenance={**file.provenance, "merged": merged})
    _write(out, file, console)


def _branch(paths: list[Path], console: Console) -> None:
    file = read_world_file(paths[0])
    asked = bool(_ADD.value) + bool(_SWITCH.value) + bool(_REMOVE.value)
    if asked != len(paths) - 1:
        raise common.UserError(
            "branch: expected a file alone, or one more to write and one of --add=NAME, "
            "--switch=NAME and --remove=NAME"
        )
    if _ADD.value:
        file = branches.with_branch(file, _ADD.value, "mirage world branch", parent=_PARENT.value)
    elif _SWITCH.value:
        file = branches.at_branch(file, _SWITCH.value)
    elif _REMOVE.value:
        file = branches.without_branch(file, _REMOVE.value)
    if asked:
        _check_world(paths[1], {"branch": paths[0]} if _SWITCH.value else {})
        _write(paths[1], file, console)
    for name, text in world_numbers(file).get("branches", {"none": ""}).items():
        console.print(f"{name}: {text}" if text else name)


def _check_world(out: Path, reads: dict[str, Path]) -> None:
    outputs.check_file(str(out), out, WORLD, reads=reads)


def _write(out: Path, file: WorldFile, console: Console) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    write_world_file(out, file)
    console.print(f"-> {out}", soft_wrap=True)


_FILES = {
    "info": (1, 1, "WORLD", _info),
    "show": (2, 2, "WORLD PAGE.html", _show),
    "export": (2, 2, "WORLD FILE_OR_FOLDER", _export),
    "edit": (2, 2, "WORLD OUT", _edit),
    "merge": (3, 3, "WORLD OTHER OUT", _merge),
    "branch": (1, 2, "WORLD [OUT]", _branch),
}
"""Per subject: least and most files, what they are, and what to do with them."""


def main(subject: str, files: list[str]) -> None:
    least, most, words, action = _FILES[subject]
    if not least <= len(files) <= most:
        raise common.UserError(f"world {subject}: found {len(files)} files, expected {words}")
    action([Path(name).expanduser() for name in files], Console())


def cli() -> None:
    words = sys.argv[1:]
    count = next((n for n, word in enumerate(words) if word.startswith("-")), len(words))
    subject, files = words[0] if count else "", words[1:count]
    if subject not in _FILES and not any(word in ("--help", "-h") for word in words):
        common.fail(f"world: no subject {subject!r}, expected one of {', '.join(_FILES)}")
    sys.argv = [sys.argv[0], *words[count:]]
    common.run(partial(main, subject, files), __name__, config=False)


if __name__ == "__main__":
    cli()
