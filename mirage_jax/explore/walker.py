"""One walker: a session, its film, branches and times, and what the page is told of them.

All of it runs in the worker thread of the model, never in the event loop.
"""

from __future__ import annotations

import base64
import dataclasses
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mirage_jax.explore import protocol
from mirage_jax.explore.exports import export
from mirage_jax.explore.film import MAX_BYTES, Film
from mirage_jax.explore.kinds import Kinds
from mirage_jax.explore.ledger import Ledger
from mirage_jax.explore.pace import Pace
from mirage_jax.explore.pictures import encoded, encoded_exactly, thumbnail
from mirage_jax.explore.plan_picture import Axes, plan_picture
from mirage_jax.explore.starts import Embedded
from mirage_jax.memory import edit, regions
from mirage_jax.origin import UPS
from mirage_jax.world import WorldModel
from mirage_jax.world.controls import Controls
from mirage_jax.world.prompting import Prompt
from mirage_jax.world.session import Session

MAX_BRANCHES = 32
_PATH_POINTS = 200
_MOST_ENTITIES = 64
_COLUMN = 1000.0
"""Metres above and below the camera that an edit reaches."""


@dataclasses.dataclass
class Branch:
    """A state of the world to which one can go again.

    Attributes:
      name: of the mark.
      frame: how many frames there were.
      picture: the last of them, small and encoded; empty for those of a file.
      film: of the way there; None for those of a file.
      kind: of the memory that was walked with.
    """

    name: str
    frame: int
    picture: bytes
    film: Film | None
    kind: str


