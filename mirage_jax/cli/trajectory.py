"""mirage trajectory: look at, convert and check camera paths, of this and of other tools.

    mirage trajectory show cameras.txt --picture=path.png        # and path.html, to turn it
    mirage trajectory show forward:2m,turn_left:90,back
    mirage trajectory convert transforms.json poses.txt      # TUM, by the suffix
    mirage trajectory convert sparse/0 pose.npz --to_format=vipe
    mirage trajectory convert poses.npy path.npz --direction=w2c --axes=opengl --units=mm
    mirage trajectory check poses.npy --direction=c2w --axes=opencv --length=81
    mirage trajectory check poses --intrinsics=525,525,320,240 --size=480,640 \\
        --pictures=frames --depths=frames

FILE is a camera file, or a folder of them; what it holds is recognised, and what was seen is said.
Plain matrices do not say whether they map the camera to the world (c2w) or back (w2c), nor where
their axes point: they are refused without --direction and --axes. With pictures and depth, check
finds out which convention makes frames land on each other. The first FILE can also be a named path,
steps or keys, as --trajectory of generate. docs/cameras.md lists formats and conventions.

check ends with status 1 where something is wrong.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import flags
from rich.console import Console

from mirage_jax import trajectories
from mirage_jax.cli.helpers import common
from mirage_jax.cli.helpers.flag_types import Integer, PathName, Real
from mirage_jax.geometry import field_of_view
from mirage_jax.io import camera_files, outputs
from mirage_jax.io.camera_files import CameraRecord
from mirage_jax.io.camera_files.checks import check_record

_FORMATS = list(camera_files.FORMATS)
_FORMAT = flags.DEFINE_enum("from_format", None, _FORMATS, "Of FILE; by default it is recognised.")
_TO_FORMAT = flags.DEFINE_enum(
    "to_format",
    None,
    [name for name, kind in camera_files.FORMATS.items() if kind.write],
    "Of what convert writes; by default TUM for .txt, transforms for transforms.json, else plain "
    "matrices.",
)
_DIRECTION = flags.DEFINE_enum(
    "direction",
    None,
    list(camera_files.DIRECTIONS),
    "What matrices map: c2w, camera to world, or w2c; by default as the format has it.",
)
_AXES = flags.DEFINE_enum(
    "axes",
    None,
    list(camera_files.AXES),
    "Of cameras: "
    + "; ".join(f"{name}: {words}" for name, words in camera_files.AXES.items())
    + "; by default as the format has it.",
)
_UNITS = flags.DEFINE_enum(
    "units", None, list(camera_files.UNITS), "Of translations; by default as the format has it."
)
_SIZE = flags.DEFINE_list("size", [], "HEIGHT,WIDTH of the pictures, where FILE does not say it.")
_CAMERA = flags.DEFINE_string("camera", None, "Which path of a FILE with several.")
_INTRINSICS = flags.DEFINE_list(
    "intrinsics", [], "FX,FY,CX,CY in pixels of --size, where FILE has none."
)
_FOV = flags.DEFINE(
    Real(above=0, below=180),
    "field_of_view",
    None,
    "Degrees across the shorter side of --size, where FILE has no intrinsics.",
)
_SCENE_DEPTH = flags.DEFINE(
    Real(above=0),
    "scene_depth",
    None,
    "Metres that x stands for in steps, at which face_* and lead_* look, and whose size a "
    "dolly_zoom keeps.",
)
_SCALE = flags.DEFINE(Real(above=0), "scale", 1.0, "Times which convert makes translations longer.")
_FROM_ORIGIN = flags.DEFINE_bool(
    "from_origin", False, "Whether convert moves the path so that its first camera is the identity."
)
_LENGTH = flags.DEFINE(
    Integer(least=0),
    "length",
    0,
    "Frames that check expects, 0 for any; of named paths, 0 for 81.",
)
_PICTURE = flags.DEFINE(
    PathName(),
    "picture",
    "trajectory.png",
    "Picture that show draws, with a page (.html) beside it.",
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace files that are there already.")
_PICTURES = flags.DEFINE(
    PathName(), "pictures", "", "Folder of the frames' pictures, for check; needs --depths."
)
_DEPTHS = flags.DEFINE(
    PathName(),
    "depths",
    "",
    "Folder of their depth: 16-bit PNG in millimetres, or .npy or .npz in metres.",
)
_GAP = flags.DEFINE(
    Integer(least=0), "gap", 0, "Frames between pictures that check compares; 0: a quarter of them."
)

_VERBS = {"show": 1, "convert": 2, "check": 1}
"""What can be done, and how many files it takes."""


def _record(source: str) -> CameraRecord:
    """The cameras that FILE and flags give."""
    size = _size()
    if trajectories.is_named(source):
        record = CameraRecord(_named(source), metric=True, notes=(f"trajectory: {source}",))
    else:
        record = camera_files.read(
            source,
            _FORMAT.value,
            direction=_DIRECTION.value,
            axes=_AXES.value,
            units=_UNITS.value,
            size=size,
            camera=_CAMERA.value,
        )
    if record.size is None and size is not None:
        record = record.replace(size=size)
    record = _with_lens(record)
    if record.intrinsics is None:
        return record
    zoom = trajectories.zoom_of(source, len(record), scene_depth=_SCENE_DEPTH.value)
    if zoom is None:
        return record
    factors = np.stack([zoom, zoom, np.ones(len(zoom)), np.ones(len(zoom))], axis=-1)
    return record.replace(intrinsics=record.intrinsics * factors)


def _with_lens(record: CameraRecord) -> CameraRecord:
    fov = _FOV.value
    if not _INTRINSICS.value and fov is None:
        return record
    if record.size is None:
        raise common.UserError("--intrinsics and --field_of_view need --size=HEIGHT,WIDTH")
    if fov is None:
        lens = np.array(_numbers("intrinsics", _INTRINSICS.value, 4, "FX,FY,CX,CY"))
    else:
        lens = field_of_view(fov, record.size).astype(np.float64)
    if record.intrinsics is not None:
        raise common.UserError("--intrinsics, --field_of_view: FILE has intrinsics, expected none")
    return record.replace(intrinsics=np.tile(lens, (len(record), 1)))


def _named(source: str) -> np.ndarray:
    frames = _LENGTH.value or 81
    if trajectories.is_keys(source):
        return trajectories.keys(source, _LENGTH.value)
    if trajectories.is_composed(source):
        return trajectories.steps(source, frames, scene_depth=_SCENE_DEPTH.value)
    return trajectories.make(source, frames, depth=_SCENE_DEPTH.value)


def _size() -> tuple[int, int] | None:
    if not _SIZE.value:
        return None
    height, width = _numbers("size", _SIZE.value, 2, "HEIGHT,WIDTH in pixels")
    if min(height, width) < 1 or height % 1 or width % 1:
        raise common.UserError(f"--size: found {','.join(_SIZE.value)}, expected whole pixels")
    return int(height), int(width)


def _numbers(flag: str, words: list[str], count: int, expected: str) -> list[float]:
    try:
        values = [float(word) for word in words]
    except ValueError:
        values = []
    if len(values) != count:
        raise common.UserError(f"--{flag}: found {','.join(words)!r}, expected {expected}")
    return values


def _check_new(where: str, path: Path) -> None:
    """Raises ValueError if something is there that was not allowed to be replaced."""
    outputs.check_parents(where, path)
    full = path.is_file() or (path.is_dir() and any(path.iterdir()))
    if full and not _OVERWRITE.value:
        raise common.UserError(f"{where}: is there already; expected a new name, or --overwrite")


def show(source: str, console: Console) -> int:
    """Draws the path."""
    from mirage_jax.cli.helpers.camera_plot import draw_png, write_page

    png = Path(_PICTURE.value)
    if png.suffix.lower() != ".png":
        raise common.UserError(f"--picture: found {png.suffix!r}, expected .png")
    page = png.with_suffix(".html")
    for path in (png, page):
        _check_new(f"--picture {path}", path)
    record = _record(source)
    png.parent.mkdir(parents=True, exist_ok=True)
    draw_png(png, record, Path(source).name)
    write_page(page, record, Path(source).name)
    _say(record, console)
    console.print(f"{png} and {page}", soft_wrap=True)
    return 0


def convert(source: str, to: str, console: Console) -> int:
    """Writes the path in another format."""
    out = Path(to)
    _check_new(to, out)
    if outputs.same_file(Path(source), out):
        raise common.UserError(f"{to}: that is what is read, expected another name")
    name = _TO_FORMAT.value or camera_files.format_of_name(out)
    kind = camera_files.FORMATS[name]
    if kind.beside:
        _check_new(str(out.with_name(kind.beside)), out.with_name(kind.beside))
    record = _record(source)
    poses = record.cam2world.copy()
    if _FROM_ORIGIN.value:
        poses = np.linalg.inv(poses[0]) @ poses
        poses[0] = np.eye(4)
    poses[:, :3, 3] *= _SCALE.value
    out.parent.mkdir(parents=True, exist_ok=True)
    lost = camera_files.write(out, record.replace(cam2world=poses), name)
    _say(record, console)
    words = "c2w, opencv" if name == "matrices" else f"{kind.direction}, {kind.axes}"
    console.print(f"{out}: {name}: {kind.layout}; {words}", soft_wrap=True, markup=False)
    if lost:
        console.print(f"not in {name}, left out: {', '.join(lost)}", soft_wrap=True, markup=False)
    return 0


def check(source: str, console: Console) -> int:
    """Says what is odd about the path; 1 if something is."""
    if bool(_PICTURES.value) != bool(_DEPTHS.value):
        raise common.UserError("give --pictures and --depths together")
    undecided = _PICTURES.value and not trajectories.is_named(source)
    record = _convention_by_pictures(source, console) if undecided else _record(source)
    _say(record, console)
    wrong = 0
    for finding in check_record(record, _LENGTH.value or None):
        mark = {True: "ok", False: "WRONG", None: "-"}[finding.good]
        wrong += finding.good is False
        console.print(f"{mark:>5}  {finding.name}: {finding.said}", soft_wrap=True, markup=False)
    return int(wrong > 0)


def _convention_by_pictures(source: str, console: Console) -> CameraRecord:
    """The cameras under the convention that fits the pictures; ValueError where none does."""
    from mirage_jax.cli.helpers import convention_check as by

    read = functools.partial(
        camera_files.read,
        source,
        _FORMAT.value,
        units=_UNITS.value,
        size=_size(),
        camera=_CAMERA.value,
    )
    raw = _with_lens(_sized(read(direction="c2w", axes="opencv")))
    files = [
        by.files_of_frames(Path(folder), raw, kind)
        for folder, kind in ((_PICTURES.value, "pictures"), (_DEPTHS.value, "depths"))
    ]
    fits = by.compare(raw, files[0], files[1], _GAP.value)
    for fit in fits:
        console.print(
            f"warped as {fit.direction}, {fit.axes}: {fit.psnr:.1f} dB on {fit.coverage:.0%}",
            soft_wrap=True,
        )
    best = by.verdict(fits)
    if best is None:
        raise common.UserError(
            f"{source}: no convention fits the pictures {by.MARGIN:g} dB better than the next; the "
            "camera may hardly move (try --gap), or depth or intrinsics may be wrong"
        )
    for flag, value in ((_DIRECTION, best.direction), (_AXES, best.axes)):
        if flag.value is not None and flag.value != value:
            raise common.UserError(
                f"--{flag.name}: found {flag.value}, expected {value}, which fits the pictures"
            )
    console.print(f"the pictures fit {best.direction}, {best.axes}", soft_wrap=True)
    return _with_lens(_sized(read(direction=best.direction, axes=best.axes)))


def _sized(record: CameraRecord) -> CameraRecord:
    return record if record.size is not None else record.replace(size=_size())


def _say(record: CameraRecord, console: Console) -> None:
    for note in record.notes:
        console.print(note, soft_wrap=True, markup=False, highlight=False)


def _split(words: list[str]) -> tuple[str, list[str], list[str]]:
    """(what to do, its files, flags) of a command line."""
    names, options = common.names_and_options(words)
    if any(word in ("--help", "-h", "-help", "--helpfull") for word in options):
        return "", [], options
    verb = names[0] if names else ""
    if verb not in _VERBS:
        found = f"found {verb!r}" if verb else "found nothing to do"
        raise common.UserError(f"{found}, expected {', '.join(_VERBS)}; try --help")
    files = [os.path.expanduser(name) for name in names[1:]]
    if len(files) != _VERBS[verb]:
        expected = "FILE and the name of what to write" if verb == "convert" else "one FILE"
        raise common.UserError(
            f"{verb}: found {len(files)} names, expected {expected}; options look like --name=value"
        )
    return verb, files, options


def cli() -> None:
    try:
        verb, files, options = _split(sys.argv[1:])
    except common.UserError as error:
        common.fail(str(error))
    main = functools.partial(_main, verb, files)
    common.run(main, __name__, [sys.argv[0], *options], config=False)


def _main(verb: str, files: list[str]) -> int:
    verbs: dict[str, Callable[..., int]] = {"show": show, "convert": convert, "check": check}
    return verbs[verb](*files, console=Console())


if __name__ == "__main__":
    cli()
