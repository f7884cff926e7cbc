"""TUM RGB-D: colour, depth and a trajectory with clocks of their own.

    rgb.txt, depth.txt   # lines of `seconds file`
    groundtruth.txt      # lines of `seconds tx ty tz qx qy qz qw`, camera to world, OpenCV axes, m
    rgb/ depth/          # PNG; depth in 16 bits, 5000 to the metre, 0 unknown

Every colour frame gets the depth nearest in time, at most 20 ms away, and the pose between the two
of the trajectory around it. Frames that lack either are left out and counted. The lens is that of
the data set's calibration for freiburg1, 2 or 3 in the folder's name, undistorted, else the
default of 525, 525, 319.5, 239.5, or `lens`; the calibration counts from pixel centres at 0, so
half a pixel is added. Licence of the data set's own sequences, which have freiburg in their names:
CC-BY-4.0; of others none is known.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from data_pipelines.sources.footage.cameras import (
    increasing,
    make_scene,
    pair,
    poses_at,
    with_lens,
)
from data_pipelines.sources.footage.cutting import native_fps
from data_pipelines.sources.footage.files import below, licence, read_text, walk, within
from data_pipelines.sources.footage.picture_files import PictureFiles, read_depth_png
from data_pipelines.sources.footage.scene import ReadOptions, Scene
from mirage_jax.io import camera_files

LAYOUT = "folders with rgb.txt, groundtruth.txt and, for depth, depth.txt"
LICENCE = "CC-BY-4.0"

_PUBLISHED = "freiburg"
_METRES = 1 / 5000
_NEAR = 0.02  # seconds between a colour frame and its depth
_GAP = 3.5  # median steps between two poses, beyond which the time between is not known
_LENSES = {
    "freiburg1": ((517.3, 516.5, 318.6, 255.3), (0.2624, -0.9531, -0.0054, 0.0026, 1.1633)),
    "freiburg2": ((520.9, 521.0, 325.1, 249.7), (0.2312, -0.7849, -0.0033, -0.0001, 0.9172)),
    "freiburg3": ((535.4, 539.2, 320.1, 247.6), (0.0, 0.0, 0.0, 0.0, 0.0)),
}
_DEFAULT = (525.0, 525.0, 319.5, 239.5)


def scenes(root: Path) -> tuple[str, ...]:
    """Folders with rgb.txt and groundtruth.txt, by their place below `root`."""
    if not root.is_dir():
        return ()
    marks = ("rgb.txt", "groundtruth.txt")
    return tuple(
        below(root, folder)
        for folder in walk(root)
        if all((folder / mark).is_file() for mark in marks)
    )


def open_scene(root: Path, name: str, options: ReadOptions) -> Scene:
    """One sequence; ValueError naming the file for what is missing or cannot be read."""
    folder = within(root, name)
    truth = folder / "groundtruth.txt"
    record = camera_files.read(truth, "tum", axes=options.axes or None)
    increasing(np.asarray(record.timestamps), str(truth), "pose")
    times, files = _list(folder / "rgb.txt")
    poses, known = poses_at(record, times, _GAP / native_fps(np.asarray(record.timestamps)))
    left_out = {"no pose at its time": int((~known).sum())}
    depth_files: list[Path] | None = None
    matches = np.full(len(times), -1)
    if (folder / "depth.txt").is_file():
        depth_times, depth_files = _list(folder / "depth.txt")
        matches = pair(times, depth_times, _NEAR)
        left_out["no depth at its time"] = int((known & (matches < 0)).sum())
        known = known & (matches >= 0)
    chosen = np.flatnonzero(known)
    if not len(chosen):
        raise ValueError(f"{truth}: found no pose at the time of any picture, expected some")
    files, matches = [files[i] for i in chosen], matches[chosen]
    pictures = PictureFiles(files)

    def depth(frames: Sequence[int]) -> Iterator[np.ndarray]:
        assert depth_files is not None
        return (read_depth_png(depth_files[matches[frame]], _METRES) for frame in frames)

    lens, coefficients = _lens(folder.name)
    record = record.replace(
        cam2world=poses[chosen],
        timestamps=None,
        intrinsics=np.tile(lens, (len(chosen), 1)),
        size=pictures.size,
        lens="OPENCV",
        distortion=(coefficients,) * len(chosen),
    )
    return make_scene(
        name,
        with_lens(record, options, pictures.size, truth),
        truth,
        pictures,
        times[chosen] - times[chosen[0]],
        options,
        depth=None if depth_files is None else depth,
        left_out=left_out,
        licence=licence(LICENCE if _PUBLISHED in folder.name else None, folder, root),
    )


def _lens(name: str) -> tuple[np.ndarray, dict[str, float]]:
    kinds = [kind for word, kind in _LENSES.items() if word in name] or [(_DEFAULT, (0.0,) * 5)]
    lens, coefficients = kinds[0]
    names = ("k1", "k2", "p1", "p2", "k3")
    return np.add(lens, (0, 0, 0.5, 0.5)), dict(zip(names, coefficients, strict=True))


def _list(path: Path) -> tuple[np.ndarray, list[Path]]:
    times: list[float] = []
    files: list[Path] = []
    numbers: list[int] = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        words = line.split(maxsplit=1)
        if not words or words[0].startswith("#"):
            continue
        try:
            times.append(float(words[0]))
            files.append(path.parent / words[1].strip())
            numbers.append(number)
        except (ValueError, IndexError) as error:
            raise ValueError(
                f"{path}: line {number}: found {line[:40]!r}, expected seconds and a file"
            ) from error
    if not times:
        raise ValueError(f"{path}: found no lines, expected seconds and a file")
    order = np.argsort(times, kind="stable")
    sorted_times = np.array(times)[order]
    increasing(sorted_times, str(path), "line", [numbers[i] for i in order])
    return sorted_times, [files[i] for i in order]
