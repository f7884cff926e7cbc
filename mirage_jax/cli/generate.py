"""mirage generate: video along a camera path, from one picture, with a memory of what was seen.

    mirage generate --image=photo.png --trajectory=look_away
    mirage generate --image=photo.png --trajectory=my_path.npz --frames=65 --out=walk.mp4
    mirage generate --image=photo.png --depth=depth.png        # distances that you know better
    mirage generate --world=walk.world --trajectory=push_in    # go on from where that ended
    mirage generate --workdir=runs/wan --geometry=geometry.npz --preset=released \\
        --prompt="a walk through the room" --text=prompts.safetensors

Writes the video, chunk by chunk as it is made, and the world beside it (<out>.world), from which a
later call continues.

With --geometry the picture, its depth and the poses are those of Mirage's geometry.npz, the weights
may be converted ones, and a preset says how they are run: "released" as Mirage's code does, "paper"
as its paper does, or "default". Beside the video, metadata.json says what was done. See
docs/weights.md.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from absl import flags
from jaxtyping import UInt8
from ml_collections import ConfigDict
from PIL import Image, ImageOps, UnidentifiedImageError
from rich.console import Console
from rich.progress import Progress

from mirage_jax import trajectories
from mirage_jax.cli.helpers import build, common, generate_preset
from mirage_jax.geometry import Camera, crop_picture, resize_picture
from mirage_jax.io.depth_maps import middle_square, read_depth
from mirage_jax.io.workdir import Workdir
from mirage_jax.world import chunks_of_path
from mirage_jax.world.presets import PRESETS

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
_FRAMES = flags.DEFINE_integer("frames", 0, "Frames of the path; 0 = two chunks, or all of a file.")
_ANGLE = flags.DEFINE_float("angle", 90.0, "Degrees turned by a named path.")
_DISTANCE = flags.DEFINE_float("distance", 1.0, "Metres moved by a named path.")
_FOV = flags.DEFINE_float("fov", 90.0, "Degrees across the middle square of the picture.")
_OUT = flags.DEFINE_string("out", "generated.mp4", "Video to write.")
_FPS = flags.DEFINE_float("fps", 10.0, "Frames per second of the video.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the noise.")

_GEOMETRY = flags.DEFINE_string("geometry", "", "Mirage's geometry.npz to generate along.")
_PRESET = flags.DEFINE_enum(
    "preset", "default", list(PRESETS), "With --geometry: how the weights are run."
)
_WITH = flags.DEFINE_list("with", [], "Fields of the preset to change, as NAME=VALUE,...")
_START_FRAME = flags.DEFINE_integer("start_frame", 0, "Frame of the geometry to begin with.")
_SIZE = flags.DEFINE_list(
    "video_size", [], "HEIGHT,WIDTH of the video; by default as the geometry says."
)
_VAE_TILE = flags.DEFINE_list(
    "vae_tile",
    None,
    "ROWS,COLUMNS of latent cells that the video VAE works on at once, to save memory; 0,0 for "
    "whole pictures; by default as the preset says.",
)
_CHUNK_FRAMES = flags.DEFINE_integer("chunk_frames", 33, "Frames of a chunk of converted weights.")
_PROMPT = flags.DEFINE_string("prompt", None, "What is shown, for denoisers with text.")
_OTHER_PROMPT = flags.DEFINE_string("other_prompt", "", "What --guidance leads away from.")
_GUIDANCE = flags.DEFINE_float("guidance", 1.0, "Factor of the prompt; 1 = no guidance.")
_TEXT = flags.DEFINE_string("text", "", "File of embedded prompts.")
_TOKENIZER = flags.DEFINE_string(
    "tokenizer", "", "UMT5's tokenizer.json or spiece.model, to embed the prompt."
)
_TEXT_ENCODER = flags.DEFINE_string("text_encoder", "", "UMT5's weights, to embed the prompt.")
_SAVE_TEXT = flags.DEFINE_string("save_text", "", "Where to keep what was embedded, for --text.")
_DEPTH_MODEL = flags.DEFINE_string(
    "depth_model",
    "",
    "Weights of a metric Depth Anything V2 for generated frames; by default the geometry head of "
    "the work directory or, without one, the depths of the geometry.",
)
_MAX_DEPTH = flags.DEFINE_float("max_depth", 20.0, "Metres that --depth_model was trained up to.")
_DTYPE = flags.DEFINE_enum(
    "compute_dtype",
    "same",
    ["same", "float32", "bfloat16"],
    "Of the matrix products of the denoiser; same as its weights.",
)
_ONLY_WITH_GEOMETRY = [
    "preset",
    "with",
    "start_frame",
    "video_size",
    "vae_tile",
    "chunk_frames",
    "prompt",
    "other_prompt",
    "guidance",
    "text",
    "tokenizer",
    "text_encoder",
    "save_text",
    "depth_model",
    "max_depth",
    "compute_dtype",
]
_NOT_WITH_GEOMETRY = ["image", "depth", "world", "trajectory", "angle", "distance", "fov"]


def open_picture(path: Path) -> Image.Image:
    """A picture file in RGB, turned the way up that it was taken.

    Raises:
      ValueError: naming the file, if it is not a picture, damaged or far too large.
      OSError: if it cannot be opened.
    """
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except UnidentifiedImageError as error:
        raise ValueError(
            f"--image {path}: not a picture (expected PNG, JPEG, WebP, ...)"
        ) from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"--image {path}: too large ({error})") from error
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises any of them on damage
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise ValueError(f"--image {path}: damaged ({error})") from error


def read_picture(
    path: Path, size: tuple[int, int], fov: float | int = 90.0
) -> tuple[UInt8[np.ndarray, "h w 3"], Camera]:
    """The middle square of a picture file, resized, and the camera that sees it, at the origin.

    Args:
      path: the file.
      size: (H, W) to come to.
      fov: degrees across the middle square.

    Raises:
      ValueError, OSError: as `open_picture`.
    """
    picture = np.asarray(open_picture(path))
    height, width = picture.shape[:2]
    side = min(height, width)
    focal = side / 2 / math.tan(math.radians(fov) / 2)
    intrinsics = np.array([focal, focal, width / 2, height / 2], np.float32)
    camera = Camera(intrinsics, np.eye(4, dtype=np.float32), (height, width))
    top, left = (height - side) // 2, (width - side) // 2
    square, camera = crop_picture(picture, camera, top, left, (side, side))
    return resize_picture(square, camera, size, Image.Resampling.BOX)


def read_picture_depth(path: Path, picture: Path, size: tuple[int, int]) -> np.ndarray:
    """A depth file as float32 metres [H, W], cut and resized as `read_picture` does its picture.

    Raises:
      ValueError: if it is not a depth file, or not of the picture's size.
    """
    depth = read_depth(path)
    expected = open_picture(picture).size[::-1]
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
    """Poses of the whole path; a path read from a file is moved so that it begins at `start`.

    Raises:
      ValueError: naming the file or --frames, if there is no such path or it makes no whole chunks.
    """
    if trajectory in trajectories.NAMES or not Path(trajectory).suffix:
        count = frames or 2 * (chunk_frames - 1) + 1
        chunks_of_path(count, chunk_frames, f"--frames of {trajectory}")
        return trajectories.make(trajectory, count, angle=angle, distance=distance, start=start)
    poses = trajectories.load(trajectory, frames or None)
    chunks_of_path(len(poses), chunk_frames, trajectory)
    return start @ np.linalg.inv(poses[0]) @ poses


def _geometry_options() -> generate_preset.Options:
    """The flags that go with --geometry."""
    size: tuple[int, ...] = ()
    if _SIZE.value:
        size = _two_numbers("video_size", _SIZE.value, "HEIGHT,WIDTH in pixels")
    tile = None
    if _VAE_TILE.value is not None:
        expected = "ROWS,COLUMNS of cells, or 0,0 for whole pictures"
        tile = _two_numbers("vae_tile", _VAE_TILE.value, expected)
        if 0 in tile and any(tile):
            raise common.UserError(f"--vae_tile: found {tile}, expected {expected}")
    return generate_preset.Options(
        geometry=Path(_GEOMETRY.value),
        preset=_PRESET.value,
        fields=tuple(_WITH.value),
        start=_START_FRAME.value,
        frames=_FRAMES.value,
        size=size,
        vae_tile=() if tile == (0, 0) else tile,
        chunk_frames=_CHUNK_FRAMES.value,
        prompt=_PROMPT.value,
        other_prompt=_OTHER_PROMPT.value,
        guidance=_GUIDANCE.value,
        text=_TEXT.value,
        tokenizer=_TOKENIZER.value,
        text_encoder=_TEXT_ENCODER.value,
        save_text=_SAVE_TEXT.value,
        depth_model=_DEPTH_MODEL.value,
        max_depth=_MAX_DEPTH.value,
        dtype=_DTYPE.value,
        out=Path(_OUT.value),
        fps=_FPS.value if flags.FLAGS["fps"].present else None,
        seed=_SEED.value,
    )


def _two_numbers(flag: str, words: list[str], expected: str) -> tuple[int, ...]:
    if len(words) != 2 or not all(word.strip().isdecimal() for word in words):
        raise common.UserError(f"--{flag}: found {','.join(words)!r}, expected {expected}")
    return tuple(map(int, words))


def _check_together() -> None:
    wrong = _NOT_WITH_GEOMETRY if _GEOMETRY.value else _ONLY_WITH_GEOMETRY
    found = [name for name in wrong if flags.FLAGS[name].present]
    if found:
        way = "does not go with" if _GEOMETRY.value else "goes only with"
        raise common.UserError(f"--{found[0]} {way} --geometry")


def run(config: ConfigDict, workdir: Workdir, console: Console) -> Path:
    import jax

    from mirage_jax.io import video as video_io
    from mirage_jax.world import (
        Chunk,
        WorldModel,
        load_world,
        rollout,
        save_world,
    )
    from mirage_jax.world.latent_encoder import to_model_range

    _check_together()
    if _GEOMETRY.value:
        return generate_preset.run(config, workdir, console, _geometry_options())
    if bool(_IMAGE.value) == bool(_WORLD.value):
        raise common.UserError(
            "give either --image=PICTURE or --world=SAVED_WORLD, or else --geometry=NPZ"
        )
    if not 0 < _FOV.value < 180:
        raise common.UserError(f"--fov: found {_FOV.value}, expected degrees between 0 and 180")
    if _DEPTH.value and not _IMAGE.value:
        raise common.UserError("--depth: a saved world has its depth; give it with --image only")
    out = Path(_OUT.value)
    saved = out.with_suffix(".world")
    if out == saved:
        raise common.UserError(f"--out {out}: that is the world's name, expected a video's (.mp4)")
    model = build.world_model(workdir, "latent", config.sampling)
    lost_before = 0
    if _WORLD.value:
        world = load_world(Path(_WORLD.value), model)
        lost_before = int(world.bank.dropped)
    else:
        picture, camera = read_picture(Path(_IMAGE.value), model.size, _FOV.value)
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
    frames = 0
    out.parent.mkdir(parents=True, exist_ok=True)
    # Both are written in full before either gets its name, so that the two always match.
    pending = out.with_name(f".{saved.name}.pending")
    try:
        with (
            Progress(console=console) as progress,
            video_io.VideoWriter(out, fps=_FPS.value, size=model.size) as video,
        ):
            bar = progress.add_task("generating", total=count)

            def keep(chunk: Chunk) -> None:
                nonlocal frames
                video.write(chunk.video)
                frames += len(chunk.video)
                progress.advance(bar)

            world = rollout(model, world, path, jax.random.key(_SEED.value), keep)
            save_world(pending, world)
        pending.replace(saved)
    finally:
        pending.unlink(missing_ok=True)
    console.print(f"{frames} new frames -> {out}; the world -> {saved}")
    lost = int(world.bank.dropped) - lost_before
    if lost:
        advice = "raise --config.memory.capacity"
        if _WORLD.value:
            advice = (
                f"a saved world keeps its capacity, here {world.bank.capacity}: to raise it, begin "
                "again from the picture with a larger --config.memory.capacity"
            )
        console.print(
            f"[yellow]the memory was full: {lost} elements were not remembered; {advice}[/]"
        )
    return out


def main() -> None:
    config = common.resolve_config()
    workdir = Workdir(common.workdir())
    common.prepare_jax(config, workdir)
    run(config, workdir, Console())


def cli() -> None:
    common.run(main, __name__)


if __name__ == "__main__":
    cli()
