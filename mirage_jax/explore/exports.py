"""The walked path and the memory as files of other tools, as bytes."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from mirage_jax.explore.film import Film
from mirage_jax.explore.ledger import Ledger
from mirage_jax.explore.pictures import decoded
from mirage_jax.io import point_files, scene_files, video

NAMES = {
    "mp4": "walk.mp4",
    "transforms": "transforms.json",
    "ply": "memory.ply",
    "ledger": "ledger.json",
}
"""Names that the browser proposes for the kinds of files."""


def export(kind: str, session: Any, film: Film, ledger: Ledger) -> bytes:
    """One file.

    Args:
      kind: a key of `NAMES`: the film, its cameras, the elements of the memory, or times.
      session: the `mirage.Session`.
      film: its pictures.
      ledger: its times.

    Raises:
      ValueError: if there is nothing to write.
    """
    if kind == "ledger":
        return json.dumps(ledger.summary(), indent=1).encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, NAMES[kind])
        if kind == "mp4":
            _write_film(path, film, session.options.fps)
        elif kind == "transforms":
            poses = np.asarray(session.path, np.float64)
            lens = np.broadcast_to(np.asarray(session.world.intrinsics), (len(poses), 4))
            record = scene_files.cameras(poses, lens, session.model.size, folder="images/")
            scene_files.write_transforms(path, record)
        else:
            plan = session.plan()
            if not len(plan.xyz):
                raise ValueError("ply: found an empty memory, expected at least one element")
            more = {name: np.asarray(getattr(plan, name)) for name in ("age", "confidence")}
            point_files.write_ply(path, plan.xyz, plan.colour, more)
        return path.read_bytes()


def _write_film(path: Path, film: Film, fps: float | int) -> None:
    if not film.pictures:
        raise ValueError("mp4: found 0 frames, expected at least one: walk a little first")
    first = decoded(film.pictures[0])
    with video.VideoWriter(path, fps=fps, size=first.shape[:2]) as writer:
        for picture in film.pictures:
            writer.write(decoded(picture)[None])
