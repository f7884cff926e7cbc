"""SpatialVID: videos and annotations in groups.

    videos/group_0001/ID.mp4
    annotations/group_0001/ID/poses.npy intrinsics.npy caption.json dyn_masks.npz

World to camera as translation and quaternion, OpenCV axes, intrinsics as fractions; the scale is
arbitrary. There is a pose for every int(0.2 fps)-th frame of the video, and only these are in a
scene. Masks are sparse rows of the annotated frames and are enlarged to the video. Licence:
CC-BY-NC-SA-4.0.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from data_pipelines.sources.footage.cameras import make_scene, read_cameras
from data_pipelines.sources.footage.cutting import native_fps
from data_pipelines.sources.footage.files import below, walk
from data_pipelines.sources.footage.scene import Read, ReadOptions, Scene
from data_pipelines.sources.footage.video import video_reader
from mirage_jax.io.camera_files.parsing import as_size, read_arrays, read_json
from mirage_jax.io.depth_maps import resample
from mirage_jax.io.video_frames import VideoFrames

LAYOUT = "videos/ and annotations/ with poses.npy"
LICENCE = "CC-BY-NC-SA-4.0"

_INTERVAL = 0.2  # seconds
_ROWS = ("data", "indices", "indptr")
_LARGEST_MASK = 1 << 14  # along a side
_CAPTIONS = ("SceneSummary", "OptCamMotion", "CamMotion", "SceneDesc")


def scenes(root: Path) -> tuple[str, ...]:
    """Annotated clips by their place below annotations/."""
    annotations = root / "annotations"
    if not annotations.is_dir() or not (root / "videos").is_dir():
        return ()
    return tuple(
        below(annotations, folder)
        for folder in walk(annotations)
        if (folder / "poses.npy").is_file()
    )


def open_scene(root: Path, name: str, options: ReadOptions) -> Scene:
    """One clip; ValueError naming the file for what is missing or cannot be read."""
    folder = root / "annotations" / name
    frames = VideoFrames(root / "videos" / f"{name}.mp4")
    path = folder / "poses.npy"
    record = read_cameras(path, options, frames.size, "spatialvid")
    step = max(1, int(_INTERVAL * native_fps(frames.times)))
    if len(record) == len(frames):
        step = 1
    chosen = np.arange(0, len(frames), step)
    if len(chosen) != len(record):
        raise ValueError(
            f"{path}: found {len(record)} poses, expected {len(chosen)}, one for every "
            f"{step} of the {len(frames)} frames of {frames.path.name}"
        )
    masks = folder / "dyn_masks.npz"
    return make_scene(
        name,
        record,
        path,
        video_reader(frames, chosen),
        frames.times[chosen],
        movers=_masks(masks, len(chosen), frames.size) if masks.is_file() else None,
        caption=_caption(folder / "caption.json"),
        licence=LICENCE,
    )


def _masks(path: Path, count: int, size: tuple[int, int]) -> Read:
    arrays = read_arrays(path)
    found = sum(name.endswith("_indptr") for name in arrays)
    if found != count or "shape" not in arrays:
        raise ValueError(f"{path}: found masks of {found} frames, expected {count} and a shape")
    sides = arrays["shape"].reshape(-1).tolist()
    if len(sides) != 2:
        raise ValueError(f"{path}: shape: found {sides}, expected height and width")
    shape = as_size(path, sides[0], sides[1], "shape")
    if max(shape) > _LARGEST_MASK:
        raise ValueError(f"{path}: shape: found {shape}, expected at most {_LARGEST_MASK} pixels")
    names = [f"f_{frame}_{part}" for frame in range(count) for part in _ROWS]
    if missing := [name for name in names if name not in arrays]:
        raise ValueError(f"{path}: found no array {missing[0]}, expected {', '.join(_ROWS)} of all")

    def read(frames: Sequence[int]) -> Iterator[np.ndarray]:
        for frame in frames:
            parts = tuple(arrays[f"f_{frame}_{part}"] for part in _ROWS)
            try:
                rows = sparse.csr_matrix(parts, shape=shape)
                rows.check_format(full_check=True)  # indices beyond it would be written anywhere
                mask = rows.toarray()
            except (ValueError, TypeError) as error:
                raise ValueError(f"{path}: frame {frame}: {error}") from error
            yield resample((mask != 0).astype(np.int32), size)

    return read


def _caption(path: Path) -> str | None:
    if not path.is_file():
        return None
    content: Any = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: found {type(content).__name__}, expected an object of texts")
    texts = (content.get(name) for name in _CAPTIONS)
    found = next((text for text in texts if isinstance(text, str) and text.strip()), None)
    if found is None:
        found = next((t for t in content.values() if isinstance(t, str) and t.strip()), None)
    return None if found is None else found.strip()