class Walker:
    """A session as the page sees it.

    Attributes:
      number: by which other walkers know this one.
      session: the walk.
      film: its pictures.
      ledger: its times.
      branches: states that were kept.
      layer: what the plan is coloured by.
      picture: the present one, encoded.
      saved: number of changes when it was last saved, see `changes`.
      changes: how often anything was done to the world.
      bytes: that session and film took when they were last asked.
      note: what its page is to be told when it comes.
      work: milliseconds that the last chunk took here, without what it waited.
      pace: frames a second.
      kinds: the walk with each kind of memory; None where there is one kind.
    """

    def __init__(
        self,
        number: int,
        session: Session,
        denoise_steps: Sequence[float] = (),
        film_bytes: int = MAX_BYTES,
        pace: Pace | None = None,
        kinds: Mapping[str, WorldModel] | None = None,
    ) -> None:
        self.number = number
        self.session = session
        self.kinds = Kinds(session, kinds) if kinds else None
        self.picture = encoded(session.picture)
        self.film = Film(int(session.world.frames) - 1, [self.picture], film_bytes)
        self.ledger = Ledger()
        self.ledger.add(
            {f"denoise step {n}": 1e3 * seconds for n, seconds in enumerate(denoise_steps, 1)}
        )
        self.branches = [
            Branch(name, frames, b"", None, self.kind)
            for name, frames in session.timeline.marks.items()
        ]
        self.layer = protocol.LAYERS[0]
        self.changes = self.saved = self.bytes = 0
        self.note, self.work = "", 0.0
        self.pace = pace or Pace(float(session.options.fps))
        self.state()

    # -- walking ---------------------------------------------------------------------------------

    def step(self, held: protocol.Controls, waited: float, frame: int) -> bytes:
        """Walks a chunk on, and gives the message with its pictures.

        Args:
          held: the controls.
          waited: seconds from when they were received until now.
          frame: number of the message.
        """
        moves = {name: float(getattr(held, name)) for name in protocol.MOVES}
        options = self.session.options
        if options.fps != self.pace.fps:
            self.session.options = dataclasses.replace(options, fps=self.pace.fps)
        step = self.session.step(Controls(**moves))
        begun = time.perf_counter()
        pictures = [encoded(picture) for picture in np.asarray(step.video)]
        stages = {n: 1e3 * s for n, s in step.stages.items() if n != "total"}
        stages["input"] = stages.get("input", 0.0) + 1e3 * waited
        stages["encode"] = 1e3 * (time.perf_counter() - begun)
        self.work = sum(took for name, took in stages.items() if name != "input")
        self.film.append(pictures)
        self.picture = pictures[-1]
        self.changes += 1
        self.ledger.add(stages)
        fields = {
            "frame": frame,
            "seq": held.seq,
            "applied": moves,
            **self.pacing(),
            "pose": _rounded(step.poses[-1]),
            "ledger": {name: round(value, 2) for name, value in stages.items()},
            "blocked": bool(step.blocked),
            "report": step.report,
        }
        return protocol.binary_message("frames", fields, pictures)

    def pacing(self) -> dict[str, float]:
        """Frames a second, and degrees that a chunk turns by at most."""
        options = self.session.options
        turned = options.turn * (options.chunk_frames - 1) / options.fps
        return {"fps": float(options.fps), "degrees": turned}

    def shown(self, send: float | int, draw: float | int) -> None:
        """The page has a chunk, which took so many milliseconds to come and to be drawn."""
        self.ledger.add({"send": float(send), "draw": float(draw)})
        frames = self.session.options.chunk_frames - 1
        self.pace.took((self.work + send + draw) / 1e3, frames)

    def still(self, frame: int) -> bytes:
        """The message with the present picture alone."""
        return protocol.binary_message("frames", {**self.state(), "frame": frame}, [self.picture])

    def view(self) -> bytes:
        """The message with what the memory holds: the plan, and what it shows at the pose."""
        plan = self.session.plan()
        path = np.asarray(self.session.path, np.float64)
        picture, place = plan_picture(plan, path, self.layer)
        axes, every = Axes.of(plan.up), max(1, -(-len(path) // _PATH_POINTS))
        track = axes.flat(path[::-1][::every][::-1, :3, 3])
        frustum = axes.flat(plan.frustum - plan.frustum[0])
        fields = {
            **self.state(),
            **place,
            "layer": self.layer,
            "track": _rounded(track),
            "camera": _rounded(axes.flat(plan.pose[:3, 3])),
            "ahead": _rounded(axes.flat(plan.pose[:3, 2])),
            "frustum": _rounded(frustum[1:3]),
            "entities": [_entity(entity, axes) for entity in plan.entities[:_MOST_ENTITIES]],
        }
        shown = encoded(self.session.read_out())
        return protocol.binary_message("view", fields, [encoded_exactly(picture), shown])

    # -- what buttons do -------------------------------------------------------------------------

    def undo(self, steps: int) -> None:
        """Goes so many chunks back; ValueError if there are not so many."""
        self.session.undo(steps)
        self._moved_in_time()

    def redo(self, steps: int) -> None:
        """Goes so many forth again; ValueError if not so many were undone."""
        self.session.redo(steps)
        self._moved_in_time()

    def mark(self) -> None:
        """Keeps the present state as a branch.

        Raises:
          ValueError: if there are too many.
        """
        if len(self.branches) >= MAX_BRANCHES:
            raise ValueError(f"branch: found {MAX_BRANCHES} already, which are all that are kept")
        taken = self.session.timeline.marks
        name = next(name for n in itertools.count(1) if (name := f"branch {n}") not in taken)
        self.session.mark(name)
        frames = int(self.session.world.frames)
        self.branches.append(Branch(name, frames, self.thumbnail(), self.film.copy(), self.kind))
        self.changes += 1

    def go(self, number: int) -> None:
        """Goes to a branch; ValueError if there is none of that number."""
        if number >= len(self.branches):
            raise ValueError(f"branch: found {number}, expected less than {len(self.branches)}")
        branch = self.branches[number]
        if self.kinds is not None:
            self._walk_with(branch.kind)
        self.session.go(branch.name)
        self.picture = encoded(self.session.picture)
        frames = int(self.session.world.frames)
        begun = Film(frames - 1, [self.picture], self.film.max_bytes)
        self.film = branch.film.copy() if branch.film else begun
        self.changes += 1

    def edit(self, wanted: protocol.Edit) -> str:
        """Deletes, moves or swaps what the memory holds over a square of the plan; says how
        much."""
        plan = self.session.plan()
        axes, origin = Axes.of(plan.up), np.asarray(self.session.world.origin.space)
        height = float(axes.height(plan.pose[:3, 3]))
        reach = np.where(UPS[axes.up] == 0, wanted.radius, _COLUMN)
        here, there = (
            axes.point(place, height) - origin
            for place in ((wanted.x, wanted.z), (wanted.to_x, wanted.to_z))
        )
        one, other = (
            regions.Box(np.float32(middle - reach), np.float32(middle + reach))
            for middle in (here, there)
        )
        by = np.eye(4, dtype=np.float32)
        by[:3, 3] = there - here
        changes = {
            "delete": lambda mem: edit.delete(mem, one),
            "move": lambda mem: edit.move(mem, one, by),
            "swap": lambda mem: edit.swap(mem, one, other),
        }
        outcome = self.session.edit(changes[wanted.operation])
        self.changes += 1
        self.picture = encoded(self.session.picture)
        counts = {name: n for name, n in outcome.memory.items() if n}
        return ", ".join(f"{n:,} elements {name}" for name, n in counts.items()) or "nothing there"

    @property
    def kind(self) -> str:
        """Of the memory that is walked with; "" where there is one kind."""
        return "" if self.kinds is None else self.kinds.kind

    def follow(self, kind: str) -> int:
        """Brings another kind of memory a chunk further to where this walk is; the chunks that are
        left. ValueError if that cannot be."""
        if self.kinds is None:
            raise ValueError(f"memory: found kind {kind!r}, expected none, as there is one kind")
        return self.kinds.follow(kind)

    def set_memory(self, on: bool, kind: str = "") -> None:
        """Lets what is generated read the memory, or an emptied one; of another kind, which has
        come along (`follow`), if one is given."""
        if kind and kind != self.kind:
            self._walk_with(kind)
            self.picture = encoded(self.session.picture)
            self.changes += 1
        self.session.memory_on = on

    def _walk_with(self, kind: str) -> None:
        if self.kinds is not None:
            self.kinds.choose(kind)
            self.session = self.kinds.session

    @property
    def prompt(self) -> Prompt:
        """What the model was told."""
        return self.session.prompt or Prompt()

    def set_prompt(self, told: Embedded) -> None:
        """Has what is generated show a text; ValueError if it cannot be."""
        prompt = told.prompt
        self.session.set_prompt(told.text, told.negative_text, prompt.guidance, words=prompt)
        self.changes += 1

    def keyframe(self) -> int:
        """Makes the memory keep what it shows from here; says how many elements that is."""
        self.changes += 1
        return int(self.session.add_keyframe())

    def save(self, path: Path) -> None:
        """Writes the world."""
        self.session.save(path)
        self.saved = self.changes

    def thumbnail(self) -> bytes:
        """The present picture, made small."""
        return thumbnail(self.picture)

    def export(self, kind: str) -> Callable[[], bytes]:
        """What writes a file, see `exports.export`."""
        return export(kind, self.session, self.film, self.ledger)

    # -- what the page is told -------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Numbers that change with every chunk."""
        numbers = self.session.statistics()
        others = () if self.kinds is None else self.kinds.others
        self.bytes = sum(map(_bytes, (numbers, *(other.statistics() for other in others))))
        self.bytes += self.film.nbytes
        return {
            "pose": _rounded(self.session.pose),
            "frames": int(numbers["frames"]),
            "elements": int(numbers["elements"]),
            "capacity": int(numbers["capacity"]),
            "bytes": self.bytes,
            "undoable": int(numbers["undoable"]),
            "redoable": int(numbers["redoable"]),
            "memory_on": bool(self.session.memory_on),
            "memory_kind": self.kind,
            "prompt": self.prompt.text,
            "guidance": self.prompt.guidance,
        }

    def branch_list(self) -> list[dict[str, Any]]:
        """The branches, with their pictures as texts."""
        return [
            {"name": branch.name, "frame": branch.frame, "picture": data_uri(branch.picture)}
            for branch in self.branches
        ]

    def _moved_in_time(self) -> None:
        self.film.go_to(int(self.session.world.frames))
        self.picture = encoded(self.session.picture)  # edits change it, not the film
        self.changes += 1


def data_uri(picture: bytes) -> str:
    """An encoded picture as the address of one; empty if there is none."""
    return "data:image/jpeg;base64," + base64.b64encode(picture).decode() if picture else ""


def _bytes(numbers: Mapping[str, int]) -> int:
    """Of a session's memory and past; room is taken by what it can hold, not by what it does."""
    per_element = numbers["bytes"] / max(int(numbers["elements"]), 1)
    return round(per_element * int(numbers["capacity"])) + int(numbers["undo_bytes"])


def _rounded(numbers: Any) -> list[Any]:
    return np.round(np.asarray(numbers, np.float64), 5).tolist()


def _entity(entity: Any, axes: Axes) -> dict[str, Any]:
    track = axes.flat(np.asarray(entity["track"], np.float64)[-_PATH_POINTS:])
    return {"name": str(entity["name"])[:40], "track": _rounded(track)}
