"""Folders of other models' videos, to be put into the same table; and what they are given.

cases/                       what `write_case` writes for each clip
  labmaze-style_01-1000-.../
    frame_000.png ...        the given frames, lossless
    clip.json                poses, intrinsics, size, times of all frames
videos/                      what is scored
  labmaze-style_01-1000-....mp4     the frames after the given ones, or all of them
  labmaze-style_01-1000-....json    optional: {"cam2world": ...}, where they were generated
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from data_pipelines.clip import Clip
from data_pipelines.due_again import history_frames
from mirage_jax.io.atomic import replacing
from mirage_jax.io.json_files import write_json
from mirage_jax.io.strict_json import read_object
from mirage_jax.io.video import read_video
from mirage_jax.pose_checks import check_cam2world

Video = UInt8[np.ndarray, "frames height width 3"]

TOLERANCE = 0.02
"""Largest difference of an entry of a pose (metres, cosines) between a video's and the clip's."""


def file_name(clip: Clip) -> str:
    """The clip's name as that of a file."""
    return clip.name.replace("/", "-")


def write_case(folder: str | os.PathLike[str], clip: Clip) -> Path:
    """Writes what a model is given of a clip; returns where.

    Frames as PNG, and clip.json: `cam2world` (OpenCV axes, metres), `intrinsics` (fx, fy, cx, cy)
    and `times` (seconds) of every frame, `size` ([height, width]), `given` (frames that are there)
    and `fps`.
    """
    path = Path(folder) / file_name(clip)
    path.mkdir(parents=True, exist_ok=True)
    given = history_frames(clip)
    for frame in range(given):
        with replacing(path / f"frame_{frame:03d}.png") as partial:
            Image.fromarray(clip.video[frame]).save(partial, format="PNG")
    told: dict[str, Any] = {
        "cam2world": clip.cam2world.tolist(),
        "intrinsics": clip.intrinsics.astype(float).tolist(),
        "times": clip.timestamps.tolist(),
        "size": list(clip.size),
        "given": given,
        "fps": float(clip.fps),
    }
    write_json(path / "clip.json", told)
    return path


def video_file(folder: str | os.PathLike[str], clip: Clip) -> Path:
    """The video of a clip in a folder of them; ValueError, naming it, if there is none."""
    path = Path(folder) / f"{file_name(clip)}.mp4"
    if not path.is_file():
        raise ValueError(f"{path}: found no file, expected the video of clip {clip.name!r}")
    return path


def read_video_of(folder: str | os.PathLike[str], clip: Clip) -> Video:
    """The generated frames of a clip from a folder of videos.

    Args:
      folder: with <name>.mp4, and <name>.json where the poses were others'.
      clip: its name, size and number of frames.

    Returns:
      The frames after those given. Videos a whole number of times as large are averaged down.

    Raises:
      ValueError: naming the file: missing, of another size or length, or generated along another
        path.
    """
    path = video_file(folder, clip)
    frames, given = read_video(path)[0], history_frames(clip)
    if len(frames) not in (clip.frames, clip.frames - given):
        raise ValueError(
            f"{path}: found {len(frames)} frames, expected {clip.frames - given}, or all "
            f"{clip.frames}"
        )
    _check_poses(path.with_suffix(".json"), clip)
    return _shrink(frames[given - clip.frames :], clip.size, path)


def _check_poses(path: Path, clip: Clip) -> None:
    if not path.exists():
        return
    poses = check_cam2world(read_object(path).get("cam2world"), f"{path}: cam2world")
    known = [clip.cam2world, clip.cam2world[history_frames(clip) :]]
    fitting = [true for true in known if true.shape == poses.shape]
    gap = min((float(np.abs(true - poses).max()) for true in fitting), default=np.inf)
    if gap > TOLERANCE:
        found = f"poses {gap:.3g} away" if fitting else f"poses of shape {poses.shape}"
        raise ValueError(
            f"{path}: cam2world: found {found}, expected those of clip {clip.name!r}, within "
            f"{TOLERANCE}"
        )


def _shrink(frames: Video, size: tuple[int, int], path: Path) -> UInt8[np.ndarray, "frames h w 3"]:
    (height, width), (rows, columns) = size, frames.shape[1:3]
    factor = rows // height
    if factor < 1 or (rows, columns) != (factor * height, factor * width):
        raise ValueError(
            f"{path}: found frames of {rows}x{columns}, expected {height}x{width}, or a whole "
            "number of times that"
        )
    cells = frames.reshape(len(frames), height, factor, width, factor, 3)
    return cells.mean((2, 4)).round().astype(np.uint8)
