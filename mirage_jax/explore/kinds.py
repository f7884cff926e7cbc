"""One walk with each kind of memory that there are weights for, to compare what they show.

All kinds begin at the picture that the walk began at. One of them is walked with; another that is
chosen is first brought along the same path, chunk by chunk, and has what it remembered before.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from mirage_jax.geometry import Camera
from mirage_jax.world import WorldModel
from mirage_jax.world.session import Session

SAME = 1e-5
"""Difference of two poses that are the same but for rounding, metres and cosines."""


class Kinds:
    """The sessions of a walk.

    Attributes:
      session: the one that is walked with.
      names: of all kinds there are.
    """

    def __init__(self, session: Session, models: Mapping[str, WorldModel]) -> None:
        """Begins where a session is.

        Args:
          session: the walk, with one of the models.
          models: by kind of their memory.
        """
        self.session = session
        self.names = tuple(models)
        self._models = models
        self._sessions = {self.kind: session}
        self._begun = session.picture, session.pose, np.asarray(session.world.intrinsics)
        self._skipped = {self.kind: len(session.path) - 1}

    @property
    def kind(self) -> str:
        """Of the memory that is walked with."""
        return kind_of(self.session, self._models)

    @property
    def others(self) -> tuple[Session, ...]:
        """The sessions that are not walked with."""
        return tuple(one for one in self._sessions.values() if one is not self.session)

    def follow(self, kind: str) -> int:
        """Brings another kind a chunk further along the path of this walk.

        Returns:
          Chunks that are left to where the walk is.

        Raises:
          ValueError: if there is no such kind, or it cannot be undone as far as this walk was.
        """
        if kind not in self.names:
            raise ValueError(f"memory: found {kind!r}, expected one of {', '.join(self.names)}")
        path = self._path(self.kind)
        other = self._sessions.get(kind) or self._begin(kind)
        shared = _shared(self._path(kind), path)
        while len(self._path(kind)) > shared and other.timeline.undoable:
            other.undo()
        walked = len(self._path(kind))
        if not 0 < walked <= shared:
            raise ValueError(
                f"memory: found the walk with {kind} memory {walked - shared} frames beyond where "
                "this one turned off, and nothing more to undo"
            )
        self._tell(other)
        chunk = other.options.chunk_frames - 1
        left = (len(path) - walked) // chunk
        if left:
            other.step(poses=path[walked : walked + chunk])
        return max(left - 1, 0)

    def choose(self, kind: str) -> None:
        """Walks on with another kind, which has come along (`follow`)."""
        other = self._sessions[kind]
        self._tell(other)
        other.memory_on, other.options = self.session.memory_on, self.session.options
        self.session = other

    def _tell(self, other: Session) -> None:
        """Has another session follow the prompt that is followed now."""
        told, prompt = self.session.model, self.session.prompt
        if told.text is not None and other.prompt != prompt:
            guidance = 1.0 if told.guidance is None else float(told.guidance)
            other.set_prompt(told.text, told.negative_text, guidance, words=prompt)

    def _begin(self, kind: str) -> Session:
        picture, pose, lens = self._begun
        model = self._models[kind]
        camera = Camera(lens, pose, model.size)
        session = Session(model, picture, options=self.session.options, camera=camera)
        self._sessions[kind], self._skipped[kind] = session, 0
        return session

    def _path(self, kind: str) -> Float[np.ndarray, "f 4 4"]:
        """Of a session, from where all kinds begin."""
        return self._sessions[kind].path[self._skipped[kind] :]


def kind_of(session: Session, models: Mapping[str, WorldModel]) -> str:
    """Which of the models a session has, by the memory that it writes."""
    found = session.model.conditioner.kind
    return next(name for name, model in models.items() if model.conditioner.kind == found)


def _shared(one: Float[np.ndarray, "f 4 4"], other: Float[np.ndarray, "g 4 4"]) -> int:
    """How many poses two paths begin with alike."""
    count = min(len(one), len(other))
    differs = np.flatnonzero((np.abs(one[:count] - other[:count]) > SAME).any(axis=(1, 2)))
    return int(differs[0]) if len(differs) else count
