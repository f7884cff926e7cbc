"""What every conditioner has, and the one that has no memory."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mirage_jax import memory
from mirage_jax.chunks import latents_of_frames
from mirage_jax.geometry import Camera
from mirage_jax.memory.movers import MoverOptions, Movers
from mirage_jax.memory.readout import CELLS
from mirage_jax.nn.rows import aligned
from mirage_jax.settings import Settings, setting
from mirage_jax.world.latent_encoder import LatentEncoder


class Frames(NamedTuple):
    """Frames to be written to memory.

    Attributes:
      tokens: a latent token a cell.
      depth: z-depth in metres, of the size of the cells or a multiple of it; 0 = unknown.
      camera: of the frames.
      times: of the frames.
      static: share that stands still, of the size of the depth or of the cells; None = all.
      confidence: in the depth of each cell, None = full.
      pictures: colours in [-1, 1]; where the conditioner stores those.
    """

    tokens: Float[Array | np.ndarray, "k h w c"]
    depth: Float[Array | np.ndarray, "k dh dw"]
    camera: Camera
    times: Float[Array | np.ndarray, " k"]
    static: Any = None
    confidence: Any = None
    pictures: Any = None


class View(NamedTuple):
    """Where the memory is read from.

    Attributes:
      camera: cameras of the frames, leading dimension [frames], frames = 1 + 4 n.
      times: of the frames, for what moves.
      encoder: for kinds that encode what they render.
      movers: bodies that move, for kinds that show them; None = none are known.
      mover_options: how they are kept.
      bodies: what they show along the frames where that was read before, in place of `movers`; see
        `BodyReader.read_bodies`.
    """

    camera: Camera
    times: Float[Array, " frames"] | None = None
    encoder: LatentEncoder | None = None
    movers: Movers | None = None
    mover_options: MoverOptions = MoverOptions()
    bodies: Array | None = None


@dataclasses.dataclass(frozen=True)
class Conditioner(Settings):
    """Base of all kinds, which store a token a cell and read it at the pose of each latent."""

    kind: ClassVar[str]
    stores: ClassVar[str] = "tokens"
    encodes: ClassVar[bool] = False  # whether reading needs the encoder
    reads = 1  # poses read for each latent
    fine = 1  # grid of the read-out relative to the latents'

    token_channels: int = setting(16, "Channels of a latent.", least=1)
    stride: int = setting(8, "Pixels of a latent's cell, in height and width.", least=1)
    cells: str = setting(
        "centre", "Point of a cell that its token stands for, see `memory.read`.", choices=CELLS
    )

    @property
    def channels(self) -> int:
        """Of the context of one cell: the denoiser's `memory_channels`."""
        return self.read_channels

    @property
    def read_channels(self) -> int:
        """Channels of `read`; `complete` adds the others."""
        raise NotImplementedError

    def poses_read(self, frames: int) -> int:
        """Poses that the memory is read at along so many frames, 1 + 4 n."""
        return self.reads * latents_of_frames(frames)

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Cells (h, w) of a latent of pictures of `size`."""
        return size[0] // self.stride, size[1] // self.stride

    def create(self, capacity: int) -> memory.LatentMemory:
        """An empty memory with room for `capacity` cells."""
        return memory.create(capacity, self.token_channels)

    def write(
        self,
        bank: memory.LatentMemory,
        frames: Frames,
        fusion: memory.fusion.FusionOptions | None = None,
    ) -> tuple[memory.LatentMemory, memory.WriteReport]:
        """Writes frames to the memory.

        Args:
          bank: the memory.
          frames: to be written.
          fusion: how they are fused with it; None appends them, as do kinds that do not store
            tokens and those of "corner" cells, whatever is given.
        """
        camera = frames.camera
        if self.cells == "corner":
            camera = memory.released.corner_camera(camera, self.grid(camera.size))
        write: Any = memory.write
        if fusion is not None and self.cells == "centre":
            write = partial(memory.fusion.write, options=fusion)
        return write(
            bank,
            frames.tokens,
            frames.depth,
            camera,
            static=frames.static,
            confidence=frames.confidence,
            times=frames.times,
        )

    def read(
        self,
        bank: memory.LatentMemory,
        camera: Camera,
        times: Float[Array, " frames"] | None = None,
        encoder: LatentEncoder | None = None,
        movers: Movers | None = None,
        mover_options: MoverOptions | None = None,
        bodies: Array | None = None,
    ) -> Float[Array, "latents h w r"]:
        """What the memory shows along frames, without what all videos share; see `__call__`.

        Bodies, where they are shown, move on to the `times` of the frames, their numbers.
        """
        options = mover_options or MoverOptions()
        return self.read_view(bank, View(camera, times, encoder, movers, options, bodies))

    def read_view(self, bank: memory.LatentMemory, view: View) -> Float[Array, "latents h w r"]:
        """What every kind has to say how to do; see `read`."""
        raise NotImplementedError

    def constants(
        self, encoder: LatentEncoder | None, latents: int, size: tuple[int, int]
    ) -> Float[Array, "latents h w k"] | None:
        """Channels that are the same for every video of so many latents, for `complete`.

        Where they are encoded that is expensive: callers keep them.
        """
        return None

    def complete(
        self,
        read: Float[Array, "latents h w r"],
        constants: Float[Array, "latents h w k"] | None,
    ) -> Float[Array, "latents h w m"]:
        """What was read, of the chunk and of preceding latents after it, with the `constants`."""
        return read if constants is None else jnp.concatenate([read, constants], axis=-1)

    def drop(
        self, context: Float[Array, "*b h w m"], kept: Bool[Array, ""]
    ) -> Float[Array, "*b h w m"]:
        """The context with zeros for what was read unless it is `kept`; the constants stay.

        Zeros are what a memory of tokens shows that holds nothing.
        """
        is_read = jnp.arange(context.shape[-1]) < self.read_channels
        return context * aligned(kept | ~is_read, context)

    def __call__(
        self,
        bank: memory.LatentMemory,
        camera: Camera,
        times: Float[Array, " frames"] | None = None,
        encoder: LatentEncoder | None = None,
    ) -> Float[Array, "latents h w m"]:
        """The denoiser's context of every latent.

        Args:
          bank: the memory.
          camera: cameras of the frames, leading dimension [frames], frames = 1 + 4 n.
          times: of the frames, for what moves.
          encoder: for kinds that encode what they render.
        """
        read = self.read(bank, camera, times, encoder)
        return self.complete(read, self.constants(encoder, len(read), camera.size))


@dataclasses.dataclass(frozen=True)
class Nothing(Conditioner):
    """No memory at all: the denoiser sees its first latent and the rays."""

    kind = "none"
    stores = "nothing"

    @property
    def read_channels(self) -> int:
        return 0

    def create(self, capacity: int) -> memory.LatentMemory:
        return memory.create(1, self.token_channels)

    def write(
        self,
        bank: memory.LatentMemory,
        frames: Frames,
        fusion: memory.fusion.FusionOptions | None = None,
    ) -> tuple[memory.LatentMemory, memory.WriteReport]:
        return bank, memory.WriteReport(*(jnp.zeros((), jnp.int32),) * 4)

    def read_view(self, bank: memory.LatentMemory, view: View) -> Float[Array, "latents h w r"]:
        return jnp.zeros(
            (latents_of_frames(len(view.camera)), *self.grid(view.camera.size), 0), jnp.float32
        )
