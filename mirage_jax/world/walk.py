"""Where a rollout starts and which way it goes: from a picture, a saved world or a geometry.npz."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from mirage_jax import trajectories
from mirage_jax.chunks import TEMPORAL_STRIDE, chunks_of_path, latents_of_frames, whole_latents
from mirage_jax.io.camera_files import CameraRecord
from mirage_jax.io.depth_maps import resample
from mirage_jax.io.framing import Framing
from mirage_jax.io.geometry_npz import GeometryFile, resize
from mirage_jax.world import depth_estimators
from mirage_jax.world.model import WorldModel
from mirage_jax.world.path_file import NO_FILE, PathFile, of_record
from mirage_jax.world.rollout import DepthEstimator
from mirage_jax.world.state import World
from mirage_jax.world.world_file import CameraPath, WorldFile

GEOMETRY_FPS = 16.0
"""Of a geometry.npz that does not say, as of the videos that Wan was trained on."""


@dataclasses.dataclass(frozen=True)
class Walk:
    """What `rollout` needs beside the model.

    Attributes:
      world: where it starts.
      path: cam2world of every frame, the first being the frame the world is at (`World.pose`).
      intrinsics: of every frame; None for the world's.
      depth_estimator: of what is generated; None for the model's head.
      short_last: whether the last chunk may be shorter than the others.
      depth_source: where the depth of generated frames comes from, for people.
      file: what the world was read from, to be carried along; None for a new world.
      before: cameras of what a new world was written from, the last being where it is; None where
        that is one picture.
      fps: frames per second of what it goes on from or along; None where nothing says.
      path_file: what the file of the path says beside poses, the times of its frames above all.
    """

    world: World
    path: Float[np.ndarray, "f 4 4"]
    intrinsics: Float[np.ndarray, "f 4"] | None = None
    depth_estimator: DepthEstimator | None = None
    short_last: bool = False
    depth_source: str = "geometry head"
    file: WorldFile | None = None
    before: CameraPath | None = None
    fps: float | None = None
    path_file: PathFile = NO_FILE


def camera_path(
    trajectory: str,
    *,
    frames: int,
    chunk_frames: int,
    start: Float[np.ndarray, "4 4"],
    angle: float | int,
    distance: float | int,
    scene_depth: float | None = None,
) -> Float[np.ndarray, "f 4 4"]:
    """Poses of a named path, of steps or keys, or of a file, moved so that they begin at `start`.

    Args:
      trajectory: one of `trajectories.NAMES`, steps such as "forward:2m,turn_left:90,back", keys
        such as "w*10 a*5", or a camera file of any format.
      frames: of the path; 0: two chunks, all of a file, or as long as keys are held and then as
        many as fill the last chunk. Of a longer file the first are taken.
      chunk_frames: of the model.
      start: cam2world of the first frame.
      angle: degrees that a named path turns.
      distance: metres that a named path moves.
      scene_depth: metres that amounts with `x` are multiples of, and at which `face_*` paths look.

    Raises:
      ValueError: naming the file or --frames, if there is no such path or it makes no whole chunks.
    """
    if trajectories.is_keys(trajectory):
        held = len(trajectories.keys(trajectory)) - 1
        count = frames or max(-(-held // (chunk_frames - 1)), 1) * (chunk_frames - 1) + 1
        chunks_of_path(count, chunk_frames, f"--frames of {trajectory}")
        return start @ trajectories.keys(trajectory, count)
    if trajectories.is_named(trajectory):
        count = frames or 2 * (chunk_frames - 1) + 1
        chunks_of_path(count, chunk_frames, f"--frames of {trajectory}")
        if trajectories.is_composed(trajectory):
            return start @ trajectories.steps(
                trajectory, count, angle=angle, distance=distance, scene_depth=scene_depth
            )
        return trajectories.make(
            trajectory, count, angle=angle, distance=distance, start=start, depth=scene_depth
        )
    poses = trajectories.load(trajectory)
    if frames:
        if len(poses) < frames:
            raise ValueError(
                f"{trajectory}: found {len(poses)} poses, expected {frames} (--frames)"
            )
        poses = poses[:frames]
    chunks_of_path(len(poses), chunk_frames, trajectory)
    return start @ np.linalg.inv(poses[0]) @ poses


def with_path_file(
    walk: Walk,
    trajectory: str,
    size: tuple[int, int],
    *,
    fps: float | None = None,
    zoom: Float[np.ndarray, " f"] | None = None,
) -> Walk:
    """The walk with the zoom of its path, and the times of the camera file that it is of.

    What the lens of the file does is done to the world's: its focal lengths change in the same
    ratio from frame to frame, its principal point by the same share of the picture.

    Args:
      walk: along the path of `camera_path`.
      trajectory: as given to it; names, steps and keys have no times.
      size: (H, W) of the pictures.
      fps: frames per second that are asked for in place of the file's times.
      zoom: of names and steps, `trajectories.zoom_of`.
    """
    if trajectories.is_keys(trajectory) or trajectories.is_named(trajectory):
        if zoom is None:
            return walk
        own = np.array(walk.world.intrinsics, np.float64) * np.ones((len(zoom), 1))
        own[:, :2] *= zoom[:, None]
        return dataclasses.replace(walk, intrinsics=own.astype(np.float32))
    record, count = trajectories.load_cameras(trajectory), len(walk.path)
    lens = _zoomed(walk, record, size)
    found = of_record(trajectory, record, count, fps=fps, zooms=lens is not None)
    return dataclasses.replace(
        walk,
        intrinsics=walk.intrinsics if lens is None else lens,
        path_file=found,
        fps=walk.fps if found.fps is None else found.fps,
    )


def _zoomed(
    walk: Walk, record: CameraRecord, size: tuple[int, int]
) -> Float[np.ndarray, "f 4"] | None:
    """Intrinsics of every frame, as the record's change; None where it says of no change."""
    if record.intrinsics is None or not (record.normalised or record.size is not None):
        return None
    count = len(walk.path)
    own = Framing(record.size or size, size).intrinsics(
        record.pixel_intrinsics(record.size or size)[:count]
    )
    if np.abs(own - own[0]).max() <= 1e-3:
        return None
    lens = np.tile(np.asarray(walk.world.intrinsics, np.float64), (count, 1))
    lens[:, :2] *= own[:, :2] / own[0, :2]
    lens[:, 2:] += own[:, 2:] - own[0, 2:]
    return lens.astype(np.float32)


