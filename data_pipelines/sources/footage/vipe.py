"""ViPE's results, as folders by kind or a folder for each clip; also the samples of Mirage.

    rgb/NAME.mp4 pose/NAME.npz intrinsics/NAME.npz depth/NAME.zip mask/NAME.zip
or
    NAME/clip.mp4 NAME/pose.npz NAME/intrinsics.npz NAME/depth.zip NAME/mask.zip
    NAME/dynamic_masks.npy        # bool [F, H, W], in place of mask.zip where it is there
    NAME/clip.txt, NAME/train_target_rgb.txt   # captions

Camera to world, OpenCV axes, pixels; depth is channel Z of one EXR a frame, in metres, unknown
where it is not finite; masks are one PNG a frame, above 0 where something moves. Depth and masks
may lack.
A folder with a `.skip` file, which marks a sample that failed, is refused and counted.
"""

from pathlib import Path

import numpy as np

from data_pipelines.sources.footage import maps
from data_pipelines.sources.footage.cameras import make_scene, read_cameras
from data_pipelines.sources.footage.files import below, licence, walk, within
from data_pipelines.sources.footage.scene import ReadOptions, Scene
from data_pipelines.sources.footage.video import on_frames, video_reader
from mirage_jax.io.video_frames import VideoFrames

LAYOUT = "rgb/, pose/ and intrinsics/ of ViPE, or folders with clip.mp4 and pose.npz"

_CLIP = "clip.mp4"


def scenes(root: Path) -> tuple[str, ...]:
    """Clips by their place below `root`."""
    if not root.is_dir():
        return ()
    found = []
    for folder in walk(root):
        if (folder / _CLIP).is_file() and (folder / "pose.npz").is_file():
            found.append(below(root, folder))
        if folder.name == "rgb" and (folder.parent / "pose").is_dir():
            found += [below(root, video) for video in sorted(folder.glob("*.mp4"))]
    return tuple(found)


def open_scene(root: Path, name: str, options: ReadOptions) -> Scene:
    """One clip; ValueError naming the file for what is missing or cannot be read."""
    place = within(root, name)
    if place.is_dir():
        video = place / _CLIP
        files = {k: place / f"{k}{s}" for k, s in _KINDS.items()}
        if (place / ".skip").is_file():
            raise ValueError(f"{place}: found .skip, the mark of a sample that failed")
    else:
        video = place
        files = {k: place.parent.parent / k / f"{place.stem}{s}" for k, s in _KINDS.items()}
    frames = VideoFrames(video)
    path = files["pose"]
    record, _ = on_frames(read_cameras(path, options, frames.size, "vipe"), frames, path)
    count = len(frames)
    depth = movers = None
    if files["depth"].is_file():
        depth = maps.archive(files["depth"], count, maps.exr_depth, ".exr")
    dynamic = video.with_name("dynamic_masks.npy")
    if dynamic.is_file() and place.is_dir():
        movers = maps.mask_array(dynamic, count)
    elif files["mask"].is_file():
        movers = maps.archive(files["mask"], count, maps.png_mask, ".png")
    beside = video.parent if place.is_dir() else None
    return make_scene(
        name,
        record,
        path,
        video_reader(frames, np.arange(count)),
        frames.times,
        options,
        depth=depth,
        movers=movers,
        caption=maps.caption(*(beside / text for text in _TEXTS)) if beside else None,
        licence=licence(None, *([beside] if beside else []), root),
    )


_KINDS = {"pose": ".npz", "intrinsics": ".npz", "depth": ".zip", "mask": ".zip"}
_TEXTS = ("clip.txt", "train_target_rgb.txt")
