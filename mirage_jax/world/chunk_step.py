"""One step of a world: choose, read, denoise, decode, look, write, as programs that are compiled
once.

`rollout` and `Session` run the same ones, so that someone who walks a path key by key sees the
frames of a rollout along it, bit for bit.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mirage_jax.chunks import latents_of_frames
from mirage_jax.geometry import Camera
from mirage_jax.memory import WriteReport
from mirage_jax.world import on_mesh
from mirage_jax.world.chunk_inputs import chunk_inputs
from mirage_jax.world.model import WorldModel
from mirage_jax.world.sampling import memory_scale, network_calls
from mirage_jax.world.state import World

Clock = Callable[[str, Any], None]
"""Called after each stage with its name and its arrays, which may not have been computed yet."""


@dataclasses.dataclass(frozen=True)
class Generated:
    """A chunk that is not remembered yet.

    Attributes:
      latents: [l, h, w, C].
      read: what the memory showed along it, [l, h, w, r].
      pictures: decoded, not clipped, [f, H, W, 3].
      slots: of the reference frames, -1 for none; None where there are none at all.
      preceding: latents of the chunk before that it was denoised beside.
    """

    latents: Any
    read: Any
    pictures: Any
    slots: Any
    preceding: int


def chunk_number(frames: int, chunk_frames: int) -> int:
    """Number of the chunk that follows so many frames; a short chunk counts as one."""
    return -((1 - frames) // (chunk_frames - 1))


class ChunkStep:
    """The programs of a model, and what all its chunks share.

    Worlds are to have no origin of their own (`Origin()`): programs would be compiled again for
    every other.
    """

    def __init__(self, model: WorldModel, clock: Clock = lambda stage, arrays: None) -> None:
        """Compiles nothing yet.

        Args:
          model: the trained parts.
          clock: told of the stages "read", "denoise", "decode" and "write".

        Raises:
          ValueError: if guidance is asked for without a text, or another strength of a memory
            branch there is none of.
        """
        scale = model.sampler.cfg_scale
        if scale != 1.0 and model.text is None:
            raise ValueError(f"sampler: cfg_scale: found {scale} without a text, expected 1")
        memory_scale(model.denoiser, model.sampler)
        self.model = model
        self.clock = clock
        self._constants: dict[int, Array | None] = {}

    def generate(
        self,
        world: World,
        camera: Camera,
        key: PRNGKeyArray,
        number: int,
        noise: Float[Array | np.ndarray, "l h w c"] | None = None,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> Generated:
        """Reads the memory, denoises and decodes.

        Args:
          world: the state.
          camera: cameras of the chunk's frames.
          key: randomness of all chunks.
          number: of this chunk, folded into the key.
          noise: in place of what the key gives.
          meanwhile: work for the host, called once the device has something to do.

        Raises:
          ValueError: naming the chunk, if its latents are not finite.
        """
        model = self.model
        given, read, slots, preceding = self._inputs(world, camera)
        self.clock("read", given)
        start = None if noise is None else jnp.asarray(noise, jnp.float32)
        latents, finite = _denoise(model, given, key, np.uint32(number), start)
        meanwhile()
        self.clock("denoise", latents)
        pictures = _decode(model.encoder, latents)
        if not bool(finite):
            raise ValueError(
                f"chunk {number}: the denoiser's latents are not all finite; expected weights, "
                "noise levels and a precision with which they are"
            )
        self.clock("decode", pictures)
        return Generated(latents, read, pictures, slots, preceding)

    def denoise_steps(
        self, world: World, camera: Camera, key: PRNGKeyArray, repeats: int = 5
    ) -> tuple[float, ...]:
        """Seconds that each step of the solver takes for a chunk, in a program of its own.

        The program that generates runs all steps without a stop, where none can be timed. The one
        that is timed here takes a single step, as often as the solver calls the network: that costs
        the same at every noise level.

        Args:
          world: the state.
          camera: cameras of the chunk's frames.
          key: of the noise.
          repeats: of each step, of which the median is taken.
        """
        given = self._inputs(world, camera)[0]
        single = dataclasses.replace(self.model.sampler, steps=1, method="euler")
        model = self.model.replace(sampler=single)  # type: ignore[attr-defined]

        def call() -> float:
            start = time.perf_counter()
            jax.block_until_ready(_denoise(model, given, key, np.uint32(0), None))
            return time.perf_counter() - start

        call()  # which compiles
        latents = latents_of_frames(len(camera))
        return tuple(
            statistics.median(sum(call() for _ in range(calls)) for _ in range(repeats))
            for calls in network_calls(self.model.sampler, latents)
        )

    def remember(
        self,
        world: World,
        generated: Generated,
        camera: Camera,
        *,
        depth: Any = None,
        static: Any = None,
    ) -> tuple[World, WriteReport]:
        """Looks at a chunk and writes it; arguments as of `WorldModel.remember`."""
        fresh = self.model.memory.rewrite_first and int(world.frames) == 1
        after = _remember(
            self.model,
            world,
            generated.latents,
            generated.read,
            camera,
            pictures=generated.pictures,
            depth=depth,
            static=static,
            fresh=fresh,
        )
        self.clock("write", after)
        return after

    def _inputs(self, world: World, camera: Camera) -> tuple[dict[str, Any], Any, Any, int]:
        """What the denoiser is given, what the memory showed, and `slots` and `preceding` of
        `Generated`."""
        slots, preceding = None, 0
        if world.context_frames is not None:
            preceding = self.model.preceding_latents(world.context_frames)
            if self.model.context_frames.references:
                slots = _choose(self.model, world, camera)
        constants = self._constants_of(latents_of_frames(len(camera)) + preceding)
        return *_read(self.model, world, camera, slots, constants), slots, preceding

    def _constants_of(self, latents: int) -> Array | None:
        if latents not in self._constants:
            self._constants[latents] = _encode_constants(self.model, latents)
        return self._constants[latents]


def _denoised(
    model: WorldModel,
    given: dict[str, Any],
    key: PRNGKeyArray,
    number: Any,
    noise: Float[Array, "l h w c"] | None,
) -> tuple[Float[Array, "l h w c"], Bool[Array, ""]]:
    start = {} if noise is None else {"noise": noise[None]}
    latents = model.denoise(**given, key=jax.random.fold_in(key, number), **start)[0]
    return latents, jnp.isfinite(latents).all()


def _remembered(
    model: WorldModel, world: World, *seen: Any, **options: Any
) -> tuple[World, WriteReport]:
    world, report = model.remember(world, *seen, **options)
    return on_mesh.kept_in_place(world), report


_choose = jax.jit(WorldModel.choose)
_read = jax.jit(chunk_inputs)
_denoise = jax.jit(_denoised)
_decode = jax.jit(lambda encoder, latents: encoder.decode(latents[None])[0])
_remember = jax.jit(_remembered, static_argnames="fresh")
_encode_constants = jax.jit(WorldModel.constants, static_argnums=1)
