"""A rollout as files: the video, chunk by chunk as it is made, the world after it, and a record."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import Progress

from mirage_jax.chunks import TEMPORAL_STRIDE, chunk_bounds
from mirage_jax.io import outputs
from mirage_jax.io import video as video_io
from mirage_jax.io.atomic import replacing
from mirage_jax.world import Chunk, World, WorldModel, rollout
from mirage_jax.world.presets import preset_of
from mirage_jax.world.prompting import saved_prompt, with_prompt_saved
from mirage_jax.world.walk import Walk, extended_path
from mirage_jax.world.world_file import WORLD, WorldFile, write_world_file

RECORD = outputs.json_kind("record of a rollout", ["started_from", "seed", "iterations"])

FUSION_COUNTS = ("fused", "contradicted", "evicted")
"""Counts of a `WriteReport` that stand in the record and in the last lines beside those written."""


@dataclasses.dataclass(frozen=True)
class OutputFiles:
    """Names of what is written.

    Attributes:
      video: an mp4.
      world: state after the last frame, from which a later call continues.
      record: JSON that says what was done.
    """

    video: Path

    @property
    def world(self) -> Path:
        return self.video.with_suffix(".world")

    @property
    def record(self) -> Path:
        return self.video.with_suffix(".json")

    def check(self, read: Mapping[str, Path]) -> None:
        """Raises ValueError if they cannot be written, or would replace files of others.

        Args:
          read: files that must not be written over, by the flags that name them.
        """
        where = f"--out {self.video}"
        outputs.check_file(where, self.video, self._video_kind(), reads=read, suffixes=(".mp4",))
        outputs.check_file(where, self.record, RECORD, reads=read)
        outputs.check_file(where, self.world, WORLD, reads=read)

    def _video_kind(self) -> outputs.FileKind:
        # A video itself does not say who made it; the record beside it does.
        return outputs.FileKind("video", lambda _: RECORD.is_ours(self.record))


def write_rollout(
    model: WorldModel,
    walk: Walk,
    files: OutputFiles,
    *,
    fps: float,
    seed: int,
    start_frame: int,
    record: Mapping[str, Any],
    console: Console,
) -> None:
    """Generates, and writes all files; none of them appears before all are complete.

    Args:
      model: what generates.
      walk: from where to where.
      files: to write.
      fps: of the video.
      seed: of the noise.
      start_frame: number of the walk's first frame, for the record.
      record: what is to stand in the record beside what each chunk was.
      console: for progress and a last line.
    """
    bounds = chunk_bounds(len(walk.path), model.chunk_frames)
    rolled = rollout(
        model,
        walk.world,
        walk.path,
        jax.random.key(seed),
        intrinsics=walk.intrinsics,
        depth_estimator=walk.depth_estimator,
        short_last=walk.short_last,
    )
    files.video.parent.mkdir(parents=True, exist_ok=True)
    world, frames, chunks = walk.world, 0, []
    lost_before = 0 if walk.file is None else int(world.bank.dropped)
    with (
        replacing(files.record) as record_file,
        replacing(files.world) as world_file,
        Progress(console=console) as progress,
        video_io.VideoWriter(files.video, fps=fps, size=model.size) as video,
    ):
        bar = progress.add_task("generating", total=len(bounds))
        for number, chunk in enumerate(rolled):
            video.write(chunk.video)
            world, frames = chunk.world, frames + len(chunk.video)
            chunks.append(_chunk_record(chunk, start_frame, *bounds[number]))
            progress.advance(bar)
        write_world_file(world_file, _world_file(walk, world, model, fps, record))
        done = {**record, **_model_record(model), "fps": fps, "iterations": chunks}
        record_file.write_text(json.dumps(done, indent=2) + "\n", encoding="utf-8")
    console.print(
        f"{frames} new frames -> {files.video}; the world -> {files.world}", soft_wrap=True
    )
    console.print(_memory_line(world, chunks), soft_wrap=True)
    lost = int(world.bank.dropped) - lost_before
    if lost:
        advice = "raise --config.memory.capacity"
        if walk.file is not None:
            advice = (
                f"a saved world keeps its capacity, here {world.bank.capacity}: begin again from "
                "the picture with a larger --config.memory.capacity"
            )
        console.print(
            f"[yellow]the memory was full: {lost} elements were not remembered; {advice}[/]"
        )


def _memory_line(world: World, chunks: Sequence[Mapping[str, Any]]) -> str:
    """What the memory holds, and what the chunks did to it."""
    written, fused, contradicted, evicted = (
        sum(chunk[f"elements_{name}"] for chunk in chunks) for name in ("written", *FUSION_COUNTS)
    )
    held, capacity = int(world.bank.valid.sum()), world.bank.capacity
    line = (
        f"memory: {held:,} of {capacity:,} elements; of the new frames {written:,} cells were "
        f"added and {fused:,} known already; {contradicted:,} elements went as contradicted"
    )
    return f"{line}, {evicted:,} to make room" if evicted else line


def _world_file(
    walk: Walk, world: World, model: WorldModel, fps: float, record: Mapping[str, Any]
) -> WorldFile:
    """The state after the walk, with all that the file it was read from had beside."""
    known = walk.file or WorldFile(world)
    seconds = _frame_seconds(walk, fps)
    if seconds is None and world.movers is not None and model.movers is not None:
        seconds = 1 / model.movers.fps  # by which bodies move from frame to frame
    origin = dataclasses.replace(world.origin, frame_seconds=seconds)
    if walk.file is None and walk.path_file.times is not None:
        origin = dataclasses.replace(origin, time=float(walk.path_file.times[0]))
    world = world.replace(origin=origin)  # type: ignore[attr-defined]
    before = walk.before or known.camera_path
    new = walk.file is None and walk.before is None
    path = extended_path(before, walk, model.size, fps, new)
    made = {**record, "cfg_scale": model.sampler.cfg_scale}
    prompt = saved_prompt({"generated": made}) or saved_prompt(known.provenance)
    kind = model.conditioner.kind
    provenance = with_prompt_saved({**known.provenance, "generated": made}, prompt, kind)
    return dataclasses.replace(known, world=world, camera_path=path, provenance=provenance)


def _frame_seconds(walk: Walk, fps: float) -> float | None:
    """Seconds between all frames of a world; None where the walk has others than what it began."""
    before = walk.world.origin.frame_seconds
    if not walk.path_file.even:
        return None
    if walk.file is None and walk.before is None:
        return 1 / fps
    with_entities = walk.file is not None and walk.file.entities is not None
    if with_entities or (before and math.isclose(before * fps, 1, rel_tol=1e-9)):
        return before
    return None


def _model_record(model: WorldModel) -> dict[str, Any]:
    return {
        "config": dataclasses.asdict(preset_of(model)),
        "height": model.size[0],
        "width": model.size[1],
    }


def _chunk_record(chunk: Chunk, start: int, first: int, last: int) -> dict[str, Any]:
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
        **{f"elements_{name}": int(getattr(chunk.report, name)) for name in FUSION_COUNTS},
    }
