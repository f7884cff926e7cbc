"""What can be counted and measured in a saved world."""

from __future__ import annotations

from typing import Any

import numpy as np

from mirage_jax import memory
from mirage_jax.world.world_file import WorldFile


def world_numbers(file: WorldFile) -> dict[str, dict[str, Any]]:
    """Numbers and short texts by group and name, as JSON values."""
    world = file.world
    groups: dict[str, dict[str, Any]] = {
        "world": {
            "frames": int(world.frames),
            "latent cells": "x".join(map(str, world.latent.shape[:2])),
            "origin, m": [float(value) for value in file.origin.space],
            "last camera at, m": _rounded(np.asarray(world.cam2world)[:3, 3]),
        },
        "memory": _memory(world.bank),
    }
    path = file.camera_path
    if path is not None:
        steps = np.linalg.norm(np.diff(path.cam2world[:, :3, 3], axis=0), axis=1)
        groups["camera path"] = {
            "frames": len(path.times),
            "seconds": round(float(path.times[-1] - path.times[0]), 3),
            "length, m": round(float(steps.sum()), 3),
            "pictures": "x".join(map(str, path.size)),
        }
    kept = world.context_frames
    if kept is not None:
        used = np.asarray(kept.elements[: int(kept.keyframes.count)])
        groups["context frames"] = {
            "reference frames": int((used > 0).sum()),
            "taken out by edits": int((used == 0).sum()),
            "room for": len(kept.elements),
            "that did not fit": int(kept.keyframes.dropped),
            "preceding latents": len(kept.recent),
        }
    if file.entities is not None:
        found = np.asarray(file.entities["id"]) >= 0
        status = np.asarray(file.entities["status"])[found]
        names = ("tentative", "confirmed", "lost")
        groups["entities"] = {
            "entities": int(found.sum()),
            **{name: int((status == number).sum()) for number, name in enumerate(names)},
            "points of tracks": len(file.entities["track_id"]),
            "evicted": int(file.entities["evicted"]),
        }
    if file.branches:
        groups["branches"] = {
            branch.name: _branch(branch.frame, branch.parent, branch.world is None)
            for branch in file.branches
        }
    return groups


def _branch(frame: int, parent: str | None, is_mark: bool) -> str:
    kind = "mark" if is_mark else "branch"
    return f"{kind} at frame {frame}" + (f", of {parent}" if parent else "")


def _memory(mem: memory.LatentMemory) -> dict[str, Any]:
    valid = np.asarray(mem.valid)
    elements = int(valid.sum())
    numbers: dict[str, Any] = {
        "elements": elements,
        "capacity": mem.capacity,
        "megabytes of elements": round(memory.nbytes(mem) / 1e6, 3),
        "token": f"{mem.channels} x {mem.tokens.dtype}",
        "frames written": int(mem.frames),
        "pinned": int(np.asarray(mem.pinned)[valid].sum()),
        "did not fit": int(mem.dropped),
        "evicted": int(mem.evicted),
    }
    if elements:
        xyz, seen = np.asarray(mem.xyz)[valid], np.asarray(mem.seen)[valid]
        numbers |= {
            "from, m": _rounded(xyz.min(0)),
            "to, m": _rounded(xyz.max(0)),
            "mean confidence": round(float(np.asarray(mem.confidence)[valid].mean()), 4),
            "seen more than once": round(float((seen > 1).mean()), 4),
            "oldest time": float(np.asarray(mem.time)[valid].min()),
            "newest time": float(np.asarray(mem.time)[valid].max()),
        }
    return numbers


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 3) for value in values]
