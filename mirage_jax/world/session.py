"""Walking through a world, chunk by chunk, by what is held on a keyboard.

    session = Session(mirage.load("runs/quickstart"), picture)
    session.warm_up()
    step = session.step("w")           # four new frames, step.video, and where they were seen from
    session.undo()
    session.save("here.world")

Nothing is compiled between `warm_up` and the end, whatever one does. A session is not thread-safe.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from mirage_jax import memory
from mirage_jax.geometry import Camera
from mirage_jax.memory import LatentMemory
from mirage_jax.origin import Origin, check_positions
from mirage_jax.world import controls, on_mesh, plan, session_files
from mirage_jax.world.chunk_step import ChunkStep, chunk_number
from mirage_jax.world.controls import Controls
from mirage_jax.world.editing import EditOutcome, edit_world
from mirage_jax.world.latent_encoder import to_uint8
from mirage_jax.world.model import WorldModel
from mirage_jax.world.plan import Plan
from mirage_jax.world.prompting import Prompt, prompted, saved_prompt
from mirage_jax.world.session_parts import SessionOptions, SharedMemory, StageClock, Step
from mirage_jax.world.state import World, check_world
from mirage_jax.world.timeline import Timeline, TimelineOptions
from mirage_jax.world.trail import Trail
from mirage_jax.world.warming import warm_up
from mirage_jax.world.world_file import WorldFile, read_world_file, write_world_file


class Session:
    """Someone who walks through a world, and can go back.

    Attributes:
      model: the trained parts, with the session's length of a chunk.
      options: how to walk.
      memory_on: whether chunks see what is remembered; if not they are generated as with an empty
        memory (context frames stay), and still written.
      prompt: what the model was told in words, by `set_prompt` or before a file was saved, if that
        is known; files keep it.
    """

    def __init__(
        self,
        model: WorldModel,
        start: World | WorldFile | UInt8[np.ndarray, "height width 3"],
        *,
        options: SessionOptions = SessionOptions(),
        camera: Camera | None = None,
    ) -> None:
        """Begins; nothing is compiled yet but what makes a world of a picture.

        Args:
          model: the trained parts.
          start: a world, the file of one, or a picture of the model's size.
          options: how to walk.
          camera: of the picture, as of `WorldModel.start`.

        Raises:
          ValueError: if the model cannot continue the world, or a camera is given without a
            picture.
        """
        model = model.replace(chunk_frames=options.chunk_frames)  # type: ignore[attr-defined]
        picture = None
        if isinstance(start, World | WorldFile):
            if camera is not None:
                raise ValueError("camera: found one beside a world, expected one with a picture")
            file = start if isinstance(start, WorldFile) else WorldFile(start)
        else:
            picture = np.asarray(start)
            file = WorldFile(model.start(picture, camera))
        check_world(file.world, model)
        file = dataclasses.replace(file, world=on_mesh.place_world(file.world))
        self.model, self.options, self.memory_on = model, options, True
        self.prompt = saved_prompt(file.provenance)
        self._chunk = ChunkStep(model)
        self._key = jax.random.key(options.seed)
        self._file = file
        self._up = controls.upwards(file.world.pose, options.up)
        self._lens = jnp.asarray(
            np.tile(np.asarray(file.world.intrinsics, np.float32), (options.chunk_frames, 1))
        )
        self._nothing = jnp.zeros_like(file.world.bank.valid)
        self._colours = plan.TokenColours(file.world.latent.shape[-1])
        self._memory = SharedMemory(file.world.bank, self)
        self._kept = TimelineOptions(options.undo_steps, options.undo_bytes)
        self._timeline = Timeline.from_file(file, self._kept)
        trails = {
            b.name: Trail.of(b.world, b.camera_path) for b in file.branches if b.world is not None
        }
        self._trails = {self._timeline.marked(name): trail for name, trail in trails.items()}
        self._trail: Trail
        self._become(file.world, Trail.of(file.world, file.camera_path, picture))
        self._trails[self._timeline.present] = self._trail
        self._unrecorded = ""

    @classmethod
    def load(
        cls, model: WorldModel, path: str | Path, *, options: SessionOptions = SessionOptions()
    ) -> Session:
        """Goes on where a file was saved, its branches being marks; errors as of
        `read_world_file`."""
        return cls(model, read_world_file(path, model), options=options)

    def __repr__(self) -> str:
        return f"Session({self.world}, {self.walkers} walking)"

    # -- where it is -----------------------------------------------------------------------------

    @property
    def world(self) -> World:
        """The present state, with all that is remembered."""
        return self._state.replace(  # type: ignore[attr-defined]
            bank=self._memory.bank, origin=self._file.origin
        )

    @property
    def pose(self) -> Float[np.ndarray, "4 4"]:
        """cam2world, float64, in the coordinates the world comes from."""
        return self._trail.pose

    @property
    def path(self) -> Float[np.ndarray, "f 4 4"]:
        """Poses of all frames walked, the one where it began included; undone ones are gone."""
        return self._trail.path

    @property
    def camera(self) -> Camera:
        """The present camera, in the coordinates of the memory."""
        pose = self._file.origin.relative(self.pose).astype(np.float32)
        return Camera(self._lens[0], jax.device_put(pose), self.model.size)

    @property
    def picture(self) -> UInt8[np.ndarray, "height width 3"]:
        """The last frame; after an edit or from a file, as its latent alone is decoded."""
        if (found := self._trail.picture) is None:
            found = to_uint8(plan.decode_frame(self.model.encoder, self._state.latent))
            self._trail = dataclasses.replace(self._trail, picture=found)
        return found

    @property
    def walkers(self) -> int:
        """How many walk in this memory."""
        return len(self._memory.walkers)

    @property
    def timeline(self) -> Timeline:
        """What can be undone."""
        self._settle()
        return self._timeline

    # -- going on --------------------------------------------------------------------------------

    def warm_up(self, progress: Callable[[str, float], None] | None = None) -> None:
        """Compiles all that a session ever runs; the state stays.

        Args:
          progress: told what is compiled next, and which share of all is done.
        """
        warm_up(self, progress or (lambda what, share: None))

    def step(
        self,
        held: Controls | Iterable[str] = (),
        *,
        poses: Float[np.ndarray, "f 4 4"] | None = None,
    ) -> Step:
        """Generates the next chunk and remembers it.

        Args:
          held: during this chunk, as keys of `Controls.of_keys` or as `Controls`.
          poses: of the new frames, as in `path`, in place of where that leads.

        Raises:
          ValueError: for a key there is none of, poses of another number, latents that are not
            finite, or a place so far that float32 does not keep it; the state is then as before.
        """
        clock = StageClock()
        held = held if isinstance(held, Controls) else Controls.of_keys(held)
        state = self._present()
        poses, blocked = self._next_poses(state, held, poses)
        camera = self._cameras(poses)
        clock("input", None)
        seen = state
        if not self.memory_on:
            seen = state.replace(bank=state.bank.replace(valid=self._nothing))  # type: ignore[attr-defined]
        number = chunk_number(int(state.frames), self.model.chunk_frames)
        self._chunk.clock = clock
        generated = self._chunk.generate(seen, camera, self._key, number, meanwhile=self._settle)
        after, report = self._chunk.remember(state, generated, camera)
        video = to_uint8(generated.pictures)[1:]
        moved = not np.array_equal(poses[-1], self.pose)
        self._memory.bank = after.bank
        self._become(after, self._trail.walked(poses, video[-1]))
        self._colours.add(after.latent, video[-1])
        self._unrecorded = "chunk"
        counts = {name: int(n) for name, n in jax.device_get(report.counts).items()}
        clock("total", None)
        return Step(video, poses, counts, clock.stages, blocked, moved, number)

    def _next_poses(
        self, state: World, held: Controls, poses: Float[np.ndarray, "f 4 4"] | None
    ) -> tuple[Float[np.ndarray, "f 4 4"], bool]:
        origin, frames = self._file.origin, self.model.chunk_frames - 1
        if poses is not None:
            moved = controls.along(origin.relative(poses), frames)
        else:
            start = origin.relative(self.pose)
            moved = controls.walk_in(state.bank, start, held, frames, self.options, self._up)
        check_positions(moved.poses[:, :3, 3], "session: position")
        return origin.absolute(moved.poses), moved.blocked

    def _cameras(self, poses: Float[np.ndarray, "f 4 4"]) -> Camera:
        """Of a chunk that starts at the present pose."""
        along = self._file.origin.relative(np.concatenate([self.pose[None], poses]))
        return Camera(self._lens, jax.device_put(along.astype(np.float32)), self.model.size)

    def _present(self) -> World:
        return self._state.replace(bank=self._memory.bank)  # type: ignore[attr-defined]

    def _become(self, world: World, trail: Trail) -> None:
        # What is compiled would be compiled again for every other origin.
        self._state = world.replace(origin=Origin())  # type: ignore[attr-defined]
        self._trail = trail

    def set_prompt(
        self,
        text: Any,
        negative_text: Any = None,
        guidance: float = 1.0,
        *,
        words: Prompt | None = None,
    ) -> None:
        """Says what chunks from here on show, `words` being the same for files of the world; other
        arguments and errors as of `prompting.prompted`."""
        self.model = prompted(self.model, text, negative_text, guidance)
        self._chunk.model, self.prompt = self.model, words

    # -- going back ------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Records the present state, if it is not yet, unless others write to the memory too."""
        if not self._unrecorded or self.walkers > 1:
            return
        self._timeline.record(self.world, self._unrecorded)
        self._unrecorded = ""
        self._trails[self._timeline.present] = self._trail
        kept = self._timeline.kept
        self._trails = {number: t for number, t in self._trails.items() if number in kept}

    def _go(self, what: str, change: Callable[[], World]) -> None:
        if self.walkers > 1:
            raise ValueError(
                f"{what}: found {self.walkers} who walk in this memory, expected one, as what the "
                "others wrote would be lost; `leave()` goes on in a copy"
            )
        self._settle()
        world = change()
        self._memory.bank = world.bank
        self._become(world, self._trails[self._timeline.present])

    def undo(self, steps: int = 1) -> None:
        """Goes back so many chunks or edits.

        Raises:
          ValueError: if there are not so many, or others walk in this memory.
        """
        self._go("undo", lambda: self._timeline.undo(steps))

    def redo(self, steps: int = 1) -> None:
        """Takes back so many `undo`; errors as there."""
        self._go("redo", lambda: self._timeline.redo(steps))

    def mark(self, name: str) -> None:
        """Names the present state, to `go` to; it is saved as a branch.

        Raises:
          ValueError: if there is a mark of that name, or others walk in this memory.
        """
        self._go("mark", lambda: self._timeline.world)
        self._timeline.mark(name)

    def go(self, name: str) -> None:
        """Goes to a marked state, on whichever branch it is.

        Raises:
          ValueError: if there is no mark of that name, or others walk in this memory.
        """
        self._go("go", lambda: self._timeline.return_to(name))

    # -- beside each other -----------------------------------------------------------------------

    def branch(self) -> Session:
        """Another session that goes on from here by itself; it shares arrays, and has nothing to
        undo yet."""
        other = self._beside()
        other._memory = SharedMemory(self._memory.bank, other)
        return other

    def share(self) -> Session:
        """A second walker in the same memory, standing here: what one has written the other sees.

        Steps of either are not undone while there are several; once one is alone again, all of
        that time is one step to undo.
        """
        self._settle()
        other = self._beside()
        other._memory.walkers.add(other)
        self._unrecorded = other._unrecorded = "shared"
        return other

    def leave(self) -> None:
        """Goes on in a copy of the memory, if others walk in it."""
        if self.walkers > 1:
            self._memory.walkers.discard(self)
            self._memory = SharedMemory(self._memory.bank, self)

    def _beside(self) -> Session:
        other = copy.copy(self)
        other._chunk = ChunkStep(self.model)
        other._colours = copy.deepcopy(self._colours)
        other._file = dataclasses.replace(self._file, branches=())
        other._timeline = Timeline(self.world, self._kept)
        other._trails, other._unrecorded = {other._timeline.present: self._trail}, ""
        return other

    # -- what is remembered ----------------------------------------------------------------------

    def read_out(self) -> UInt8[np.ndarray, "height width 3"]:
        """What the memory alone shows from here, decoded; black where it holds nothing."""
        return plan.read_out(self.model, self._memory.bank, self.camera, self._state.movers)

    def plan(self) -> Plan:
        """What the memory holds, to be drawn from above."""
        bank, movers = self._memory.bank, self._state.movers
        return plan.of_memory(bank, self._file.origin, self.camera, self._colours, self._up, movers)

    def add_keyframe(self) -> int:
        """Pins what the memory shows from here: it stays, whatever is written; its number of
        elements."""
        shown = plan.shown_elements(self.model, self._memory.bank, self.camera)
        self.edit(lambda bank: memory.edit.pin(bank, shown))
        return int(np.sum(np.asarray(shown)))

    def edit(self, operation: Callable[[LatentMemory], tuple[LatentMemory, Any]]) -> EditOutcome:
        """Changes what is remembered, and what else of the present state shows it.

        Args:
          operation: such as `lambda bank: memory.edit.delete(bank, region)`; regions are in the
            memory's coordinates, which begin at `world.origin`.
        """
        self._settle()
        cells = self.model.conditioner.cells
        world, outcome = edit_world(self._present(), operation, self.model.size, cells=cells)
        self._memory.bank = world.bank
        changed = outcome.last_frame_mended > 0
        trail = dataclasses.replace(self._trail, picture=None) if changed else self._trail
        self._become(world, trail)
        self._unrecorded = "edit"
        return outcome

    def statistics(self) -> dict[str, int]:
        """Numbers for people: what the memory holds, what became of the rest, what can be undone.

        "bytes" are those of the elements there are, "undo_bytes" those of the past.
        """
        timeline = self.timeline
        return plan.counts(self._memory.bank) | {
            "frames": int(self._state.frames),
            "walkers": self.walkers,
            "undoable": timeline.undoable,
            "redoable": timeline.redoable,
            "undo_bytes": timeline.nbytes,
            "forgotten": timeline.forgotten,
        }

    # -- files -----------------------------------------------------------------------------------

    def to_file(self) -> WorldFile:
        """The present state, its path and all marks, with what else the file held it came from."""
        return session_files.to_file(self)

    def save(self, path: str | Path) -> None:
        """Writes the world as a file, from which `load` goes on bit for bit; errors as of
        `write_world_file`."""
        write_world_file(path, self.to_file())
