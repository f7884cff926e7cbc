"""The walked path and the memory as files of other tools, as bytes.

What goes into a file is fixed in the model's thread, which takes no time; it is written in another,
so that those who walk do not wait.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
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


def export(kind: str, session: Any, film: Film, ledger: Ledger) -> Callable[[], bytes]:
    """What writes one file, as things are now; it may be called in any thread.

    Args:
      kind: a key of `NAMES`: the film, its cameras, the elements of the memory, or times.
      session: the `mirage.Session`.
      film: its pictures.
      ledger: its times.

    Raises:
      ValueError: if there is nothing to write.
    """
    if kind == "ledger":
        text = json.dumps(ledger.summary(), indent=1).encode()
        return lambda: text
    write: Callable[[Path], object]
    if kind == "mp4":
        if not film.pictures:
            raise ValueError("mp4: found 0 frames, expected at least one: walk a little first")
        write = partial(_write_film, pictures=tuple(film.pictures), fps=session.options.fps)
    elif kind == "transforms":
        poses = np.array(session.path, np.float64)
        lens = np.broadcast_to(np.asarray(session.world.intrinsics), (len(poses), 4))
        record = scene_files.cameras(poses, lens, session.model.size, folder="images/")
        write = partial(scene_files.write_transforms, record=record)
    else:
        plan = session.plan()
        if not len(plan.xyz):
            raise ValueError("ply: found an empty memory, expected at least one element")
        more = {name: np.asarray(getattr(plan, name)) for name in ("age", "confidence")}
        write = partial(point_files.write_ply, xyz=plan.xyz, colours=plan.colour, more=more)
    return partial(_written, NAMES[kind], write)


def _written(name: str, write: Callable[[Path], object]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        write(path)
        return path.read_bytes()


def _write_film(path: Path, pictures: Sequence[bytes], fps: float | int) -> None:
    first = decoded(pictures[0])
    with video.VideoWriter(path, fps=fps, size=first.shape[:2]) as writer:
        for picture in pictures:
            writer.write(decoded(picture)[None])
