"""The model that extends a world by a chunk: encoder, memory and denoiser tied together.

Every step is a pure function of the `World`: read the memory, denoise, look at the result, write.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num, PRNGKeyArray, UInt8

from mirage_jax import memory
from mirage_jax.chunks import TEMPORAL_STRIDE, latent_cameras, whole_latents
from mirage_jax.geometry import Camera
from mirage_jax.memory import LatentMemory, WriteReport
from mirage_jax.memory.movers import MoverOptions, Movers
from mirage_jax.nn.denoiser import Denoiser
from mirage_jax.nn.geometry_head import GeometryHead
from mirage_jax.origin import Origin
from mirage_jax.world import context_frames, moving, on_mesh, posed_pictures
from mirage_jax.world import options as run_options
from mirage_jax.world.chunk_inputs import chunk_inputs
from mirage_jax.world.conditioners import Conditioner, Frames
from mirage_jax.world.context_frames import ContextFrames
from mirage_jax.world.latent_encoder import LatentEncoder, to_model_range
from mirage_jax.world.looking import look
from mirage_jax.world.options import ContextFrameOptions, MemoryOptions, SamplerOptions
from mirage_jax.world.sampling import sample_chunk
from mirage_jax.world.state import World

_static = functools.partial(flax.struct.field, pytree_node=False)


@flax.struct.dataclass
class WorldModel:
    """A trained world model; a pytree of parameters with its modules and options as static fields.

    Attributes:
      encoder: pictures to latents and back.
      head_params, denoiser_params: of `head` and `denoiser`.
      head: geometry from latents; None where depth always comes from elsewhere.
      denoiser: velocity from noisy latents, the conditioner's context and rays.
      conditioner: what is stored in memory, and how it becomes the denoiser's context.
      size: picture size (H, W).
      chunk_frames: frames of a chunk, one shared with the chunk before.
      sampler, memory, context_frames: options.
      movers: how bodies that move are kept; None = they are not.
      trained_beside: the most context frames that the weights were trained with; None: unknown.
      text, negative_text: embedded prompts, [n, e]; guidance leads from the second to the first.
      guidance: its strength, an array, in place of `sampler.cfg_scale`; see `prompting`.
    """

    encoder: LatentEncoder
    head_params: Any
    denoiser_params: Any
    head: GeometryHead | None = _static()
    denoiser: Denoiser = _static()
    conditioner: Conditioner = _static()
    size: tuple[int, int] = _static()
    chunk_frames: int = _static()
    sampler: SamplerOptions = _static(default=SamplerOptions())
    memory: MemoryOptions = _static(default=MemoryOptions())
    context_frames: ContextFrameOptions = _static(default=ContextFrameOptions())
    movers: MoverOptions | None = _static(default=None)
    trained_beside: ContextFrameOptions | None = _static(default=None)
    text: Any = None
    negative_text: Any = None
    guidance: Any = None

    def __post_init__(self) -> None:
        run_options.check_options(self)

    def __repr__(self) -> str:
        sizes = f"size={self.size}, chunk_frames={self.chunk_frames}"
        return f"WorldModel({sizes}, conditioner={self.conditioner.kind!r}, {self.sampler})"

    @property
    def grid(self) -> tuple[int, int]:
        """Cells (h, w) of a latent."""
        return self.conditioner.grid(self.size)

    def start(
        self,
        pictures: UInt8[np.ndarray, "height width 3"] | UInt8[np.ndarray, "k height width 3"],
        camera: Camera | None = None,
        *,
        depth: Float[np.ndarray, "*k dh dw"] | None = None,
        static: Float[np.ndarray, "*k sh sw"] | None = None,
        capacity: int | None = None,
        keyframes: int | None = None,
        origin: Origin | None = None,
        times: Num[np.ndarray, " n"] | None = None,
        insist: bool = False,
    ) -> World:
        """A world that knows one picture, or the pictures of a posed clip.

        Args:
          pictures: uint8 colours of the model's `size`.
          camera: where they were taken from; with the leading dimension of the pictures. By
            default one picture at the origin, 90 degrees across its shorter side.
          depth: of the pictures' pixels in metres, where it is known better than the head can tell:
            0 = unknown (not remembered), inf = sky (remembered at `memory.sky_depth`).
          static: 1 where a pixel is to be remembered, 0 where not; of the size of `depth`.
          capacity: elements that the memory can hold, by default `memory.capacity`.
          keyframes: frames that can become references; by default as many as the memory has room
            for, were each of them all new.
          origin: what the world keeps positions and times relative to; by default zero or, of
            cameras far from it (as in UTM), beside the first. Give those as float64 NumPy arrays.
          times: of the pictures, as numbers of frames that increase; by default one after the
            other. Bodies move on in between.
          insist: take depths that look like millimetres, or intrinsics like other pictures'.

        Raises:
          ValueError: on pictures, a camera or maps that do not fit the model or each other.
        """
        depths = posed_pictures.depth_of_pictures(depth, pictures, insist)
        still = posed_pictures.maps_of_pictures(static, pictures, "static")
        pictures, camera = posed_pictures.posed_pictures(pictures, camera, self.size, insist)
        camera, origin = posed_pictures.placed(camera, origin)
        begin = jax.jit(WorldModel.begin, static_argnums=(5, 6))
        model_range = to_model_range(pictures)
        numbers = posed_pictures.numbers_of_pictures(times, len(pictures))
        world = begin(self, model_range, camera, depths, still, capacity, keyframes, numbers)[0]
        return world.replace(origin=moving.timed(origin, self.movers))

    def begin(
        self,
        pictures: Float[Array, "k height width 3"],
        camera: Camera,
        depth: Float[Array, "k dh dw"] | None = None,
        static: Float[Array, "k sh sw"] | None = None,
        capacity: int | None = None,
        keyframes: int | None = None,
        times: Float[Array, " k"] | None = None,
    ) -> tuple[World, WriteReport]:
        """`start` of pictures in [-1, 1] and their cameras, and what was written; can be jitted."""
        capacity = self.memory.capacity if capacity is None else capacity
        latents = self.encoder.encode_images(pictures)
        count, channels = len(latents), latents.shape[-1]
        frames = None
        if self.context_frames:
            if keyframes is None:
                keyframes = max(capacity // math.prod(self.grid), 1)
            frames = context_frames.create(
                keyframes, self.grid, channels, self.conditioner.read_channels
            )
        times = jnp.arange(count, dtype=jnp.float32) if times is None else times
        bodies = None
        if self.movers is not None:
            bodies = moving.start(camera, channels, self.movers)
        bank, report, _, with_pictures, bodies = self.observe(
            self.conditioner.create(capacity),
            latents,
            jnp.ones(count, bool),
            camera,
            times,
            pictures=pictures,
            depth=depth,
            static=static,
            frames=frames,
            movers=bodies,
        )
        pose = jnp.asarray(camera.cam2world[-1], jnp.float32)
        lens = jnp.asarray(camera.intrinsics[-1], jnp.float32)
        kept = frames if self.memory.rewrite_first else with_pictures
        number = times[-1].astype(jnp.int32) + 1
        world = World(bank, latents[-1], pose, lens, number, kept, movers=bodies)
        return on_mesh.kept_in_place(world), report

    def advance(
        self, world: World, cam2world: Float[Array, "f 4 4"], key: PRNGKeyArray
    ) -> tuple[World, Float[Array, "l h w c"], WriteReport]:
        """Generates the next chunk and remembers it, as one function to be jitted.

        Args:
          world: the state.
          cam2world: poses of the chunk's frames, the first being the pose of the last frame.
          key: randomness of the chunk.
        """
        frames = cam2world.shape[0]
        camera = Camera(jnp.broadcast_to(world.intrinsics, (frames, 4)), cam2world, self.size)
        latents, read = self.generate(world, camera, key)
        world, report = self.remember(world, latents, read, camera)
        return world, latents, report

    def choose(self, world: World, camera: Camera) -> Int[Array, " n"]:
        """Slots of the reference frames of a chunk of these cameras; -1 for none."""
        frames: Any = world.context_frames
        chosen = self.context_frames.references, self.context_frames.choice
        targets = latent_cameras(camera, 1)[:, 0]
        return context_frames.choose(frames, world.bank, targets, *chosen)

    def generate(
        self,
        world: World,
        camera: Camera,
        key: PRNGKeyArray,
        slots: Int[Array, " n"] | None = None,
        constants: Float[Array, "_ h w k"] | None = None,
        noise: Float[Array, "l h w c"] | None = None,
    ) -> tuple[Float[Array, "l h w c"], Float[Array, "l h w r"]]:
        """Reads the memory and denoises.

        Args:
          world: the state.
          camera: cameras of the chunk's frames.
          key: randomness of the chunk.
          slots: of reference frames, as `choose` gives them.
          constants: of the conditioner, for target and preceding latents; None: they are made here.
          noise: of the chunk's latents, standard normal; None: drawn by the key.

        Returns:
          The latents, and what was read along the chunk.
        """
        given, read = chunk_inputs(self, world, camera, slots, constants)
        start = {} if noise is None else {"noise": noise[None]}
        return self.denoise(**given, key=key, **start)[0], read

    def constants(self, latents: int) -> Float[Array, "latents h w k"] | None:
        """The conditioner's channels that are the same for every chunk of so many latents."""
        return self.conditioner.constants(self.encoder, latents, self.size)

    def denoise(
        self,
        first: Float[Array, "b h w c"],
        context: Float[Array, "b l h w m"] | None,
        rays: Float[Array, "b l2 h w k"],
        key: PRNGKeyArray,
        **frames: Array,
    ) -> Float[Array, "b l2 h w c"]:
        """Samples the latents of chunks whose first latents are given.

        `frames` are latents of context frames, `reference` and `preceding`, and their `frame_mask`,
        see `Denoiser`; and `noise`, see `sample_chunk`.
        """

        def prompt(text: Array | None) -> Array | None:
            return None if text is None else jnp.broadcast_to(text, (len(first), *text.shape))

        return sample_chunk(
            self.denoiser,
            self.denoiser_params,
            first,
            context,
            rays,
            key,
            self.sampler,
            text=prompt(self.text),
            negative_text=prompt(self.negative_text),
            guidance=self.guidance,
            **frames,
        )

    def remember(
        self,
        world: World,
        latents: Float[Array, "l h w c"],
        read: Float[Array, "l h w r"],
        camera: Camera,
        *,
        pictures: Float[Array, "f height width 3"] | None = None,
        depth: Float[Array, "k dh dw"] | None = None,
        static: Float[Array, "k sh sw"] | None = None,
        fresh: bool = False,
    ) -> tuple[World, WriteReport]:
        """Looks at what was generated, and writes.

        Args:
          world: the state before the chunk.
          latents: of the chunk.
          read: what `generate` gave beside them.
          camera: cameras of the chunk's frames.
          pictures: the decoded chunk, if the caller has it.
          depth, static: of the frames at `written_frames`, see `observe`.
          fresh: whether this is the world's first chunk.
        """
        frames = camera.shape[0]
        written = self.written_frames(frames, fresh)
        times = (world.frames - 1 + jnp.arange(frames)[written]).astype(jnp.float32)
        reencode = self.memory.reencode
        needed = reencode or self.conditioner.stores == "colours" or self.movers is not None
        if pictures is None and needed:
            pictures = self.encoder.decode(latents[None])[0]
        seen: Any = None if pictures is None else jnp.clip(pictures, -1.0, 1.0)[written]
        if reencode:
            observed = self.encoder.encode_images(seen)
            is_image = jnp.ones(observed.shape[0], bool)
        else:
            observed, is_image = latents, jnp.arange(latents.shape[0]) == 0
        bank, report, tokens, kept, bodies = self.observe(
            world.bank,
            observed,
            is_image,
            camera[written.start :: written.step],
            times,
            pictures=seen,
            depth=depth,
            static=static,
            frames=world.context_frames,
            movers=world.movers,
        )
        if kept is not None and self.context_frames.preceding:
            kept = self._with_recent(kept, bank, latents, read, camera, pictures, bodies)
        lens, pose = camera.intrinsics[-1], camera.cam2world[-1]
        count = world.frames + frames - 1
        return World(bank, tokens[-1], pose, lens, count, kept, world.origin, bodies), report

    def observe(
        self,
        bank: LatentMemory,
        latents: Float[Array, "l h w c"],
        is_image: Array,
        camera: Camera,
        times: Float[Array, " k"],
        *,
        pictures: Float[Array, "k height width 3"] | None = None,
        depth: Float[Array, "k dh dw"] | None = None,
        static: Float[Array, "k sh sw"] | None = None,
        frames: ContextFrames | None = None,
        movers: Movers | None = None,
    ) -> tuple[LatentMemory, WriteReport, Float[Array, "k h w c"], Any, Any]:
        """Writes the last K latents at the poses of the last frame each covers.

        Geometry is the head's, which sees the latents before those K too; a `depth` in metres (0 =
        unknown, inf = sky) stands in for the head's, at the size of the pictures or any multiple of
        the grid of cells (any size, where `depth_resize` is "bilinear"). `static`, 1 = stands
        still, is of the size of the depth and counts beside what the head finds.

        Returns the memory, what was written, the tokens that were, and the context frames and the
        moving bodies (which need the pictures) with these, if there are any.
        """
        seen = look(self, latents, is_image, times.shape[0], depth, static)
        tokens = seen.tokens
        written = Frames(tokens, seen.depth, camera, times, seen.still, seen.confidence, pictures)
        fusion = self.memory.fusion(self.context_frames)
        bank, report = self.conditioner.write(bank, written, fusion)
        if frames is not None:
            numbers = times.astype(jnp.int32)
            frames = context_frames.add(frames, tokens, seen.depth, camera, numbers, bank)
        if movers is not None and self.movers is not None:
            if pictures is None:
                raise ValueError("pictures: found none, expected some as moving bodies are kept")
            movers, counts = moving.observe(
                movers, bank, pictures, seen.moving, seen.depth, camera, times,
                encode=self.encoder.encode_images, stride=self.conditioner.stride,
                options=self.movers, measured=depth is not None,
            )  # fmt: skip
            report = report.replace(movers=counts)  # type: ignore[attr-defined]
        return bank, report, tokens, frames, movers

    def written_frames(self, frames: int, fresh: bool = False) -> slice:
        """Which of a chunk's frames are written to memory: the last that each new latent covers."""
        first = 0 if fresh and self.memory.rewrite_first else TEMPORAL_STRIDE
        return slice(first, frames, TEMPORAL_STRIDE)

    def preceding_latents(self, frames: ContextFrames) -> int:
        """How many of the recent latents precede the next chunk.

        The last one kept is what the chunk begins with, unless they are encoded for the purpose.
        """
        return max(len(frames.recent) - (0 if self.memory.reencode else 1), 0)

    def memory_depth(self, bank: LatentMemory, camera: Camera) -> Float[Array, "*b h w"]:
        """Depth of what the memory holds of these views, 0 where it holds nothing."""
        return memory.read(bank, camera, self.grid, cells=self.conditioner.cells).depth

    def _with_recent(
        self,
        kept: ContextFrames,
        bank: LatentMemory,
        latents: Array,
        read: Array,
        camera: Camera,
        pictures: Any,
        bodies: Movers | None,
    ) -> ContextFrames:
        """The context frames with the end of this chunk, which precedes the next."""
        preceding = self.context_frames.preceding
        if self.memory.reencode:
            # Encoded as a clip of their own, of a length that leaves no frame over at its end.
            last = camera.shape[0] - 1
            recent = slice(last - whole_latents(min(preceding, last)), last)
            latents = self.encoder.encode(jnp.clip(pictures, -1.0, 1.0)[recent][None])[0]
            seen = camera[recent]
            read = self.conditioner.read(bank, seen, None, self.encoder, bodies, self.movers)
            return kept.replace(recent=latents, context=read)  # type: ignore[attr-defined]
        return context_frames.follow(kept, latents, read, preceding)
