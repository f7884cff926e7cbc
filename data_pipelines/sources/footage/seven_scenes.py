"""7-Scenes: hand-held RGB-D, a folder of frames for each take.

    SCENE/seq-01/frame-000000.color.png  .depth.png (16 bits, mm, 65535 unknown)  .pose.txt (c2w)

A `camera-intrinsics.txt` (3 x 3) beside the frames or above them is the depth camera's; without one
it is 585, 585, 320, 240, as of the published set. Cameras are OpenCV's, the world is in metres.

The depth camera of that sensor is another than the colour camera, and the files do not say where it
sits. Warping frames into each other fits best for a colour focal length of 522 and a depth camera
2.5 cm to the left; with `register` the depth is brought into the colour picture by that. A `lens`
that is given is the colour camera's. A file with other intrinsics is of another sensor: its depth
and pictures are taken to be of one camera.

Licence of the published scenes, by their names: non-commercial research (Microsoft); of others
none is known.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from data_pipelines.sources.footage.cameras import increasing, lens_provenance
from data_pipelines.sources.footage.files import below, licence, read_numbers, walk, within
from data_pipelines.sources.footage.picture_files import PictureFiles, read_depth_png
from data_pipelines.sources.footage.registration import register_depth
from data_pipelines.sources.footage.scene import ReadOptions, Scene
from mirage_jax.io.camera_files.parsing import as_intrinsics
from mirage_jax.pose_checks import check_cam2world

LAYOUT = "folders of frame-NNNNNN.color.png, .depth.png, .pose.txt"
LICENCE = "Microsoft 7-Scenes: non-commercial research"

_FPS = 30.0
_DEPTH_LENS = np.array([585.0, 585.0, 320.0, 240.0])
_COLOUR_FOCAL, _WIDTH = 522.0, 640
_DEPTH_IN_COLOUR = np.array([-0.025, 0.0, 0.0])  # metres
_SCENES = ("chess", "fire", "heads", "office", "pumpkin", "redkitchen", "stairs")
_TAKE = re.compile(r"seq-\d\d")
_POSE = re.compile(r"frame-(\d+)\.pose\.txt")


def scenes(root: Path) -> tuple[str, ...]:
    """Folders with frames, by their place below `root`."""
    if not root.is_dir():
        return ()
    return tuple(below(root, folder) for folder in walk(root) if _numbers(folder))


def _numbers(folder: Path) -> list[str]:
    found = (_POSE.fullmatch(path.name) for path in folder.glob("frame-*.pose.txt"))
    return sorted((match[1] for match in found if match), key=int)


def open_scene(root: Path, name: str, options: ReadOptions) -> Scene:
    """One take; ValueError naming the file for what is missing or cannot be read."""
    folder = within(root, name)
    numbers = _numbers(folder)
    poses = np.array([_pose(folder / f"frame-{n}.pose.txt") for n in numbers])
    times = increasing(np.array([int(n) for n in numbers]) / _FPS, str(folder), "frame", numbers)
    usable = np.isfinite(poses).all((1, 2))  # tracking is lost now and then
    depth_lens = _depth_lens(folder, root)
    register = options.register and np.allclose(depth_lens, _DEPTH_LENS, atol=0.5)
    pictures = PictureFiles([folder / f"frame-{n}.color.png" for n in numbers], names=numbers)
    focal = _COLOUR_FOCAL * pictures.size[1] / _WIDTH
    lens = np.array(options.lens or [focal, focal, *depth_lens[2:]], np.float64)

    def depth(frames: Sequence[int]) -> Iterator[np.ndarray]:
        for frame in frames:
            path = folder / f"frame-{numbers[frame]}.depth.png"
            measured = read_depth_png(path, 0.001, unknown=65535)
            if measured.shape != pictures.size:
                raise ValueError(
                    f"{path}: frame {numbers[frame]}: found {measured.shape}, expected "
                    f"{pictures.size}"
                )
            if register:
                measured = register_depth(measured, depth_lens, lens, _DEPTH_IN_COLOUR)
            yield measured

    return Scene(
        name=name,
        file=f"{folder}/frame-NNNNNN.pose.txt",
        times=times,
        cam2world=poses,
        intrinsics=np.tile(lens if register or options.lens else depth_lens, (len(numbers), 1)),
        size=pictures.size,
        pictures=pictures,
        depth=depth,
        usable=usable,
        left_out={"pose not finite": int((~usable).sum())},
        licence=licence(LICENCE if _is_published(folder) else None, folder, folder.parent, root),
        provenance={"depth_registered": register, **lens_provenance(options)},
    )


def _is_published(folder: Path) -> bool:
    whole = folder.resolve()
    return whole.parent.name in _SCENES and _TAKE.fullmatch(whole.name) is not None


def _pose(path: Path) -> np.ndarray:
    """Camera to world; not finite where tracking was lost."""
    rows = read_numbers(path, 4)
    if len(rows) != 4:
        raise ValueError(f"{path}: found {len(rows)} rows, expected 4 of a 4 x 4 pose")
    pose = np.array(rows)
    return check_cam2world(pose, f"{path}: pose") if np.isfinite(pose).all() else pose


def _depth_lens(folder: Path, root: Path) -> np.ndarray:
    for place in (folder, folder.parent if folder != root else folder):
        path = place / "camera-intrinsics.txt"
        if path.is_file():
            rows = read_numbers(path, 3)
            if len(rows) != 3:
                raise ValueError(f"{path}: found {len(rows)} rows, expected 3 of a 3 x 3 matrix")
            return as_intrinsics(path, np.array(rows), 1, "matrix")[0]
    return _DEPTH_LENS
