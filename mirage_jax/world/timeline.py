"""The course of a world: undo, redo, named marks, and branches that grow from them.

    timeline = Timeline(world)
    for chunk in rollout(model, timeline.world, path):
        timeline.record(chunk.world)
    timeline.mark("at the door")
    timeline.undo(3)

The states form a tree; of all but the present one only the difference to their neighbour is kept,
in the memory of the host (see `patches`). Any of them is restored bit for bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from mirage_jax.settings import Settings, setting
from mirage_jax.world.branches import in_order, shortened
from mirage_jax.world.patches import Patch, apply_patch, compose, make_patch
from mirage_jax.world.state import World
from mirage_jax.world.world_file import Branch, WorldFile


@dataclasses.dataclass(frozen=True)
class TimelineOptions(Settings):
    """How much of the past is kept."""

    steps: int = setting(32, "States that can be undone; marked ones are kept beside.", least=1)
    max_bytes: int = setting(
        2**30,
        "Bytes for all states but the present one; the oldest go first, marked ones last.",
        least=0,
    )


@dataclasses.dataclass
class _State:
    """One state of the tree; `redo` is the child that was undone or gone on to last."""

    parent: int | None
    frame: int
    label: str
    marks: list[str] = dataclasses.field(default_factory=list)
    redo: int | None = None


class Timeline:
    """A world and the states that it had, of which one is the present one.

    Attributes:
      world: the present state.
      options: how much is kept.
      forgotten: states that went because there were too many or they took too much.
      forgotten_marks: names of marks among them.
    """

    def __init__(self, world: World, options: TimelineOptions = TimelineOptions()) -> None:
        """Begins with a state that cannot be undone."""
        self.world = world
        self.options = options
        self.forgotten = 0
        self.forgotten_marks: list[str] = []
        self._states = {0: _State(None, int(world.frames), "start")}
        # Between neighbours; each makes the one that is farther from the present state.
        self._patches: dict[frozenset[int], Patch] = {}
        self._present = 0
        self._next = 1

    def __repr__(self) -> str:
        marks = ", ".join(self.marks) or "none"
        return f"Timeline({self.world}, {self.undoable} to undo, marks: {marks})"

    # -- going on and back -----------------------------------------------------------------------

    def record(self, world: World, label: str = "chunk") -> None:
        """Goes on to a new state. What was undone before and is not marked is forgotten.

        Args:
          world: the state, of a chunk or after an edit.
          label: what made it, for people.
        """
        self._go(self._add(world, label))
        self._forget_undone()
        self._trim()

    def undo(self, steps: int = 1) -> World:
        """Goes back, and gives the present state then.

        Raises:
          ValueError: if there are not so many states; the present one stays.
        """
        before = self._ancestors()[:steps]
        if not 0 < steps <= len(before):
            raise ValueError(f"undo: found {steps} steps, expected 1 to {self.undoable}")
        for number in before:
            self._go(number)
        return self.world

    def redo(self, steps: int = 1) -> World:
        """Takes back so many `undo`, and gives the present state then.

        Raises:
          ValueError: if not so many were undone; the present one stays.
        """
        undone = list(self._redoable())
        if not 0 < steps <= len(undone):
            raise ValueError(f"redo: found {steps} steps, expected 1 to {len(undone)}")
        for number in undone[:steps]:
            self._go(number)
        return self.world

    @property
    def undoable(self) -> int:
        """How many steps `undo` can take."""
        return len(self._ancestors())

    @property
    def redoable(self) -> int:
        """How many steps `redo` can take."""
        return len(list(self._redoable()))

    @property
    def present(self) -> int:
        """Number of the present state; no other of this timeline ever has it."""
        return self._present

    @property
    def kept(self) -> tuple[int, ...]:
        """Numbers of all states there are."""
        return tuple(self._states)

    @property
    def nbytes(self) -> int:
        """Bytes that all states but the present one take."""
        return sum(patch.nbytes for patch in self._patches.values())

    # -- marks and branches ----------------------------------------------------------------------

    @property
    def marks(self) -> dict[str, int]:
        """Numbers of the frames that the marked states end with, by name."""
        return {name: s.frame for s in self._states.values() for name in s.marks}

    def mark(self, name: str) -> None:
        """Names the present state, which is then kept when others go.

        Raises:
          ValueError: if there is a mark of that name.
        """
        if name in self.marks:
            raise ValueError(f"mark: found {name!r} twice, expected another name")
        self._states[self._present].marks.append(name)

    def marked(self, name: str) -> int:
        """Number of a marked state.

        Raises:
          ValueError: if there is no mark of that name.
        """
        for number, state in self._states.items():
            if name in state.marks:
                return number
        known = ", ".join(self.marks) or "none"
        raise ValueError(f"mark: found {name!r}, expected one of those there are: {known}")

    def unmark(self, name: str) -> None:
        """Takes a name away; the state may go with the next that is recorded."""
        self._states[self.marked(name)].marks.remove(name)

    def at(self, name: str) -> World:
        """A marked state; the present one stays.

        Raises:
          ValueError: if there is no mark of that name.
        """
        world, last = self.world, self._present
        for number in self._path(self.marked(name)):
            world, last = apply_patch(self._patches[_edge(last, number)], world), number
        return world

    def return_to(self, name: str) -> World:
        """Goes to a marked state, on whichever branch it is, and gives it.

        What is recorded then begins a branch.

        Raises:
          ValueError: if there is no mark of that name.
        """
        for number in self._path(self.marked(name)):
            self._go(number)
        return self.world

    def keep(self, name: str, world: World, label: str = "") -> None:
        """Adds a marked state beside the present one, e.g. from a file."""
        if name in self.marks:
            raise ValueError(f"mark: found {name!r} twice, expected another name")
        self._states[self._add(world, label)].marks.append(name)
        self._trim()

    # -- files -----------------------------------------------------------------------------------

    @classmethod
    def from_file(
        cls,
        file: WorldFile,
        options: TimelineOptions = TimelineOptions(),
    ) -> Timeline:
        """The world of a file, with its branches as marks."""
        timeline = cls(file.world, options)
        for branch in file.branches:
            if branch.world is not None:
                timeline.keep(branch.name, branch.world, branch.created_from)
        return timeline

    def to_file(self, file: WorldFile) -> WorldFile:
        """`file` with the present state as its world, and with all marks as branches.

        What can be undone is not in it, nor a camera path that ends before the state does. Marks of
        frames alone and branches whose names are no marks stay as they are.
        """
        known = {branch.name: branch for branch in file.branches}
        added: list[Branch] = []
        for number in sorted(self._states):
            state = self._states[number]
            for name in state.marks:
                branch = known.pop(name, None) or Branch(
                    name,
                    state.frame - 1,
                    self._marked_ancestor(number),
                    state.label,
                    camera_path=shortened(file.camera_path, state.frame),
                )
                added.append(dataclasses.replace(branch, world=self.at(name)))
        branches = in_order((*known.values(), *added))
        path = shortened(file.camera_path, int(self.world.frames))
        return dataclasses.replace(file, world=self.world, camera_path=path, branches=branches)

    # -- the tree --------------------------------------------------------------------------------

    def _add(self, world: World, label: str) -> int:
        number, self._next = self._next, self._next + 1
        self._states[number] = _State(self._present, int(world.frames), label)
        self._patches[_edge(self._present, number)] = make_patch(self.world, world)
        return number

    def _go(self, number: int) -> None:
        """Makes a neighbour the present state; the patch between them then leads back."""
        edge = _edge(self._present, number)
        world = apply_patch(self._patches[edge], self.world)
        self._patches[edge] = make_patch(world, self.world)
        before, after = self._states[self._present], self._states[number]
        if after.parent == self._present:
            before.redo = number
        else:
            after.redo = self._present
        self._present, self.world = number, world

    def _ancestors(self, number: int | None = None) -> list[int]:
        """Parent, its parent and so on, by default of the present state."""
        found, state = [], self._states[self._present if number is None else number]
        while state.parent is not None:
            found.append(state.parent)
            state = self._states[state.parent]
        return found

    def _children(self, number: int) -> list[int]:
        return [n for n, state in self._states.items() if state.parent == number]

    def _redoable(self) -> Iterator[int]:
        number = self._states[self._present].redo
        while number is not None:
            yield number
            number = self._states[number].redo

    def _path(self, number: int) -> list[int]:
        """Neighbour after neighbour from the present state to another."""
        up = [self._present, *self._ancestors()]
        down = [number, *self._ancestors(number)]
        shared = next(n for n in up if n in down)
        return [*up[1 : up.index(shared) + 1], *reversed(down[: down.index(shared)])]

    def _marked_ancestor(self, number: int) -> str | None:
        marks = [self._states[n].marks for n in self._ancestors(number)]
        return next((names[0] for names in marks if names), None)

    # -- forgetting ------------------------------------------------------------------------------

    def _forget_undone(self) -> None:
        """Removes what leads to nothing: neither to a mark nor to the present state."""
        while ends := [n for n in self._removable() if not self._children(n)]:
            for number in ends:
                self._remove(number)

    def _trim(self) -> None:
        for number in self._ancestors()[self.options.steps :]:
            if number in self._removable():
                self._forget(number)
        while self.nbytes > self.options.max_bytes and len(self._states) > 1:
            if not self._removable():
                oldest = min(n for n, s in self._states.items() if s.marks and n != self._present)
                self.forgotten_marks += self._states[oldest].marks
                self._states[oldest].marks.clear()
            else:
                self._forget(min(self._removable()))

    def _removable(self) -> list[int]:
        """States that are neither present nor marked, nor where branches part."""
        return [
            number
            for number, state in self._states.items()
            if number != self._present and not state.marks and len(self._children(number)) < 2
        ]

    def _forget(self, number: int) -> None:
        self._remove(number)
        self.forgotten += 1

    def _remove(self, number: int) -> None:
        parent, children = self._states[number].parent, self._children(number)
        towards = self._path(number)[-2] if len(self._path(number)) > 1 else self._present
        patches = {
            n: self._patches.pop(_edge(number, n)) for n in (parent, *children) if n is not None
        }
        if children:
            self._states[children[0]].parent = parent
        if children and parent is not None:
            (beyond,) = {parent, children[0]} - {towards}
            self._patches[_edge(parent, children[0])] = compose(patches[towards], patches[beyond])
        for state in self._states.values():
            if state.redo == number:
                state.redo = children[0] if children else None
        del self._states[number]


def _edge(one: int, other: int) -> frozenset[int]:
    return frozenset((one, other))