def scene_depth(world: World) -> float:
    """Median z-depth in metres, from where the world is at, of what is remembered in front of it.

    Raises:
      ValueError: if nothing is.
    """
    pose = np.asarray(world.cam2world, np.float64)
    points = np.asarray(world.bank.xyz, np.float64)[np.asarray(world.bank.valid)]
    depth = (points - pose[:3, 3]) @ pose[:3, 2]
    depth = depth[np.isfinite(depth) & (depth > 0)]
    if not len(depth):
        raise ValueError("--trajectory: found nothing remembered ahead, expected metres, not x")
    return float(np.median(depth))


def continued(file: WorldFile) -> Walk:
    """A walk yet without a path, from where a saved world is."""
    between = file.world.origin.frame_seconds
    fps = 1 / between if between else None
    return Walk(file.world, file.world.pose[None], file=file, fps=fps)


def frames_along(geometry: GeometryFile, start: int, frames: int) -> int:
    """Frames to generate along a geometry; arguments and errors as of `along_geometry`."""
    available = len(geometry) - start
    frames = frames or whole_latents(available)
    if frames > available:
        raise ValueError(
            f"--frames: found {frames}, but {geometry.path} has {available} poses from frame "
            f"{start} on"
        )
    if frames <= TEMPORAL_STRIDE or frames != whole_latents(frames):
        raise ValueError(
            f"--frames: found {frames} of the {available} poses of {geometry.path} from frame "
            f"{start} on, expected 1 + {TEMPORAL_STRIDE} n and at least {TEMPORAL_STRIDE + 1}"
        )
    return frames


def along_geometry(
    model: WorldModel,
    geometry: GeometryFile,
    *,
    start: int = 0,
    frames: int = 0,
    depth_estimator: DepthEstimator | None = None,
    depth_source: str = "",
    insist: bool = False,
) -> Walk:
    """From a picture of a geometry.npz along its poses.

    Args:
      model: the model; the picture is resized to its size.
      geometry: what the file holds.
      start: number of the frame to begin with.
      frames: to generate, 0 for as many as there are poses for.
      depth_estimator: of generated frames; by default the model's head or, without one, the file.
      depth_source: name of that, for people.
      insist: as of `WorldModel.start`.

    Raises:
      ValueError: naming --frames and the file, if there are fewer poses or they make no whole
        latents.
    """
    frames = frames_along(geometry, start, frames)
    camera = geometry.camera(model.size)[start : start + frames]
    depth, static = geometry.depths[start], None
    if geometry.masks is not None:
        static = geometry.masks[start].astype(np.float32)
    # A median is taken of whole cells; bilinear sampling takes a map of any size.
    size = None if model.memory.depth_resize == "bilinear" else model.size
    if size is not None:
        depth = resample(depth, size)
        static = None if static is None else resample(static, size)
    if depth_estimator is None and model.head is None:
        depth_estimator = depth_estimators.from_file(geometry, start, size)
        depth_source = str(geometry.path)
    written = latents_of_frames(frames) + 1
    world = model.start(
        resize(geometry.frames[start], model.size),
        camera[0],
        depth=depth,
        static=static,
        capacity=model.grid[0] * model.grid[1] * written,
        keyframes=written,
        insist=insist,
    )
    return Walk(
        world,
        np.asarray(camera.cam2world, np.float64),
        np.asarray(camera.intrinsics),
        depth_estimator,
        short_last=True,
        depth_source=depth_source or "geometry head",
        fps=geometry.fps or GEOMETRY_FPS,
    )


def extended_path(
    known: CameraPath | None, walk: Walk, size: tuple[int, int], fps: float, new: bool
) -> CameraPath | None:
    """The cameras of all frames so far, those of the walk included.

    Args:
      known: those before the walk.
      walk: whose first frame is the last of them.
      size: (H, W) of the pictures.
      fps: frames per second of the walk.
      new: whether the world begins with the walk.

    Returns:
      None where the cameras before the walk are not known.
    """
    frames = len(walk.path)
    lens = walk.world.intrinsics if walk.intrinsics is None else walk.intrinsics
    lens = np.broadcast_to(np.asarray(lens, np.float32), (frames, 4))
    times = np.arange(frames, dtype=np.float64) / fps
    if walk.path_file.times is not None:
        times = walk.path_file.times - walk.path_file.times[0]
    path = walk.world.origin.relative(walk.path)
    if new:
        return CameraPath(path, lens, times, size)
    if known is None or known.size != size:
        return None
    return CameraPath(
        np.concatenate([known.cam2world, path[1:]]),
        np.concatenate([known.intrinsics, lens[1:]]),
        np.concatenate([known.times, known.times[-1] + times[1:]]),
        size,
    )
