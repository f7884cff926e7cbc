"""Many walkers, each in a world of its own, who take a step together in one compiled program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt, UInt8

from mirage_jax.geometry import Camera
from mirage_jax.memory import WriteReport
from mirage_jax.origin import Origin, check_positions
from mirage_jax.world import controls, plan
from mirage_jax.world.chunk_inputs import chunk_inputs
from mirage_jax.world.chunk_step import chunk_number
from mirage_jax.world.environment import Start, base, controls_of_action, spaces
from mirage_jax.world.latent_encoder import to_uint8
from mirage_jax.world.model import WorldModel
from mirage_jax.world.session_parts import SessionOptions
from mirage_jax.world.state import World, check_world

Frames = UInt8[np.ndarray, "n height width 3"]
Flags = Bool[np.ndarray, " n"]


class VectorEnvironment(base("VectorEnv", "gymnasium.vector")):  # type: ignore[misc]
    """Walkers that share a model; walker n walks as a `Session` with the seed `options.seed + n`
    does, but for the rounding of sums that are taken in another order.

    Episodes do not begin anew by themselves: `reset(options={"reset_mask": done})` begins those of
    some.

    Attributes:
      num_envs: walkers.
      poses: float64 [n, 4, 4], their cam2world in the coordinates that their worlds come from.
      single_action_space, single_observation_space, action_space, observation_space: of gymnasium,
        or None without it.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(
        self,
        model: WorldModel,
        starts: Sequence[Start],
        *,
        options: SessionOptions = SessionOptions(),
        reward: Callable[[dict[str, Any]], np.ndarray] | None = None,
        max_steps: int = 0,
    ) -> None:
        """Compiles nothing yet.

        Args:
          model: the trained parts.
          starts: where the episodes of each begin, worlds with memories of one capacity or
            pictures.
          options: how to walk; nothing can be undone here.
          reward: of a step for each walker, from the `info` of it; None: 0.
          max_steps: after which episodes are truncated; 0: never.

        Raises:
          ValueError: if there are no starts, the model cannot continue one, their memories differ
            in capacity, or the model has preceding frames or writes the first frame again, of
            which the number or the program would differ from walker to walker.
        """
        if not starts:
            raise ValueError("starts: found none, expected at least one world or picture")
        if model.context_frames.preceding or model.memory.rewrite_first:
            raise ValueError(
                "model: found preceding context frames or memory.rewrite_first, with which "
                "programs differ from walker to walker, expected neither"
            )
        self._model = model.replace(chunk_frames=options.chunk_frames)  # type: ignore[attr-defined]
        self.options, self._reward, self._max_steps = options, reward, max_steps
        self._starts = [s if isinstance(s, World) else model.start(s) for s in starts]
        for number, world in enumerate(self._starts):
            check_world(world, self._model, f"starts[{number}]")
        rooms = {world.bank.capacity for world in self._starts}
        if len(rooms) > 1:
            raise ValueError(f"starts: found capacities {sorted(rooms)}, expected one for all")
        self.num_envs = len(starts)
        self._up = [controls.upwards(world.pose, options.up) for world in self._starts]
        self.single_action_space, self.single_observation_space = spaces(model.size)
        self.action_space, self.observation_space = spaces(model.size, self.num_envs)
        frames = (self.num_envs, options.chunk_frames, 4)
        lenses = np.stack([np.asarray(world.intrinsics, np.float32) for world in self._starts])
        self._lenses = jnp.asarray(np.broadcast_to(lenses[:, None], frames))
        self._worlds: World
        self._keys: Any
        self._frames: Int[np.ndarray, " n"]
        self._steps: Int[np.ndarray, " n"]
        self._begin(np.ones(self.num_envs, bool), options.seed)

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Frames, dict[str, Any]]:
        """Back to where episodes begin.

        Args:
          seed: of the first walker's noise, one more for each next, of those that go back; None: as
            before.
          options: "reset_mask", bool [n]: whose; by default all.

        Raises:
          ValueError: if the mask is not of that shape.
        """
        mask = np.asarray((options or {}).get("reset_mask", np.ones(self.num_envs, bool)))
        if mask.shape != (self.num_envs,) or mask.dtype != bool:
            raise ValueError(
                f"reset_mask: found {mask.dtype} {mask.shape}, expected bool {(self.num_envs,)}"
            )
        self._begin(mask, seed)
        return to_uint8(_decoded(self._model, self._worlds.latent)), {"pose": self.poses}

    def step(
        self, actions: Float[Any, "n 5"]
    ) -> tuple[Frames, Float[np.ndarray, " n"], Flags, Flags, dict[str, Any]]:
        """One chunk for each, with these controls held.

        Returns:
          The last frames, rewards, whether episodes ended (never) or ran out of steps, and `info`
          by name, for all walkers: "video" [n, f, H, W, 3], "pose", "blocked", and what was
          written by the names of `memory.WriteReport`.

        Raises:
          ValueError: on actions that are none, or naming walkers whose latents are not finite; all
            stays as it was then.
        """
        held = [controls_of_action(action) for action in np.asarray(actions)]
        if len(held) != self.num_envs:
            raise ValueError(f"actions: found {len(held)}, expected {self.num_envs}")
        poses, blocked = self._next_poses(held)
        cameras = self._cameras(poses)
        numbers = [chunk_number(int(n), self.options.chunk_frames) for n in self._frames]
        arrays = self._worlds, cameras, self._keys, np.array(numbers, np.uint32)
        worlds, pictures, report, finite = _steps(self._model, *arrays)
        lost = np.flatnonzero(~np.asarray(finite))
        if len(lost):
            raise ValueError(f"walkers {lost.tolist()}: found latents that are not all finite")
        video = to_uint8(pictures)[:, 1:]
        self._worlds, self.poses = worlds, poses[:, -1]
        self._frames = self._frames + self.options.chunk_frames - 1
        self._steps = self._steps + 1
        written = {name: np.asarray(n) for name, n in jax.device_get(report.counts).items()}
        info = {"video": video, "pose": self.poses, "blocked": blocked, **written}
        none = np.zeros(self.num_envs, bool)
        rewards = np.zeros(self.num_envs) if self._reward is None else self._reward(info)
        truncated = self._steps >= self._max_steps if self._max_steps else none
        return video[:, -1], np.asarray(rewards, np.float64), none, truncated, info

    def close(self, **options: Any) -> None:
        """Nothing is left open."""

    @property
    def worlds(self) -> list[World]:
        """The present state of each, to be saved or continued."""
        return [
            jax.tree.map(lambda leaf, n=number: leaf[n], self._worlds).replace(origin=start.origin)
            for number, start in enumerate(self._starts)
        ]

    def _begin(self, mask: Flags, seed: int | None) -> None:
        starts = [
            world.replace(origin=Origin())  # type: ignore[attr-defined]
            for world in self._starts
        ]
        fresh = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
        poses = np.stack([world.pose for world in self._starts])
        frames = np.array([int(world.frames) for world in self._starts])
        if seed is not None:
            seeds = seed + np.arange(self.num_envs)
            keys = jnp.stack([jax.random.key(int(number)) for number in seeds])
            self._keys = keys if mask.all() else jnp.where(mask, keys, self._keys)
        if mask.all():
            self._worlds, self.poses, self._frames = fresh, poses, frames
            self._steps = np.zeros(self.num_envs, int)
            return
        self._worlds = _chosen(mask, fresh, self._worlds)
        self.poses = np.where(mask[:, None, None], poses, self.poses)
        self._frames = np.where(mask, frames, self._frames)
        self._steps = np.where(mask, 0, self._steps)

    def _next_poses(
        self, held: Sequence[controls.Controls]
    ) -> tuple[Float[np.ndarray, "n f 4 4"], Flags]:
        frames, walls = self.options.chunk_frames - 1, self.options.walls
        starts = [
            world.origin.relative(p) for world, p in zip(self._starts, self.poses, strict=True)
        ]
        each = list(zip(starts, held, self._up, strict=True))
        poses = [controls.walk(start, h, frames, self.options, up) for start, h, up in each]
        blocked = np.zeros(self.num_envs, bool)
        if walls:
            ways = [
                controls.ways(start[:3, 3], own, up)[0]
                for own, (start, _, up) in zip(poses, each, strict=True)
            ]
            centres = np.stack([start[:3, 3] for start in starts]).astype(np.float32)
            towards = np.stack(ways).astype(np.float32)
            free = np.asarray(_free(self._worlds.bank, centres, towards, self.options.radius))
            for n, start in enumerate(starts):
                poses[n], blocked[n] = controls.stopped(start[:3, 3], poses[n], ways[n], free[n])
        for n, (world, own) in enumerate(zip(self._starts, poses, strict=True)):
            check_positions(own[:, :3, 3], f"walker {n}: position")
            poses[n] = world.origin.absolute(own)
        return np.stack(poses), blocked

    def _cameras(self, poses: Float[np.ndarray, "n f 4 4"]) -> Camera:
        along = np.concatenate([self.poses[:, None], poses], axis=1)
        own = [w.origin.relative(p) for w, p in zip(self._starts, along, strict=True)]
        return Camera(self._lenses, jax.device_put(np.array(own, np.float32)), self._model.size)


