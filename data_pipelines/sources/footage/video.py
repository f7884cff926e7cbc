"""Videos with a camera file beside each.

    walk.mp4
    walk.txt (.json, .npz, .npy, .csv), or a folder walk/ of COLMAP, or, where the video is alone in
        its folder, cameras.*, poses.*, trajectory.txt, w2c.txt, transforms.json, pose.npz,
        camera.json or geometry.npz
    walk.depth/     # optional: a 16-bit PNG, EXR or .npy for each frame
    walk.masks/     # optional: a PNG for each frame, above 0 where something moves
    walk.caption.txt, walk.licence.txt   # optional; the licence of others is that of licence.txt

Conventions are those of the camera file's format (docs/data.md), recognised or told. Cameras with
times go with the frame nearest to them, at most half a frame away, and those that have none there
are left out and counted; cameras without times, or with the frames' numbers in their place, go one
by one. The camera file speaks of the video as it is shown: turned as its metadata says.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from data_pipelines.sources.footage import maps
from data_pipelines.sources.footage.cameras import (
    increasing,
    make_scene,
    pair,
    read_cameras,
    take,
)
from data_pipelines.sources.footage.cutting import native_fps
from data_pipelines.sources.footage.files import below, licence, walk
from data_pipelines.sources.footage.scene import Read, ReadOptions, Scene
from mirage_jax.io.camera_files import CameraRecord
from mirage_jax.io.camera_files.colmap import model_folder
from mirage_jax.io.video_frames import VideoFrames

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
LAYOUT = "videos with a camera file of the same name beside them"

_RATES = ("geometry", "record3d")  # formats that say a rate, of which times are made
_SCALES = (1.0, 1e6)  # numbers in place of seconds, and of microseconds
_CAMERA_SUFFIXES = (".txt", ".json", ".npz", ".npy", ".csv")
_CAMERA_NAMES = (
    *(f"{stem}{suffix}" for stem in ("cameras", "poses") for suffix in _CAMERA_SUFFIXES),
    *("trajectory.txt", "w2c.txt", "transforms.json", "pose.npz", "camera.json", "geometry.npz"),
)


def scenes(root: Path) -> tuple[str, ...]:
    """Videos that have a camera file, by their place below `root`; a video may be `root` itself."""
    if root.is_file():
        return (root.name,) if root.suffix.lower() in VIDEO_SUFFIXES else ()
    found = []
    for folder in walk(root):
        videos = _videos(folder)
        alone = len(videos) == 1
        found += [below(root, video) for video in videos if camera_file(video, alone) is not None]
    return tuple(found)


def _videos(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES)


def camera_file(video: Path, alone: bool) -> Path | None:
    """The camera file of a video, None without one; `alone` in its folder it may be any."""
    for suffix in _CAMERA_SUFFIXES:
        if video.with_suffix(suffix).is_file():
            return video.with_suffix(suffix)
    folder = video.with_suffix("")
    if folder.is_dir() and model_folder(folder) is not None:
        return folder
    if alone:
        named = [video.with_name(name) for name in _CAMERA_NAMES]
        return next((path for path in named if path.is_file()), None)
    return None


def open_scene(root: Path, name: str, options: ReadOptions) -> Scene:
    """One video; ValueError naming the file for what is missing or cannot be read."""
    video = root if root.is_file() else root / name
    # Listed only where it matters: a folder may hold thousands of videos.
    path = camera_file(video, alone=False)
    if path is None and len(_videos(video.parent)) == 1:
        path = camera_file(video, alone=True)
    if path is None:
        raise ValueError(
            f"{video}: found no camera file, expected {video.stem}.txt, .json, .npz, .npy or .csv "
            "beside it"
        )
    frames = VideoFrames(video)
    cameras = read_cameras(path, options, frames.size)
    record, chosen = on_frames(cameras, frames, path)
    beside = video.with_suffix("")
    return make_scene(
        name,
        record,
        path,
        video_reader(frames, chosen),
        frames.times[chosen],
        options,
        depth=_chosen(
            maps.depth_folder(Path(f"{beside}.depth"), len(frames), options.depth_metres), chosen
        ),
        movers=_chosen(maps.mask_folder(Path(f"{beside}.masks"), len(frames)), chosen),
        left_out=unpaired(cameras, frames, chosen),
        caption=maps.caption(Path(f"{beside}.caption.txt")),
        licence=maps.caption(Path(f"{beside}.licence.txt")) or licence(None, video.parent, root),
    )


def on_frames(
    record: CameraRecord, frames: VideoFrames, path: Path
) -> tuple[CameraRecord, Int[np.ndarray, " n"]]:
    """The cameras that a video has frames for, and the numbers of those frames.

    Raises:
      ValueError: naming the camera file and the camera, for cameras without times of another number
        than the frames, with times that do not increase, or of which the video has none.
    """
    times = record.timestamps
    times_are_made = record.format in _RATES and len(record) == len(frames)
    if times is None or times_are_made or _are_numbers(times, len(frames)):
        if len(record) != len(frames):
            raise ValueError(
                f"{path}: found {len(record)} cameras, expected {len(frames)}, one for each frame "
                f"of {frames.path.name}"
            )
        return record, np.arange(len(frames))
    times = increasing(times, str(path), "camera")
    half = 0.5 / native_fps(frames.times) + 1e-3
    # Clocks that begin elsewhere, as with times of the day, begin with the first frame.
    times = times if times[0] <= frames.times[-1] else times - times[0]
    matches = pair(times, frames.times, half)
    cameras = np.flatnonzero(matches >= 0)
    if not len(cameras):
        raise ValueError(
            f"{path}: found times {times[0]:g} to {times[-1]:g} s, expected some of "
            f"{frames.path.name}, which has {frames.times[-1]:g} s"
        )
    return take(record, cameras), matches[cameras]


def _are_numbers(times: Float[np.ndarray, " n"], count: int) -> bool:
    """Whether times are the frames' numbers, as writers without times put them, of that many."""
    if len(times) != count or count < 2:
        return False
    firsts = (np.arange(count) + first for first in (0, 1))
    return any(np.abs(times * s - numbers).max() < 1e-6 for numbers in firsts for s in _SCALES)


def unpaired(
    record: CameraRecord, frames: VideoFrames, chosen: Int[np.ndarray, " n"]
) -> dict[str, int]:
    """How many frames and cameras `on_frames` left out, by reason."""
    return {
        "no camera at its time": len(frames) - len(chosen),
        "camera without a frame at its time": len(record) - len(chosen),
    }


def video_reader(frames: VideoFrames, numbers: Int[np.ndarray, " n"]) -> Read:
    """Reads the frames of a scene from a video, where the scene's are those `numbers`."""

    def read(wanted: Sequence[int]) -> Iterator[np.ndarray]:
        return frames.read([int(numbers[frame]) for frame in wanted])

    return read


def _chosen(read: Read | None, numbers: Int[np.ndarray, " n"]) -> Read | None:
    if read is None:
        return None
    return lambda wanted: read([int(numbers[frame]) for frame in wanted])
