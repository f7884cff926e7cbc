"""RealEstate10K: a camera file for each shot of a video.

    train/ID.txt   # address; then `microseconds fx fy cx cy 0 0` and a 3x4 matrix a line
    train/ID.mp4, the shot alone, beginning with its first line, or
    videos/NAME.mp4, the whole video, with the NAME of the address (what stands after v=), or
    train/ID/, frames/train/ID/ or frames/ID/ with a picture MICROSECONDS.jpg (.png) for each line

World to camera, OpenCV axes, intrinsics as fractions of width and height; the scale of the world is
arbitrary. A frame of a video goes with the line nearest in time, at most half a frame away. A shot
without its pictures is refused and counted.
"""

from pathlib import Path
from urllib.parse import parse_qs, urlparse

import numpy as np

from data_pipelines.sources.footage.cameras import make_scene, pair, take, with_lens
from data_pipelines.sources.footage.cutting import native_fps
from data_pipelines.sources.footage.files import below, licence, read_text, walk
from data_pipelines.sources.footage.picture_files import SUFFIXES, PictureFiles
from data_pipelines.sources.footage.scene import ReadOptions, Scene
from data_pipelines.sources.footage.video import VIDEO_SUFFIXES, video_reader
from mirage_jax.io import camera_files
from mirage_jax.io.video_frames import VideoFrames

LAYOUT = "ID.txt camera files with an address in their first line"

_MICROSECONDS = 1e-6


def scenes(root: Path) -> tuple[str, ...]:
    """Camera files by their place below `root`, without .txt."""
    if root.is_file():
        return (root.name.removesuffix(".txt"),) if _is_shot(root) else ()
    return tuple(
        below(root, path).removesuffix(".txt")
        for folder in walk(root)
        for path in sorted(folder.glob("*.txt"))
        if _is_shot(path)
    )


def _is_shot(path: Path) -> bool:
    if path.suffix != ".txt" or path.name == "licence.txt" or not path.is_file():
        return False
    with open(path, "rb") as file:
        return b"://" in file.readline(400)


def open_scene(root: Path, name: str, options: ReadOptions) -> Scene:
    """One shot; ValueError naming the file for what is missing or cannot be read."""
    root = root.parent if root.is_file() else root
    path = root / f"{name}.txt"
    address = read_text(path).splitlines()[0].strip()
    cameras = camera_files.read(path, "re10k")
    stamps = np.rint(np.asarray(cameras.timestamps) / _MICROSECONDS).astype(np.int64)
    provenance = {"url": address}
    told = licence(None, path.parent, root)
    folder = _first(path.with_suffix(""), root / "frames" / name, root / "frames" / path.stem)
    if folder is not None:
        named = {int(p.stem): p for p in folder.iterdir() if _is_picture(p)}
        missing = [stamp for stamp in stamps.tolist() if stamp not in named]
        if missing and (options.missing == "refuse" or len(missing) == len(stamps)):
            raise ValueError(
                f"{folder}: found no picture {missing[0]}, expected one for each of the "
                f"{len(stamps)} lines of {path.name} ({len(missing)} are missing)"
            )
        chosen = np.array([i for i, stamp in enumerate(stamps.tolist()) if stamp in named])
        pictures = PictureFiles([named[int(stamps[i])] for i in chosen], options.ground)
        record = take(with_lens(cameras, options, pictures.size, path), chosen)
        times = (stamps[chosen] - stamps[chosen[0]]) * _MICROSECONDS
        left_out = {"picture missing": len(missing)}
        return make_scene(
            name,
            record,
            path,
            pictures,
            times,
            options,
            left_out=left_out,
            licence=told,
            provenance=provenance,
        )
    video = _video(root, path, address)
    frames = VideoFrames(video)
    record = with_lens(cameras, options, frames.size, path)
    half = 0.5 / native_fps(frames.times) + 1e-3
    # A video of the shot's own name is the shot alone, any other the whole that it is of.
    begin = stamps[0] if video.stem == path.stem else 0
    times = (stamps - begin) * _MICROSECONDS
    matches = pair(times, frames.times, half)
    chosen = np.flatnonzero(matches >= 0)
    if not len(chosen):
        raise ValueError(
            f"{path}: found times {times[0]:g} to {times[-1]:g} s, expected some of "
            f"{video.name}, which has {frames.times[-1]:g} s"
        )
    return make_scene(
        name,
        take(record, chosen),
        path,
        video_reader(frames, matches[chosen]),
        frames.times[matches[chosen]],
        options,
        left_out={"no frame at its time": len(stamps) - len(chosen)},
        licence=told,
        provenance=provenance,
    )


def _first(*folders: Path) -> Path | None:
    return next((folder for folder in folders if folder.is_dir()), None)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.stem.isdigit()


def _video(root: Path, path: Path, address: str) -> Path:
    names = [path.with_suffix("")]
    for video in parse_qs(urlparse(address).query).get("v", []):
        if video.replace("-", "").replace("_", "").isalnum():  # it is to name a file, no path
            names += [root / "videos" / video, path.parent / video]
    for name in names:
        for suffix in VIDEO_SUFFIXES:
            if name.with_name(name.name + suffix).is_file():
                return name.with_name(name.name + suffix)
    expected = " or ".join(f"{name}{VIDEO_SUFFIXES[0]}" for name in names)
    raise ValueError(f"{path}: found no pictures, expected {expected}, or a folder {names[0]}/")
