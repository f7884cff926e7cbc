"""`mirage generate --geometry`: video along the poses of a geometry.npz, run as a preset says."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console
from rich.progress import Progress

from mirage_jax.cli.helpers import common
from mirage_jax.cli.helpers.build_preset import preset_model
from mirage_jax.cli.helpers.prompts import embed_prompts, read_prompts
from mirage_jax.io import video as video_io
from mirage_jax.io.depth_maps import resample
from mirage_jax.io.geometry_npz import GeometryFile, read_geometry, resize
from mirage_jax.io.text import save_embeddings
from mirage_jax.io.workdir import Workdir
from mirage_jax.world import Chunk, Look, WorldModel, chunk_bounds, first_picture, rollout
from mirage_jax.world import depth_estimators as depth_sources
from mirage_jax.world.conditioners import TEMPORAL_STRIDE
from mirage_jax.world.presets import PRESETS, VAE_TILES, with_fields

METADATA = "metadata.json"
_DTYPES = {"same": None, "float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of the command, see `cli.generate`."""

    geometry: Path
    preset: str
    fields: tuple[str, ...]
    start: int
    frames: int
    size: tuple[int, ...]
    vae_tile: tuple[int, ...] | None
    chunk_frames: int
    prompt: str | None
    other_prompt: str
    guidance: float
    text: str
    tokenizer: str
    text_encoder: str
    save_text: str
    depth_model: str
    max_depth: float
    dtype: str
    out: Path
    fps: float | None
    seed: int


def run(config: ConfigDict, workdir: Workdir, console: Console, options: Options) -> Path:
    """Writes the video, chunk by chunk, and `METADATA` beside it; returns the video's path."""
    preset = with_fields(PRESETS[options.preset], options.fields)
    geometry = read_geometry(options.geometry, options.start)
    frames = _frames(geometry, options)
    size = options.size or geometry.original_size or geometry.size
    vae_tile = VAE_TILES[options.preset] if options.vae_tile is None else options.vae_tile
    model = preset_model(
        workdir,
        preset,
        size=(size[0], size[1]),
        chunk_frames=options.chunk_frames,
        sky_depth=config.sky_depth,
        vae_tile=vae_tile,
        dtype=_DTYPES[options.dtype],
    )
    model = _with_prompt(model, options)
    look, depth_source = _depth_source(model, geometry, options)
    bounds = chunk_bounds(frames, model.chunk_frames)
    latents = 1 + (frames - 1) // TEMPORAL_STRIDE
    camera = geometry.camera(model.size)[options.start : options.start + frames]
    world, _ = jax.jit(WorldModel.start, static_argnums=(3, 6))(
        model,
        first_picture(resize(geometry.frames[options.start], model.size)),
        camera[0],
        model.grid[0] * model.grid[1] * (latents + 1),
        *_first_depth(model, geometry, options.start),
        latents + 1,
    )
    fps = next(fps for fps in (options.fps, geometry.fps, 16.0) if fps is not None)
    iterations = []
    out = options.out
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        Progress(console=console) as progress,
        video_io.VideoWriter(out, fps=fps, size=model.size) as video,
    ):
        bar = progress.add_task("generating", total=len(bounds))

        def keep(chunk: Chunk) -> None:
            video.write(chunk.video)
            iterations.append(_iteration(chunk, options.start, *bounds[chunk.index]))
            progress.advance(bar)

        rollout(
            model,
            world,
            np.asarray(camera.cam2world, np.float64),
            jax.random.key(options.seed),
            keep,
            intrinsics=np.asarray(camera.intrinsics),
            look=look,
            short_last=True,
        )
    metadata = {
        "preset": options.preset,
        "config": dataclasses.asdict(preset),
        "vae_tile": list(vae_tile),
        "geometry_path": str(options.geometry),
        "model_path": str(workdir.root / "model"),
        "prompt": options.prompt,
        "guidance": options.guidance,
        "later_depth": depth_source,
        "seed": options.seed,
        "height": model.size[0],
        "width": model.size[1],
        "fps": fps,
        "iterations": iterations,
    }
    (out.parent / METADATA).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
    console.print(f"{frames} frames -> {out}; how -> {out.parent / METADATA}")
    return out


def _frames(geometry: GeometryFile, options: Options) -> int:
    """Frames to generate; by default as many as the file has poses for."""
    there = len(geometry) - options.start
    frames = options.frames or there - (there - 1) % TEMPORAL_STRIDE
    if frames > there:
        raise common.UserError(
            f"--frames: found {frames}, but {geometry.path} has {there} poses from frame "
            f"{options.start} on"
        )
    return frames


def _with_prompt(model: WorldModel, options: Options) -> WorldModel:
    width = model.denoiser.text_width
    if not width:
        if options.prompt or options.guidance != 1.0:
            raise common.UserError("--prompt, --guidance: this denoiser was trained without text")
        return model
    if options.prompt is None:
        raise common.UserError("--prompt: found none, expected a text that says what is shown")
    guided = options.guidance != 1.0
    prompts = list(dict.fromkeys([options.prompt, *([options.other_prompt] if guided else [])]))
    if options.text:
        tokens = read_prompts(prompts, Path(options.text), width)
    elif options.tokenizer and options.text_encoder:
        made = embed_prompts(prompts, Path(options.tokenizer), Path(options.text_encoder))
        tokens = made.tokens
        if options.save_text:
            save_embeddings(options.save_text, made)
    else:
        raise common.UserError(
            "--prompt: give --text=EMBEDDINGS, or --tokenizer=FILE and --text_encoder=WEIGHTS"
        )
    if tokens.shape[-1] != width:
        raise common.UserError(
            f"--text_encoder: found {tokens.shape[-1]} channels, the denoiser expects {width}"
        )
    return model.replace(  # type: ignore[attr-defined]
        text=jnp.asarray(tokens[0]),
        other_text=jnp.asarray(tokens[-1]) if guided else None,
        guidance=options.guidance,
    )


def _depth_source(
    model: WorldModel, geometry: GeometryFile, options: Options
) -> tuple[Look | None, str]:
    """Where the depth of generated frames comes from, and its name for the metadata."""
    if options.depth_model:
        look = depth_sources.depth_anything(Path(options.depth_model), options.max_depth)
        return look, options.depth_model
    if model.head is not None:
        return None, "geometry head"
    size = None if model.depth_resize == "bilinear" else model.size
    return depth_sources.from_file(geometry, options.start, size), str(geometry.path)


def _first_depth(
    model: WorldModel, geometry: GeometryFile, start: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Depth and usable pixels of the first picture; at its size where cells take single pixels."""
    depth = geometry.depths[start]
    static = None if geometry.masks is None else geometry.masks[start].astype(np.float32)
    if model.depth_resize == "bilinear":
        return depth, static
    return resample(depth, model.size), None if static is None else resample(static, model.size)


def _iteration(chunk: Chunk, start: int, first: int, last: int) -> dict[str, Any]:
    return {
        "iteration": chunk.index + 1,
        "output_start": first + 1 if first else 0,
        "output_end": last + 1,
        "model_frames": last - first + 1,
        "target_pose_indices": list(range(start + first, start + last + 1, TEMPORAL_STRIDE)),
        "reference_indices": list(chunk.references),
        "num_preceding_latents": chunk.preceding,
        "num_reference_latents": len(chunk.references),
        "elements_written": int(chunk.report.written),
        "elements_left_out": int(chunk.report.unknown_depth) + int(chunk.report.moving),
    }