def _step(
    model: WorldModel, world: World, camera: Camera, key: PRNGKeyArray, number: UInt[Array, ""]
) -> tuple[World, Float[Array, "f height width 3"], WriteReport, Bool[Array, ""]]:
    """One chunk, as `ChunkStep` makes it of several programs."""
    slots = None
    if world.context_frames is not None and model.context_frames.references:
        slots = model.choose(world, camera)
    given, read = chunk_inputs(model, world, camera, slots)
    latents = model.denoise(**given, key=jax.random.fold_in(key, number))[0]
    pictures = model.encoder.decode(latents[None])[0]
    after, report = model.remember(world, latents, read, camera, pictures=pictures)
    return after, pictures, report, jnp.isfinite(latents).all()


_steps = jax.jit(jax.vmap(_step, in_axes=(None, 0, 0, 0, 0)))
_free = jax.jit(jax.vmap(controls.free_distance, in_axes=(0, 0, 0, None)), static_argnums=3)
_decoded = jax.jit(
    lambda model, latents: jax.vmap(lambda x: plan.decode_frame(model.encoder, x))(latents)
)


@jax.jit
def _chosen(mask: Bool[Array, " n"], new: World, old: World) -> World:
    """The new state of those in the mask, the old one of others."""
    return jax.tree.map(
        lambda a, b: jnp.where(mask.reshape(-1, *(1,) * (a.ndim - 1)), a, b), new, old
    )
