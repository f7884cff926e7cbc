"""What a recorded frame would have shown, had bodies been elsewhere, others, or not there at all.

    with replay(clip) as scene:
        scene.render(20, without=[1])
        scene.render(20, moved={1: (3.0, 2.5, 0.0)})
        scene.render(20, swapped=(1, 2))
        scene.render(20, without_props=[0])

The world comes from the clip's name for it, cameras and bodies from the states that it was stored
with: `render(frame)` is the recorded frame, bit for bit.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import numpy as np
from jaxtyping import Float

from data_pipelines import sources
from data_pipelines.clip import Bodies, Clip
from data_pipelines.sources import bodies
from data_pipelines.sources.bodies import Walkers
from data_pipelines.sources.stage import Placed, Stage, StagedSource, View

State = tuple[float, float, float]
"""x and y in metres, and the heading in radians, of a body that stands on the floor."""


@dataclasses.dataclass(frozen=True)
class Replay:
    """A recorded clip in its world, open for rendering.

    Attributes:
      clip: with the states of its bodies.
      stage: its world.
    """

    clip: Clip
    stage: Stage

    @property
    def bodies(self) -> Bodies:
        assert self.clip.bodies is not None  # `replay` has checked
        return self.clip.bodies

    def index(self, number: int) -> int:
        """Which of the clip's bodies has an id."""
        return self.bodies.ids.tolist().index(number)

    def render(
        self,
        frame: int,
        *,
        without: Sequence[int] = (),
        moved: Mapping[int, State] | None = None,
        swapped: tuple[int, int] | None = None,
        looks: Mapping[int, str] | None = None,
        without_props: Sequence[int] = (),
        alone: bool = False,
    ) -> View:
        """Renders a frame's view.

        Args:
          frame: number within the clip.
          without: ids of the bodies to leave out.
          moved: states of bodies that are elsewhere, by id.
          swapped: ids of two bodies of which each is where the other is.
          looks: other looks, by id.
          without_props: numbers of things to leave out, of those that `Stage.props` has.
          alone: leave out the world; see `stage.Stage.view`.

        Raises:
          ValueError: a frame, an id, a look or a prop that there is not.
        """
        if not 0 <= frame < self.clip.frames:
            raise ValueError(f"frame: found {frame}, expected 0 to {self.clip.frames - 1}")
        moved, looks = dict(moved or {}), dict(looks or {})
        known = self.bodies.ids.tolist()
        for number in (*without, *moved, *(swapped or ()), *looks):
            if number not in known:
                raise ValueError(f"body: found id {number}, expected one of {known}")
        for number in without_props:
            if not 0 <= number < len(self.stage.props):
                raise ValueError(
                    f"prop: found {number}, expected one of the {len(self.stage.props)} that the "
                    "world has, from 0"
                )
        if swapped is not None:
            one, other = swapped
            moved |= {one: self.state(frame, other), other: self.state(frame, one)}
        stood = [self._placed(frame, n, moved, looks) for n in known if n not in without]
        return self.stage.view(
            self.clip.cam2world[frame], tuple(stood), without=tuple(without_props), alone=alone
        )

    def state(self, frame: int, number: int) -> State:
        """Where a body is at a frame."""
        pose = self.bodies.body2world[frame, self.index(number)]
        return float(pose[0, 3]), float(pose[1, 3]), float(np.arctan2(pose[1, 0], pose[0, 0]))

    def walk_on(self, frame: int, number: int, steps: int) -> Float[np.ndarray, "t 3"]:
        """States of a body at `steps` simulated frames from one on, those left out included."""
        index = self.index(number)
        start = bodies.walkers_of(self.bodies, frame)[index : index + 1]
        return self.simulate(start, self.bodies.kinds[index], steps)

    def simulate(self, start: Walkers, kind: str, steps: int) -> Float[np.ndarray, "t 3"]:
        """States at `steps` simulated frames of one body from a state on, the first included."""
        radius, seconds = bodies.radii((kind,)), 1.0 / self.clip.fps
        walked = bodies.walk(self.stage.ground, start, radius, steps, seconds)
        return np.column_stack([walked.positions[:, 0], walked.headings[:, 0]])

    def _placed(
        self, frame: int, number: int, moved: Mapping[int, State], looks: Mapping[int, str]
    ) -> Placed:
        index = self.index(number)
        kind, look = self.bodies.kinds[index], looks.get(number, self.bodies.looks[index])
        pose = self.bodies.body2world[frame, index]
        if number in moved:
            x, y, heading = (np.array([value], float) for value in moved[number])
            still = Walkers(np.stack([x, y], -1), heading, np.zeros(1), np.zeros(1))
            pose = bodies.body2world(still, (kind,))[0]
        return Placed(number, kind, look, pose)


@contextlib.contextmanager
def replay(clip: Clip) -> Iterator[Replay]:
    """Opens a clip's world; RuntimeError where its engine cannot run here.

    Raises:
      ValueError: naming the clip, if it has no bodies, or a source whose worlds cannot be opened.
    """
    with open_world(clip) as stage:
        yield Replay(clip, stage)


@contextlib.contextmanager
def open_world(clip: Clip) -> Iterator[Stage]:
    """The world of a clip as a stage, for several clips of one world; raises as `replay` does."""
    if clip.bodies is None:
        raise ValueError(f"clip {clip.name!r}, bodies: found none, expected their states")
    if clip.source not in sources.SOURCES:
        raise ValueError(f"clip {clip.name!r}, source: found {clip.source!r}, which is unknown")
    kind = sources.source_class(clip.source)
    if not issubclass(kind, StagedSource):
        raise ValueError(
            f"clip {clip.name!r}, source: found {clip.source!r}, whose worlds cannot be opened"
        )
    height, width = clip.size
    source = cast(StagedSource, kind.with_lens(height, width, clip.intrinsics[0]))
    with source.open_stage(clip.world) as stage:
        yield stage
