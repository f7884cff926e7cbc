"""Which convention a camera file has, decided by its pictures: only one makes frames fit.

Depth and a camera move frame A to where frame B saw it. With the wrong direction or axes it lands
elsewhere.
"""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from data_pipelines.clip import Clip
from data_pipelines.sources.warp_check import warp_frame
from mirage_jax.io.camera_files import DIRECTIONS, CameraRecord
from mirage_jax.io.camera_files.conventions import from_convention
from mirage_jax.io.camera_files.parsing import natural_key
from mirage_jax.io.depth_maps import SUFFIXES, read_depth
from mirage_jax.io.image_files import read_rgb

AXES = ("opencv", "opengl")
MARGIN = 1.0
"""dB by which the best convention must lead the next to be decided for."""

_GREY_16 = ("I;16", "I")
_PAIRS = 8
_LEAST_COVERED = 0.05  # share of the picture, below which a comparison says nothing


@dataclasses.dataclass(frozen=True)
class Fit:
    """How well frames land on each other under one convention.

    Attributes:
      direction, axes: the convention.
      psnr: mean dB over pairs of frames, of what both see; -inf where nothing was seen by both.
      coverage: mean share of the picture seen by both.
    """

    direction: str
    axes: str
    psnr: float
    coverage: float


def compare(
    record: CameraRecord, pictures: list[Path], depths: list[Path], gap: int = 0
) -> list[Fit]:
    """Every convention that the poses may have, best first.

    Args:
      record: cameras as they were read.
      pictures, depths: files, one for each frame.
      gap: frames between the two of a pair; 0 for a quarter of the path.

    Raises:
      ValueError: naming the files, if they do not fit each other.
    """
    count = len(record)
    gap = gap or max(count // 4, 1)
    starts = np.unique(np.linspace(0, count - gap - 1, _PAIRS).round().astype(int))
    pairs = [(int(a), int(a) + gap) for a in starts if a + gap < count]
    if not pairs:
        raise ValueError(f"found {count} frames, expected at least {gap + 1} to compare two")
    used = sorted({t for pair in pairs for t in pair})
    depth = [read_depth(depths[t]) for t in used]
    size = depth[0].shape
    video = [
        np.asarray(Image.fromarray(read_rgb(pictures[t])).resize(size[::-1], Image.Resampling.BOX))
        for t in used
    ]
    for t, one in zip(used, depth, strict=True):
        if one.shape != size:
            raise ValueError(
                f"{depths[t]}: found {one.shape}, expected {size} as {depths[used[0]]}"
            )
    lens = record.pixel_intrinsics((size[0], size[1]))[used]
    fits = []
    for direction, axes in itertools.product(DIRECTIONS, AXES):
        # What was read as cam2world, OpenCV axes, taken for that convention instead.
        poses = from_convention(record.cam2world[used], direction, axes, 1.0)
        clip = Clip(
            video=np.stack(video),
            depth=np.stack(depth),
            intrinsics=lens.astype(np.float32),
            cam2world=poses,
            world="",
            source="",
            trajectory="",
            gamma=1.0,
            fps=1.0,
            name="",
        )
        warps = [warp_frame(clip, used.index(a), used.index(b)) for a, b in pairs]
        seen = [warp for warp in warps if warp.coverage > _LEAST_COVERED]
        psnr = float(np.mean([warp.psnr for warp in seen])) if seen else -np.inf
        fits.append(Fit(direction, axes, psnr, float(np.mean([w.coverage for w in warps]))))
    return sorted(fits, key=lambda fit: -fit.psnr)


def verdict(fits: list[Fit]) -> Fit | None:
    """The convention that fits clearly better than all others; None where none does."""
    best, second = fits[0], fits[1]
    clear = np.isfinite(best.psnr) and best.psnr > second.psnr + MARGIN
    # A sliver may fit by chance; the right convention also shows most of what can be seen.
    return best if clear and best.coverage > 0.5 * max(fit.coverage for fit in fits) else None


def files_of_frames(folder: Path, record: CameraRecord, kind: str) -> list[Path]:
    """The picture ("pictures") or depth map ("depths") of each frame in a folder.

    Files are those called as the frames are, or all of them in order where the cameras have no
    names. 16-bit grey pictures are depth maps.

    Raises:
      ValueError: naming the folder and the frame, if there is none, or another number of files.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"--{kind}: {folder}: no such folder")
    files = [path for path in sorted(folder.iterdir(), key=lambda p: natural_key(p.name))]
    files = [path for path in files if path.is_file() and _is_depth(path) == (kind == "depths")]
    if record.names is None:
        if len(files) != len(record):
            raise ValueError(
                f"--{kind}: {folder}: found {len(files)} files, expected {len(record)}, one for "
                "each frame"
            )
        return files
    by_stem = {path.name.split(".")[0]: path for path in files}
    found = []
    for i, name in enumerate(record.names):
        stem = Path(name).name.split(".")[0]
        if stem not in by_stem:
            raise ValueError(f"--{kind}: {folder}: found no file for frame {i}, {stem}")
        found.append(by_stem[stem])
    return found


def _is_depth(path: Path) -> bool | None:
    """Whether it is a depth map; None for what is neither that nor a picture."""
    if path.suffix.lower() in set(SUFFIXES) - {".png"}:
        return True
    try:
        with Image.open(path) as image:
            return image.mode in _GREY_16
    except (UnidentifiedImageError, OSError):
        return None
