"""Worlds as environments of agents, in the manner of gymnasium: `reset` and `step`.

gymnasium is not needed: where it is installed these are environments of its kind, with its spaces,
else the spaces are None. An action is five numbers in [-1, 1], the fields of `Controls` in their
order; an observation is the last frame, uint8 [H, W, 3].
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
from jaxtyping import UInt8

from mirage_jax.world.controls import Controls
from mirage_jax.world.model import WorldModel
from mirage_jax.world.session import Session
from mirage_jax.world.session_parts import SessionOptions, Step
from mirage_jax.world.state import World

ACTIONS = tuple(field.name for field in dataclasses.fields(Controls))
"""What the numbers of an action are."""

Start = World | UInt8[np.ndarray, "height width 3"]


def controls_of_action(action: Any) -> Controls:
    """The controls of an action.

    Raises:
      ValueError: unless it is five finite numbers; those beyond [-1, 1] count as its ends.
    """
    values = np.asarray(action, np.float64)
    if values.shape != (len(ACTIONS),) or not np.isfinite(values).all():
        raise ValueError(
            f"action: found {action!r}, expected {len(ACTIONS)} numbers: {', '.join(ACTIONS)}"
        )
    return Controls(*np.clip(values, -1.0, 1.0).tolist())


def base(name: str, module: str = "gymnasium") -> type:
    """A class of gymnasium to build on; `object` without it."""
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError:
        return object


def spaces(size: tuple[int, int], count: int | None = None) -> tuple[Any, Any]:
    """The spaces of actions and observations, of `count` walkers; None without gymnasium."""
    try:
        from gymnasium.spaces import Box
    except ImportError:
        return None, None
    lead = () if count is None else (count,)
    actions = Box(-1.0, 1.0, (*lead, len(ACTIONS)), np.float32)
    return actions, Box(0, 255, (*lead, *size, 3), np.uint8)


class Environment(base("Env")):  # type: ignore[misc]
    """One walker in a world.

    Attributes:
      session: the walk since the last `reset`.
      action_space, observation_space: of gymnasium, or None without it.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}
    render_mode = "rgb_array"

    def __init__(
        self,
        model: WorldModel,
        start: Start,
        *,
        options: SessionOptions = SessionOptions(),
        reward: Callable[[Session, Step], float] = lambda session, step: 0.0,
        terminated: Callable[[Session, Step], bool] = lambda session, step: False,
        max_steps: int = 0,
    ) -> None:
        """Compiles nothing yet.

        Args:
          model: the trained parts.
          start: where every episode begins, a world or a picture.
          options: of the session; the seed of a `reset` takes the place of its own.
          reward: of a step.
          terminated: whether a step ended the episode.
          max_steps: after which episodes are truncated; 0: never.
        """
        self._model, self._options = model, options
        self._start = start if isinstance(start, World) else model.start(start)
        self._reward, self._terminated, self._max_steps = reward, terminated, max_steps
        self.action_space, self.observation_space = spaces(model.size)
        self._begin()

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[UInt8[np.ndarray, "height width 3"], dict[str, Any]]:
        """Back to where every episode begins.

        Args:
          seed: of the noise from now on; None: as before.
          options: not used.
        """
        if seed is not None:
            self._options = dataclasses.replace(self._options, seed=seed)
        if hasattr(super(), "reset"):
            super().reset(seed=seed)
        self._begin()
        return self.session.picture, self._info(None)

    def step(
        self, action: Any
    ) -> tuple[UInt8[np.ndarray, "height width 3"], float, bool, bool, dict[str, Any]]:
        """One chunk with these controls held.

        Returns:
          The last frame, the reward, whether the episode ended, whether it ran out of steps, and
          `info`: "video" (all new frames), "pose", "blocked", "report" and "memory", see
          `Session.statistics`.
        """
        step = self.session.step(controls_of_action(action))
        self._steps += 1
        reward = float(self._reward(self.session, step))
        terminated = bool(self._terminated(self.session, step))
        truncated = 0 < self._max_steps <= self._steps
        return step.video[-1], reward, terminated, truncated, self._info(step)

    def render(self) -> UInt8[np.ndarray, "height width 3"]:
        """The last frame."""
        return self.session.picture

    def close(self) -> None:
        """Nothing is left open."""

    def _begin(self) -> None:
        self.session, self._steps = Session(self._model, self._start, options=self._options), 0

    def _info(self, step: Step | None) -> dict[str, Any]:
        info = {"pose": self.session.pose, "memory": self.session.statistics()}
        if step is not None:
            info |= {"video": step.video, "blocked": step.blocked, "report": step.report}
        return info
