"""SpatialVID: videos and annotations in groups.

    videos/group_0001/ID.mp4
    annotations/group_0001/ID/poses.npy intrinsics.npy caption.json dyn_masks.npz indexes.txt
    depths/group_0001/ID.zip   # optional: an EXR for each annotated frame, or depth.zip above

World to camera as translation and quaternion, OpenCV axes, intrinsics as fractions; the scale is
arbitrary. There is a pose for every int(0.2 fps)-th frame of the video, or for those that
indexes.txt lists, and only these are in a scene. Masks are sparse rows of the annotated frames;
channel Z of the EXR files is 1 / depth in the unit of the poses, unknown where it is not above 0.
Both are enlarged to the video and read frame by frame. Licence: CC-BY-NC-SA-4.0.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from scipy import sparse

from data_pipelines.sources.footage import maps
from data_pipelines.sources.footage.cameras import SAME_SHAPE, make_scene, read_cameras
from data_pipelines.sources.footage.cutting import native_fps
from data_pipelines.sources.footage.files import below, licence, numbered_rows, walk
from data_pipelines.sources.footage.scene import Read, ReadOptions, Scene
from data_pipelines.sources.footage.video import video_reader
from mirage_jax.io.camera_files.parsing import as_size, read_json
from mirage_jax.io.depth_maps import resample
from mirage_jax.io.numpy_files import ArrayFile
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
    chosen = _annotated(folder, frames, len(record))
    masks = folder / "dyn_masks.npz"
    places = (root / "depths" / f"{name}.zip", folder / "depth.zip")
    depth = next((place for place in places if place.is_file()), None)
    return make_scene(
        name,
        record,
        path,
        video_reader(frames, chosen),
        frames.times[chosen],
        options,
        depth=None if depth is None else _depth(depth, len(chosen), frames.size),
        movers=_masks(masks, len(chosen), frames.size) if masks.is_file() else None,
        caption=_caption(folder / "caption.json"),
        licence=licence(LICENCE, folder, root),
    )


def _annotated(folder: Path, frames: VideoFrames, count: int) -> Int[np.ndarray, " n"]:
    """Which frames of the video have a pose."""
    path = folder / "indexes.txt"
    if path.is_file():
        rows = numbered_rows(path, 2)
        last = -1
        for line, (_, frame) in rows:
            if not (last < frame < len(frames) and frame == int(frame)):
                after = f" after {last}" if last >= 0 else ""
                raise ValueError(
                    f"{path}: line {line}: found frame {frame:g}{after}, expected increasing "
                    f"numbers below {len(frames)}"
                )
            last = int(frame)
        if len(rows) != count:
            raise ValueError(
                f"{path}: found {len(rows)} frames, expected {count}, one for each pose"
            )
        return np.array([frame for _, (_, frame) in rows], int)
    step = max(1, int(_INTERVAL * native_fps(frames.times)))
    chosen = np.arange(0, len(frames), 1 if count == len(frames) else step)
    if len(chosen) != count:
        raise ValueError(
            f"{folder / 'poses.npy'}: found {count} poses, expected {len(chosen)}, one for every "
            f"{step} of the {len(frames)} frames of {frames.path.name}"
        )
    return chosen


def _depth(path: Path, count: int, size: tuple[int, int]) -> Read:
    maps_of = maps.archive(path, count, maps.exr_inverse_depth, ".exr")

    def read(frames: Sequence[int]) -> Iterator[np.ndarray]:
        for frame, depth in zip(frames, maps_of(frames), strict=True):
            ratio = (depth.shape[1] / depth.shape[0]) / (size[1] / size[0])
            if abs(ratio - 1) > SAME_SHAPE:
                raise ValueError(
                    f"{path}: frame {frame}: found {depth.shape[1]}x{depth.shape[0]} pixels, "
                    f"expected the shape of the video, {size[1]}x{size[0]}"
                )
            yield resample(depth, size)

    return read


def _masks(path: Path, count: int, size: tuple[int, int]) -> Read:
    with ArrayFile(path) as arrays:
        names = set(arrays.names)
        found = sum(name.endswith("_indptr") for name in names)
        if found != count or "shape" not in names:
            raise ValueError(f"{path}: found masks of {found} frames, expected {count} and a shape")
        sides = arrays.read("shape").reshape(-1).tolist()
    if len(sides) != 2:
        raise ValueError(f"{path}: shape: found {sides}, expected height and width")
    shape = as_size(path, sides[0], sides[1], "shape")
    if max(shape) > _LARGEST_MASK:
        raise ValueError(f"{path}: shape: found {shape}, expected at most {_LARGEST_MASK} pixels")
    wanted = [f"f_{frame}_{part}" for frame in range(count) for part in _ROWS]
    if missing := [name for name in wanted if name not in names]:
        raise ValueError(f"{path}: found no array {missing[0]}, expected {', '.join(_ROWS)} of all")

    def read(frames: Sequence[int]) -> Iterator[np.ndarray]:
        with ArrayFile(path) as arrays:
            for frame in frames:
                parts = tuple(arrays.read(f"f_{frame}_{part}") for part in _ROWS)
                try:
                    rows = sparse.csr_matrix(parts, shape=shape)
                    rows.check_format(full_check=True)  # indices beyond it are written anywhere
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
