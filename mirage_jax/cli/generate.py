"""mirage generate: video along a camera path, with a memory of what was seen.

    mirage generate --image=photo.png --trajectory=look_away   # weights that ship, or your own
    mirage generate --image=photo.png --trajectory=my_path.npz --frames=65 --out=walk.mp4
    mirage generate --image=photo.png --trajectory=forward:2m,turn_left:90,back
    mirage generate --image=photo.png --depth=depth.png        # distances that you know better
    mirage generate --clip=scans/hall                # from all pictures of a posed clip
    mirage generate --world=walk.world --trajectory=push_in    # go on from where that ended
    mirage generate --workdir=runs/wan --geometry=geometry.npz --preset=released \\
        --prompt="a walk through the room" --text=prompts.safetensors

It starts from a picture, from all pictures of a posed clip (a layout of docs/data.md, read as
--config.data.* says), from a saved world, or from a picture of Mirage's geometry.npz, along whose
poses it then goes. Written are the video, chunk by chunk as it is made, the world beside it
(<out>.world), from which a later call continues, and what was done (<out>.json).

Weights are run as they were trained, converted ones as released; --preset has other ways:
"released" as Mirage's code, "paper" as its paper does, "default" as ours does for large models.
--with changes single fields of that, e.g. --with=steps=8,reencode=true. See docs/weights.md.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from ml_collections import ConfigDict
from rich.console import Console

from mirage_jax import trajectories
from mirage_jax.cli.helpers import (
    build,
    capture_start,
    common,
    config_check,
    entry_flags,
    flag_values,
    generated_shape,
    generation,
    mesh_flag,
    model_flags,
    prompts,
    run_weights,
    start_flags,
)
from mirage_jax.cli.helpers.flag_types import Integer, PathName, Real
from mirage_jax.cli.helpers.rollout_files import OutputFiles, write_rollout
from mirage_jax.cli.helpers.stored_fields import check_overrides
from mirage_jax.io.geometry_npz import GeometryFile, read_geometry
from mirage_jax.io.image_files import read_rgb
from mirage_jax.io.outputs import check_file
from mirage_jax.io.picture_files import read_picture, read_picture_depth
from mirage_jax.io.text import EMBEDDINGS
from mirage_jax.io.workdir import Workdir
from mirage_jax.world import WorldModel, depth_estimators, loading, walk
from mirage_jax.world.loading import RELEASED_CHUNK_FRAMES
from mirage_jax.world.presets import PRESETS, with_fields
from mirage_jax.world.world_file import read_world_file

FLAG_MODULES = (
    *(model_flags.__name__, mesh_flag.__name__),
    *(prompts.__name__, start_flags.__name__),
)

_DEPTH = flags.DEFINE(
    PathName(),
    "depth",
    "",
    "Depth of the picture's pixels, in place of the model's guess: a 16-bit PNG in millimetres, or "
    ".npy or .npz (array 'depth') in metres; 0 = unknown.",
)
_CLIP_PICTURES = flags.DEFINE(
    Integer(least=0), "clip_pictures", 0, "Of the clip, at most, evenly spread; 0 = all."
)
_CLIP_SCALE = flags.DEFINE(
    Real(least=0), "clip_scale", 0.0, "Metres of a unit of the clip's cameras; 0 = as they are."
)
_TRAJECTORY = flags.DEFINE(
    PathName(),
    "trajectory",
    "look_away",
    "A named path ("
    + ", ".join(trajectories.NAMES)
    + "); steps such as forward:2m,turn_left:90,back, in metres, degrees or multiples of the "
    "scene's depth (0.5x); keys such as 'w*10 a*5', each with the frames it is held, or "
    "'w-31, right-1' in latents; or a camera file of another tool. See docs/cameras.md.",
)
_FRAMES = flags.DEFINE(
    Integer(least=0), "frames", 0, "Frames of the path; 0 = two chunks, or all of a file."
)
_ANGLE = flags.DEFINE(Real(), "angle", 90.0, "Degrees turned by a named path.")
_DISTANCE = flags.DEFINE(Real(), "distance", 1.0, "Metres moved by a named path.")
_GEOMETRY = flags.DEFINE(PathName(), "geometry", "", "Mirage's geometry.npz to begin and go by.")
_START_FRAME = flags.DEFINE(Integer(least=0), "start_frame", 0, "Of the geometry, to begin with.")
_INSIST = flags.DEFINE_bool("insist", False, "Take depths and intrinsics that look wrong.")
_OUT = flags.DEFINE(PathName(), "out", "generated.mp4", "Video to write.")
_FPS = flags.DEFINE(
    Real(above=0.01, below=1000),
    "fps",
    10.0,
    "Frames per second of the video; by default those of the path's file, the clip or the world.",
)
_SEED = flags.DEFINE(Integer(least=0, most=2**32 - 1), "seed", 0, "Seed of the noise.")

_PRESET = flags.DEFINE_enum(
    "preset", None, [*PRESETS], "How the weights are run; by default as they were trained."
)
_WITH = flags.DEFINE_list("with", [], "Fields of that to change, as NAME=VALUE,...")
_SIZE = flags.DEFINE_list(
    "video_size", [], "HEIGHT,WIDTH of the video; by default the nearest to what it starts from."
)
_VAE_TILE = flags.DEFINE_list(
    "vae_tile",
    None,
    "ROWS,COLUMNS of latent cells that the video VAE works on at once, to save memory; 0,0 for "
    "whole pictures; by default as the preset says.",
)
_CHUNK_FRAMES = flags.DEFINE(
    Integer(least=5),
    "chunk_frames",
    RELEASED_CHUNK_FRAMES,
    "Frames of a chunk, 1 + 4 n, of converted weights and of those trained on several lengths.",
)
_DTYPE = flags.DEFINE_enum(
    "compute_dtype",
    "same",
    ["same", "float32", "bfloat16"],
    "Of the matrix products of the denoiser; same as its weights.",
)
_MEMORY_SCALE = flags.DEFINE_list(
    "memory_scale",
    [],
    "Strength of the memory branch: one factor on what it adds, or one for each of the denoiser's "
    "layers that have it, SCALE,SCALE,...; by default 1.",
)
_SAVE_TEXT = flags.DEFINE(
    PathName(), "save_text", "", "Where to keep what was embedded, for --text."
)
_DEPTH_MODEL = flags.DEFINE(
    PathName(),
    "depth_model",
    "",
    "Weights of a metric Depth Anything V2 for generated frames; by default the geometry head of "
    "the work directory or, without one, the depths of the geometry.",
)
_MAX_DEPTH = flags.DEFINE(
    Real(above=0), "max_depth", 20.0, "Metres that --depth_model was trained up to."
)

_READ = (
    *("image", "clip", "world", "depth", "geometry", "trajectory"),
    *("text", "tokenizer", "text_encoder", "depth_model"),
)
"""Flags of what is read."""


def _check_flags(files: OutputFiles) -> None:
    """Raises ValueError or OSError for a wrong value, a missing file, or one that must stay."""
    if _SIZE.value:
        flag_values.two_numbers("video_size", _SIZE.value, "HEIGHT,WIDTH in pixels")
    flag_values.vae_tile(_VAE_TILE.value)
    with_fields(PRESETS[_PRESET.value or "default"], _WITH.value)
    reads = {name: Path(str(flags.FLAGS[name].value)) for name in _READ if flags.FLAGS[name].value}
    if trajectories.is_named(_TRAJECTORY.value):
        del reads["trajectory"]
    named = {f"--{name}": path for name, path in reads.items()}
    # A world that is continued may be replaced by what it becomes.
    files.check({flag: path for flag, path in named.items() if flag != "--world"})
    if _SAVE_TEXT.value:
        path = Path(_SAVE_TEXT.value)
        written = {
            "--out": files.video,
            "--out (record)": files.record,
            "--out (world)": files.world,
        }
        check_file(f"--save_text {path}", path, EMBEDDINGS, reads={**named, **written})
    for flag, path in named.items():
        if flag != "--geometry" and not path.exists():  # which is read next
            raise FileNotFoundError(f"{flag}: {path}: no such file")
    if start_flags.IMAGE.value:
        read_rgb(Path(start_flags.IMAGE.value), at_least=1)


def _check_walk(workdir: Workdir, geometry: GeometryFile | None) -> None:
    """Raises ValueError for a length or path that does not fit, before the weights are read."""
    if geometry is not None:
        walk.frames_along(geometry, _START_FRAME.value, _FRAMES.value)
        return
    chunk = loading.known_chunk_frames(workdir.root, _CHUNK_FRAMES.value)
    if chunk is not None:
        _path(chunk, np.eye(4), 1.0)


def _path(chunk_frames: int, start: np.ndarray, scene_depth: float | None) -> np.ndarray:
    """The camera path that the flags ask for."""
    return walk.camera_path(
        _TRAJECTORY.value,
        frames=_FRAMES.value,
        chunk_frames=chunk_frames,
        start=start,
        **_amounts(),
        scene_depth=scene_depth,
    )


def _amounts() -> dict[str, float]:
    return {"angle": _ANGLE.value, "distance": _DISTANCE.value}


def _model(config: ConfigDict, workdir: Workdir, geometry: GeometryFile | None) -> WorldModel:
    size = None if geometry is None else geometry.original_size or geometry.size
    if _SIZE.value:
        size = flag_values.two_numbers("video_size", _SIZE.value, "HEIGHT,WIDTH in pixels")
    # A student knows itself how it is sampled, whatever experiment is named.
    as_config = common.config_is_named() and model_flags.DENOISER.value != build.STUDENT
    model = generation.generation_model(
        config,
        workdir,
        None if as_config else common.overrides()[2],
        memory=model_flags.DENOISER.value,
        preset=_PRESET.value or "",
        fields=_WITH.value,
        vae_tile=flag_values.vae_tile(_VAE_TILE.value),
        size=size,
        chunk_frames=_CHUNK_FRAMES.value,
        dtype=_DTYPE.value,
    )
    if not _SIZE.value:
        sizes = loading.trained_sizes(workdir.root, model_flags.DENOISER.value)
        begun = generated_shape.Started(
            start_flags.IMAGE.value,
            start_flags.CLIP.value,
            start_flags.WORLD.value,
            start_flags.CLIP_SCENE.value,
        )
        size = generated_shape.size_of_start(config, sizes, begun, model.conditioner.grid)
    model = flag_values.as_asked(
        model,
        workdir,
        denoiser=model_flags.DENOISER.value,
        size=size,
        chunk_frames=_CHUNK_FRAMES.value if flags.FLAGS["chunk_frames"].present else None,
    )
    options = build.mover_options(config) if as_config else None
    model = model_flags.applied(model, workdir, options)
    model = flag_values.with_memory_scale(model, _MEMORY_SCALE.value)
    model = prompts.with_prompt(
        model,
        prompt=start_flags.PROMPT.value,
        negative_prompt=start_flags.NEGATIVE.value,
        cfg_scale=start_flags.CFG_SCALE.value,
        text=start_flags.TEXT.value,
        tokenizer=prompts.TOKENIZER.value,
        text_encoder=prompts.TEXT_ENCODER.value,
        save_text=_SAVE_TEXT.value,
        world=start_flags.WORLD.value,
    )
    return mesh_flag.placed(model)


def _walk(
    config: ConfigDict,
    entry: str,
    model: WorldModel,
    geometry: GeometryFile | None,
    console: Console,
) -> walk.Walk:
    estimator, source = None, ""
    if _DEPTH_MODEL.value:
        path = Path(_DEPTH_MODEL.value)
        estimator, source = depth_estimators.depth_anything(path, _MAX_DEPTH.value), str(path)
    if geometry is not None:
        return walk.along_geometry(
            *(model, geometry),
            start=_START_FRAME.value,
            frames=_FRAMES.value,
            depth_estimator=estimator,
            depth_source=source,
            insist=_INSIST.value,
        )
    if entry == "world":
        file = read_world_file(Path(start_flags.WORLD.value), model)
        begun = walk.continued(file)
    elif entry == "clip":
        begun = _from_clip(config, model, console)
    else:
        picture, camera = read_picture(
            Path(start_flags.IMAGE.value), model.size, start_flags.FOV.value
        )
        depth = None
        if _DEPTH.value:
            depth = read_picture_depth(
                Path(_DEPTH.value), Path(start_flags.IMAGE.value), model.size, insist=_INSIST.value
            )
        world = model.start(picture, camera, depth=depth, insist=_INSIST.value)
        begun = walk.Walk(world, world.pose[None])
    trajectory, metres = _TRAJECTORY.value, None
    if trajectories.uses_scene_depth(trajectory):
        metres = walk.scene_depth(begun.world)
    planned = dataclasses.replace(
        begun,
        path=_path(model.chunk_frames, begun.world.pose, metres),
        depth_estimator=estimator,
        depth_source=source or begun.depth_source,
    )
    asked = _FPS.value if flags.FLAGS["fps"].present else None
    zoom = trajectories.zoom_of(trajectory, len(planned.path), **_amounts(), scene_depth=metres)
    return walk.with_path_file(planned, trajectory, model.size, fps=asked, zoom=zoom)


def _from_clip(config: ConfigDict, model: WorldModel, console: Console) -> walk.Walk:
    capture = capture_start.read_capture(
        config,
        start_flags.CLIP.value,
        model.size,
        scene=start_flags.CLIP_SCENE.value,
        pictures=_CLIP_PICTURES.value,
        scale=_CLIP_SCALE.value,
    )
    told = "memory.capacity" in common.overrides()[2]
    return capture_start.start(
        model,
        capture,
        frames=len(_path(model.chunk_frames, np.eye(4), 1.0)),
        capacity=model.memory.capacity if told else None,
        insist=_INSIST.value,
        console=console,
    )


def run(config: ConfigDict, workdir: Workdir, console: Console) -> Path:
    """Writes the video, the world and the record; returns the video's path."""
    config_check.check(config)
    entry, files, geometry = entry_flags.entry(), OutputFiles(Path(_OUT.value)), None
    _check_flags(files)
    if entry == "geometry":
        geometry = read_geometry(Path(_GEOMETRY.value), _START_FRAME.value, insist=_INSIST.value)
    _check_walk(workdir, geometry)
    used = entry_flags.used_fields(entry, workdir, model_flags.DENOISER.value, _PRESET.value or "")
    named = common.overrides()[2]
    if unused := check_overrides(workdir, model_flags.DENOISER.value, named, used):
        names = ", ".join(f"--config.{name}" for name in unused)
        console.print(f"[yellow]not used here: {names}[/]", soft_wrap=True)
    model = _model(config, workdir, geometry)
    planned = _walk(config, entry, model, geometry, console)
    fps = _FPS.value if flags.FLAGS["fps"].present else planned.fps or _FPS.value
    for line in planned.path_file.said:
        console.print(line, soft_wrap=True, markup=False)
    record: dict[str, Any] = {
        "started_from": {entry: flags.FLAGS[entry].value},
        "trajectory": None if entry == "geometry" else _TRAJECTORY.value,
        "preset": _PRESET.value or "",
        "model_path": str(workdir.root / "model"),
        "prompt": start_flags.PROMPT.value,
        "negative_prompt": None if model.negative_text is None else start_flags.NEGATIVE.value,
        "later_depth": planned.depth_source,
        "seed": _SEED.value,
    }
    write_rollout(
        model,
        planned,
        files,
        fps=fps,
        seed=_SEED.value,
        start_frame=_START_FRAME.value,
        record=record,
        console=console,
    )
    return files.video


def main() -> None:
    config = common.resolve_config()
    workdir, console = run_weights.workdir(), Console()
    common.prepare_jax(config, workdir)
    with mesh_flag.in_force():
        run(config, run_weights.trained_or_shipped(workdir, console), console)


def cli() -> None:
    common.run(main, __name__)


if __name__ == "__main__":
    cli()
