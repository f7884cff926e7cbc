"""Videos that the report shows of a world: returns by every method, and walks from one picture."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mirage_jax.evaluation.protocol import REVISITED_FRAMES
from mirage_jax.geometry import Camera
from mirage_jax.io.pictures import memory_from_above
from mirage_jax.training.held_out import spread_over
from mirage_jax.world import rollout

LABELS = {
    "memory": "with memory",
    "memory_zeroed": "memory emptied",
    "no_memory": "trained without",
    "rgb_memory": "RGB memory",
    "vae_reconstruction": "encoder ceiling",
}


def returns(
    held_out: Any, generated: dict[str, Any], name: str, shown: int, fps: float
) -> list[dict[str, Any]]:
    """The same return by every method, after the history it was given."""
    videos = []
    for index in spread_over(len(held_out), shown):
        truth = held_out.video[index]
        history = len(truth) - generated["memory"].shape[1] + 1
        panels = {"ground truth": truth}
        for method, label in LABELS.items():
            if method in generated:
                panels[label] = np.concatenate([truth[:history], generated[method][index, 1:]])
        videos.append(
            {
                "title": f"{name}: leave and return, {held_out.names[index]}",
                "panels": panels,
                "fps": fps,
                "history": history,
                "revisit": REVISITED_FRAMES,
            }
        )
    return videos


def rollouts(
    model: Any, held_out: Any, name: str, shown: int, config: ConfigDict
) -> tuple[list[dict[str, Any]], dict[str, tuple[np.ndarray, str]]]:
    """From one picture alone: depth from the head, every chunk remembered as it was generated."""
    videos: list[dict[str, Any]] = []
    pictures: dict[str, tuple[np.ndarray, str]] = {}
    for index in spread_over(len(held_out), shown):
        truth, poses = held_out.video[index], held_out.clips.cam2world[index]
        camera = Camera(held_out.clips.intrinsics[index], poses[0], model.size)
        world = model.start(truth[0], camera)
        frames: list[np.ndarray] = []
        key = jax.random.key(config.seed)
        for chunk in rollout(model, world, poses.astype(np.float64), key):
            frames.extend(chunk.video)
            world = chunk.world
        videos.append(
            {
                "title": f"{name}: from one picture, {held_out.names[index]}",
                "panels": {"ground truth": truth, "generated": np.stack(frames)},
                "fps": config.evaluation.fps,
                "history": 1,
                "note": "Only the first picture is given; depth, memory and every other frame are "
                "the model's own.",
            }
        )
        if not pictures:
            bank = world.bank
            pictures[f"{name}: the memory from above"] = (
                memory_from_above(np.asarray(bank.xyz), poses, valid=np.asarray(bank.valid)),
                f"Elements written while generating {held_out.names[index]} from one picture.",
            )
    return videos, pictures
