"""mirage generate: video along a camera path, from one picture, with a memory of what was seen.

    mirage generate --image=photo.png --trajectory=look_away
    mirage generate --image=photo.png --trajectory=my_path.npz --frames=65 --out=walk.mp4
    mirage generate --image=photo.png --depth=depth.png        # distances that you know better
    mirage generate --world=walk.world --trajectory=push_in    # go on from where that ended

Writes the video, chunk by chunk as it is made, and the world beside it (<out>.world), from which a
later call continues.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import ConfigDict
from PIL import Image, UnidentifiedImageError
from rich.console import Console
from rich.progress import Progress

from mirage_jax import trajectories
from mirage_jax.cli import build, common
from mirage_jax.depth import middle_square, read_depth
from mirage_jax.layout import Layout

_IMAGE = flags.DEFINE_string("image", "", "Picture to start from.")
_DEPTH = flags.DEFINE_string(
    "depth",
    "",
    "Depth of the picture's pixels, in place of the model's guess: a 16-bit PNG in millimetres, or "
    ".npy or .npz (array 'depth') in metres; 0 = unknown.",
)
_WORLD = flags.DEFINE_string("world", "", "Saved world to continue instead of starting anew.")
_TRAJECTORY = flags.DEFINE_string(
    "trajectory",
    "look_away",
    "A named path, or a file of cam2world poses (.npz, .npy, .json, .txt).",
)
_FRAMES = flags.DEFINE_integer("frames", 0, "Frames of a named path; 0 = two chunks.")
_ANGLE = flags.DEFINE_float("angle", 90.0, "Degrees turned by a named path.")
_DISTANCE = flags.DEFINE_float("distance", 1.0, "Metres moved by a named path.")
_FOV = flags.DEFINE_float("fov", 90.0, "Degrees across the middle square of the picture.")
_OUT = flags.DEFINE_string("out", "generated.mp4", "Video to write.")
_FPS = flags.DEFINE_float("fps", 10.0, "Frames per second of the video.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the noise.")


def read_picture(path: Path, size: tuple[int, int]) -> np.ndarray:
    """A picture file as uint8 [H, W, 3]: the middle square, resized.

    Raises:
      ValueError: if the file is not a picture.
    """
    try:
        with Image.open(path) as image:
            picture = image.convert("RGB")
    except UnidentifiedImageError as error:
        raise ValueError(
            f"--image {path}: not a picture (expected PNG, JPEG, WebP, ...)"
        ) from error
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side))
    return np.asarray(square.resize(size[::-1], Image.Resampling.BOX), np.uint8)


def read_picture_depth(path: Path, picture: Path, size: tuple[int, int]) -> np.ndarray:
    """A depth file as float32 metres [H, W], cut and resized as `read_picture` does its picture.

    Raises:
      ValueError: if it is not a depth file, or not of the picture's size.
    """
    depth = read_depth(path)
    with Image.open(picture) as image:
        expected = image.size[::-1]
    if depth.shape != expected:
        raise ValueError(
            f"--depth {path}: found {depth.shape[0]} x {depth.shape[1]} pixels, expected "
            f"{expected[0]} x {expected[1]} as --image"
        )
    return middle_square(depth, size)


def camera_path(
    trajectory: str,
    *,
    frames: int,
    chunk_frames: int,
    start: np.ndarray,
    angle: float,
    distance: float,
) -> np.ndarray:
    """Poses of the whole path; a path read from a file is moved so that it begins at `start`."""
    if trajectory in trajectories.NAMES or not Path(trajectory).suffix:
        count = frames or 2 * (chunk_frames - 1) + 1
        return trajectories.make(trajectory, count, angle=angle, distance=distance, start=start)
    poses = trajectories.load(trajectory)
    return start @ np.linalg.inv(poses[0]) @ poses


def run(config: ConfigDict, layout: Layout, console: Console) -> Path:
    import jax

    from mirage_jax import video_io
    from mirage_jax.geometry import Camera
    from mirage_jax.latent_encoder import to_model_range
    from mirage_jax.world import (
        Chunk,
        WorldModel,
        chunks_of_path,
        load_world,
        rollout,
        save_world,
    )

    if bool(_IMAGE.value) == bool(_WORLD.value):
        raise common.UserError("give either --image=PICTURE or --world=SAVED_WORLD")
    if _DEPTH.value and not _IMAGE.value:
        raise common.UserError("--depth: a saved world has its depth; give it with --image only")
    model = build.world_model(layout, "latent", config.sampling)
    out = Path(_OUT.value)
    if _WORLD.value:
        world = load_world(Path(_WORLD.value))
    else:
        picture = read_picture(Path(_IMAGE.value), model.size)
        focal = model.size[1] / 2 / np.tan(np.deg2rad(_FOV.value) / 2)
        intrinsics = np.array([focal, focal, model.size[1] / 2, model.size[0] / 2], np.float32)
        camera = Camera(intrinsics, np.eye(4, dtype=np.float32), model.size)
        depth = None
        if _DEPTH.value:
            depth = read_picture_depth(Path(_DEPTH.value), Path(_IMAGE.value), model.size)
        begin = jax.jit(WorldModel.start, static_argnums=3)
        world, _ = begin(model, to_model_range(picture), camera, config.memory.capacity, depth)
    path = camera_path(
        _TRAJECTORY.value,
        frames=_FRAMES.value,
        chunk_frames=model.chunk_frames,
        start=np.asarray(world.cam2world, np.float64),
        angle=_ANGLE.value,
        distance=_DISTANCE.value,
    )
    count = chunks_of_path(len(path), model.chunk_frames)
    frames = lost = 0
    with (
        Progress(console=console) as progress,
        video_io.VideoWriter(out, fps=_FPS.value, size=model.size) as video,
    ):
        bar = progress.add_task("generating", total=count)

        def keep(chunk: Chunk) -> None:
            nonlocal frames, lost
            video.write(chunk.video)
            frames += len(chunk.video)
            lost += int(chunk.report.dropped)
            progress.advance(bar)

        world = rollout(model, world, path, jax.random.key(_SEED.value), keep)
    saved = out.with_suffix(".world")
    save_world(saved, world)
    console.print(f"{frames} new frames -> {out}; the world -> {saved}")
    if lost:
        console.print(
            f"[yellow]the memory was full: {lost} elements were not remembered; "
            "raise --config.memory.capacity[/]"
        )
    return out


def main() -> None:
    config = common.resolve_config()
    layout = Layout(common.workdir())
    common.prepare_jax(config, layout)
    run(config, layout, Console())


def cli() -> None:
    common.run(main, __name__)


if __name__ == "__main__":
    cli()
