"""A world, and the model that extends it by a chunk: encoder, memory and denoiser tied together.

A `World` is what is carried from chunk to chunk: the memory, the last latent, the last pose and the
time. Everything else is a pure function of it, so a world can be saved, copied and continued.
"""

from __future__ import annotations

import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from mirage_jax import memory
from mirage_jax.geometry import Camera, check_cam2world, check_intrinsics
from mirage_jax.nn.denoiser import Denoiser
from mirage_jax.nn.geometry_head import GeometryHead
from mirage_jax.world import context_frames as past_frames
from mirage_jax.world.conditioners import (
    TEMPORAL_STRIDE,
    camera_rays,
    latent_cameras,
    latents_of_frames,
    memory_context,
    plain_context,
)
from mirage_jax.world.latent_encoder import LatentEncoder, to_model_range
from mirage_jax.world.sampling import sample_chunk


@flax.struct.dataclass
class World:
    """The state of a rollout.

    Attributes:
      bank: the memory.
      latent: normalised latent of the last frame alone, [h, w, C]; the next chunk starts from it.
      cam2world: pose of the last frame, [4, 4].
      intrinsics: of the pictures, [4].
      frames: frames generated so far, the first picture included; also the time.
      past: earlier frames that the denoiser may be shown again; None for one that is shown none.
    """

    bank: memory.LatentMemory
    latent: Any
    cam2world: Any
    intrinsics: Any
    frames: Any
    past: past_frames.Past | None = None


@flax.struct.dataclass
class WorldModel:
    """A trained world model; a pytree of parameters with its modules as static fields.

    Attributes:
      encoder: pictures to latents and back.
      head_params, denoiser_params: of `head` and `denoiser`.
      head: geometry from latents; None where depth always comes from elsewhere.
      denoiser: velocity from noisy latents, memory context and rays.
      size: picture size (H, W).
      chunk_frames: frames of a chunk, one shared with the chunk before.
      readout: options of `conditioning.memory_context`, as pairs.
      steps, shift, method, schedule: of the sampler, see `sample_chunk`.
      reencode: write what comes of decoding each keyframe and encoding it alone, as the paper does,
        instead of the image-mode tokens that the head predicts from the clip's latents.
      clip_tokens: write the latents of the clip as they are, as the released code does.
      sky_depth: metres at which sky is remembered.
      layout: what the memory context holds, one of `conditioning.LAYOUTS`.
      cells: which point of a cell its token stands for, see `memory.read`.
      depth_resize: from pixels to cells by "median" (`memory.pool_depth`) or "bilinear"
        (`memory.released`).
      static_only: whether moving things that the head or a `Look` finds are left out of the memory.
      first_again: whether the first picture is written a second time, with the first chunk, and may
        be a reference only from then on.
      preceding: frames at the end of a chunk that the next chunk is shown.
      references: earlier frames that a chunk is shown, at most.
      choice: of the references, one of `past.CHOICES`.
      text, other_text: embedded prompt, and the one that `guidance` leads away from; [n, e].
      guidance: how far, see `samplers.guided`; 1 for not at all.
    """

    encoder: LatentEncoder
    head_params: Any
    denoiser_params: Any
    head: GeometryHead | None = flax.struct.field(pytree_node=False)
    denoiser: Denoiser = flax.struct.field(pytree_node=False)
    size: tuple[int, int] = flax.struct.field(pytree_node=False)
    chunk_frames: int = flax.struct.field(pytree_node=False)
    readout: tuple[tuple[str, Any], ...] = flax.struct.field(pytree_node=False, default=())
    steps: int = flax.struct.field(pytree_node=False, default=4)
    shift: float = flax.struct.field(pytree_node=False, default=1.0)
    method: str = flax.struct.field(pytree_node=False, default="euler")
    schedule: str = flax.struct.field(pytree_node=False, default="uniform")
    reencode: bool = flax.struct.field(pytree_node=False, default=False)
    clip_tokens: bool = flax.struct.field(pytree_node=False, default=False)
    sky_depth: float = flax.struct.field(pytree_node=False, default=200.0)
    layout: str = flax.struct.field(pytree_node=False, default="folded")
    cells: str = flax.struct.field(pytree_node=False, default="centre")
    depth_resize: str = flax.struct.field(pytree_node=False, default="median")
    static_only: bool = flax.struct.field(pytree_node=False, default=True)
    first_again: bool = flax.struct.field(pytree_node=False, default=False)
    preceding: int = flax.struct.field(pytree_node=False, default=0)
    references: int = flax.struct.field(pytree_node=False, default=0)
    choice: str = flax.struct.field(pytree_node=False, default="coverage")
    text: Any = None
    other_text: Any = None
    guidance: float = flax.struct.field(pytree_node=False, default=1.0)

    @property
    def grid(self) -> tuple[int, int]:
        stride = self.encoder.vae.spatial_stride
        return self.size[0] // stride, self.size[1] // stride

    @property
    def keeps_frames(self) -> bool:
        """Whether chunks are shown earlier frames, for which a world needs a `Past`."""
        return self.preceding > 0 or self.references > 0

    def context(self, bank: memory.LatentMemory, camera: Camera) -> Float[Array, "l h w m"]:
        """What the memory shows along the chunk's frames; what all videos share is left out.

        No channels for a denoiser without memory.
        """
        if not self.denoiser.memory_channels:
            return jnp.zeros((latents_of_frames(len(camera)), *self.grid, 0))
        if self.layout == "folded":
            return memory_context(bank, camera, self.grid, **dict(self.readout))
        visibility = self.layout == "visibility"
        return plain_context(bank, camera, self.grid, cells=self.cells, visibility=visibility)

    def denoise(
        self,
        first: Float[Array, "b h w c"],
        context: Float[Array, "b l h w m"] | None,
        rays: Float[Array, "b l2 h w k"],
        key: PRNGKeyArray,
        **clean: Array,
    ) -> Float[Array, "b l2 h w c"]:
        """Samples the latents of a chunk whose first latent is given.

        `clean` are the latents of frames that are shown with it, `reference` and `preceding`, and
        which of them are present, `frame_mask`, see `Denoiser`.
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
            steps=self.steps,
            shift=self.shift,
            method=self.method,
            schedule=self.schedule,
            text=prompt(self.text),
            other_text=prompt(self.other_text),
            guidance=self.guidance,
            **clean,
        )

    def observe(
        self,
        bank: memory.LatentMemory,
        latents: Float[Array, "l h w c"],
        is_image: Array,
        camera: Camera,
        times: Float[Array, " k"],
        depth: Float[Array, "k dh dw"] | None = None,
        static: Float[Array, "k sh sw"] | None = None,
        past: past_frames.Past | None = None,
    ) -> tuple[
        memory.LatentMemory, memory.WriteReport, Float[Array, "k h w c"], past_frames.Past | None
    ]:
        """Writes the last K latents at the poses of the last frame each covers.

        Geometry is the head's, which sees the latents before those K too; a `depth` in metres (0 =
        unknown, inf = sky) stands in for the head's, at the size of the pictures or any multiple of
        the grid of cells (any size, where `depth_resize` is "bilinear"). `static`, 1 = stands
        still, is of the size of the depth and counts beside what the head finds.

        Returns the memory, what was written, the tokens that were, and the past with these frames,
        if there is one.
        """
        new = slice(latents.shape[0] - times.shape[0], None)
        bilinear = self.depth_resize == "bilinear"
        if bilinear and static is not None:
            static = memory.released.nearest_mask(static, self.grid)
        tokens, confidence, still = latents[new], None, static
        if self.head is not None:
            found: Any = self.head.apply(
                {"params": self.head_params}, latents[None], is_image[None]
            )
            found = jax.tree.map(lambda leaf: leaf[:, new], found)
            if not self.clip_tokens:
                tokens = found.image_tokens[0]
            if self.static_only:
                still = (found.mover_logit[0] < 0).astype(jnp.float32)
                if static is not None:
                    still = still * (memory.pool_static(static, self.grid) > 0.5)
        if depth is not None:
            depth = jnp.where(jnp.isposinf(depth), self.sky_depth, depth)
        elif self.head is not None:
            depth = jnp.where(found.sky_logit > 0, self.sky_depth, found.depth)[0]
            confidence = found.confidence[0]  # says nothing of a depth that is not the head's
        else:
            raise ValueError("depth: found none, expected some as the model has no geometry head")
        if bilinear:
            depth = memory.released.bilinear_depth(depth, self.grid)
        corner = self.cells == "corner"
        bank, report = memory.write(
            bank,
            tokens,
            depth,
            memory.released.corner_camera(camera, self.grid) if corner else camera,
            static=still,
            confidence=confidence,
            times=times,
        )
        if past is not None:
            past = past_frames.add(past, tokens, depth, camera, times.astype(jnp.int32), bank)
        return bank, report, tokens, past

    def start(
        self,
        picture: Float[Array, "height width 3"],
        camera: Camera,
        capacity: int,
        depth: Float[Array, "dh dw"] | None = None,
        static: Float[Array, "sh sw"] | None = None,
        keyframes: int | None = None,
    ) -> tuple[World, memory.WriteReport]:
        """A world that knows one picture.

        Args:
          picture: colours in [-1, 1].
          camera: where it was taken from; no leading dimension.
          capacity: elements that the memory can hold.
          depth: of the picture's pixels in metres, where it is known better than the head can tell:
            0 = unknown (not remembered), inf = sky (remembered at `sky_depth`).
          static: 1 where a pixel is to be remembered, 0 where not; of the size of `depth`.
          keyframes: frames that can become references, for a model that `keeps_frames`; None for
            as many as the memory has room for, were each of them all new.
        """
        latent = self.encoder.encode_images(picture[None])
        bank = memory.create(capacity, latent.shape[-1])
        past = None
        if self.keeps_frames:
            stored = self.denoiser.memory_channels
            if self.layout == "score":
                stored = latent.shape[-1]
            if keyframes is None:
                keyframes = max(capacity // math.prod(self.grid), 1)
            past = past_frames.create(keyframes, self.grid, latent.shape[-1], stored)
        bank, report, _, with_first = self.observe(
            bank,
            latent,
            jnp.ones(1, bool),
            camera[None],
            jnp.zeros(1),
            None if depth is None else depth[None],
            None if static is None else static[None],
            past,
        )
        world = World(
            bank=bank,
            latent=latent[0],
            cam2world=jnp.asarray(camera.cam2world, jnp.float32),
            intrinsics=jnp.asarray(camera.intrinsics, jnp.float32),
            frames=jnp.ones((), jnp.int32),
            past=past if self.first_again else with_first,
        )
        return world, report

    def advance(
        self, world: World, cam2world: Float[Array, "f 4 4"], key: PRNGKeyArray
    ) -> tuple[World, Float[Array, "l h w c"], memory.WriteReport]:
        """Generates the next chunk: read, denoise, look at the result, write.

        Args:
          world: the state.
          cam2world: poses of the chunk's frames, the first being the pose of the last frame.
          key: randomness of the chunk.
        """
        frames = cam2world.shape[0]
        camera = Camera(jnp.broadcast_to(world.intrinsics, (frames, 4)), cam2world, self.size)
        latents, context = self.generate(world, camera, key)
        world, report = self.remember(world, latents, context, camera)
        return world, latents, report

    def choose(
        self, past: past_frames.Past, bank: memory.LatentMemory, camera: Camera
    ) -> Int[Array, " n"]:
        """Slots of the past's frames to show with a chunk of these cameras; -1 for none."""
        targets = latent_cameras(camera, 1)[:, 0]
        return past_frames.choose(past, bank, targets, self.references, self.choice)

    def generate(
        self,
        world: World,
        camera: Camera,
        key: PRNGKeyArray,
        slots: Int[Array, " n"] | None = None,
        score: Float[Array, "_ h w c"] | None = None,
    ) -> tuple[Float[Array, "l h w c"], Float[Array, "l h w m"]]:
        """The first half of `advance`: read and denoise.

        Args:
          world: the state.
          camera: cameras of the chunk's frames.
          key: randomness of the chunk.
          slots: of the past's frames to show with it, as `choose` gives them.
          score: further channels of the context of target and preceding latents, for the layout
            "score".

        Returns:
          The latents, and what the memory showed of them.
        """
        context = self.context(world.bank, camera)
        rays = camera_rays(camera, self.grid)
        told, clean = context, {}
        before = 0 if world.past is None else self.shown_before(world.past)
        if world.past is not None and before:
            clean["preceding"] = world.past.recent[None, :before]
            told = jnp.concatenate([told, world.past.context[:before]])
        if world.past is not None and slots is not None:
            reference, there = past_frames.take(world.past.latents, slots)
            clean["reference"] = reference[None]
            clean["frame_mask"] = jnp.concatenate([there, jnp.ones(before, bool)])[None]
        if score is not None:
            told = jnp.concatenate([told, score], axis=-1)
        batch = told[None] if self.denoiser.memory_channels else None
        latents = self.denoise(world.latent[None], batch, rays[None], key, **clean)[0]
        return latents, context

    def remember(
        self,
        world: World,
        latents: Float[Array, "l h w c"],
        context: Float[Array, "l h w m"],
        camera: Camera,
        *,
        pictures: Float[Array, "f height width 3"] | None = None,
        depth: Float[Array, "k dh dw"] | None = None,
        static: Float[Array, "k sh sw"] | None = None,
        fresh: bool = False,
    ) -> tuple[World, memory.WriteReport]:
        """The second half of `advance`: look at what was generated, and write.

        Args:
          world: the state before the chunk.
          latents: of the chunk.
          context: what `generate` gave beside them.
          camera: cameras of the chunk's frames.
          pictures: the decoded chunk, if the caller has it.
          depth, static: of the frames at `written_frames`, see `observe`.
          fresh: whether this is the world's first chunk.
        """
        frames = camera.shape[0]
        written = self.written_frames(frames, fresh)
        seen = camera[written.start :: written.step]
        times = (world.frames - 1 + jnp.arange(frames)[written]).astype(jnp.float32)
        if self.reencode:
            if pictures is None:
                pictures = self.encoder.decode(latents[None])[0]
            pictures = jnp.clip(pictures, -1.0, 1.0)
            looked_at = self.encoder.encode_images(pictures[written])
            is_image = jnp.ones(looked_at.shape[0], bool)
        else:
            looked_at, is_image = latents, jnp.arange(latents.shape[0]) == 0
        bank, report, tokens, past = self.observe(
            world.bank, looked_at, is_image, seen, times, depth, static, world.past
        )
        if past is not None and self.preceding:
            past = self._with_recent(past, bank, latents, context, camera, pictures)
        world = World(
            bank,
            tokens[-1],
            camera.cam2world[-1],
            camera.intrinsics[-1],
            world.frames + frames - 1,
            past,
        )
        return world, report

    def written_frames(self, frames: int, fresh: bool = False) -> slice:
        """Which of a chunk's frames are written to memory: the last that each new latent covers."""
        return slice(0 if fresh and self.first_again else TEMPORAL_STRIDE, frames, TEMPORAL_STRIDE)

    def shown_before(self, past: past_frames.Past) -> int:
        """How many latents of the past are shown before the next chunk.

        The last one kept is what the chunk begins with, unless they are encoded for the purpose.
        """
        return max(len(past.recent) - (0 if self.reencode else 1), 0)

    def held_depth(self, bank: memory.LatentMemory, camera: Camera) -> Float[Array, "*b h w"]:
        """Depth of what the memory holds of these views, 0 where it holds nothing."""
        return memory.read(bank, camera, self.grid, cells=self.cells).depth

    def _with_recent(
        self,
        past: past_frames.Past,
        bank: memory.LatentMemory,
        latents: Array,
        context: Array,
        camera: Camera,
        pictures: Any,
    ) -> past_frames.Past:
        """The past with the end of this chunk, to be shown before the next."""
        if self.reencode:
            # Encoded as a clip of their own, of a length that leaves no frame over at its end.
            last = camera.shape[0] - 1
            frames = min(self.preceding, last)
            frames -= (frames - 1) % TEMPORAL_STRIDE
            shown = slice(last - frames, last)
            latents = self.encoder.encode(pictures[shown][None])[0]
            context = self.context(bank, camera[shown])
        else:
            count = -(-self.preceding // TEMPORAL_STRIDE) + 1
            new = min(len(past.recent), 1)  # the first latent of a later chunk is there already
            latents = jnp.concatenate([past.recent, latents[new:]])[-count:]
            context = jnp.concatenate([past.context, context[new:]])[-count:]
        return past.replace(recent=latents, context=context)  # type: ignore[attr-defined]


def first_picture(picture: UInt8[np.ndarray, "height width 3"]) -> Float[Array, "height width 3"]:
    """A uint8 picture as `WorldModel.start` takes it."""
    return to_model_range(picture)


def check_world(world: World, model: WorldModel, name: str = "world") -> None:
    """Checks that a model can continue a world.

    Raises:
      ValueError: naming `name`, if cells or channels are not the model's, or the camera is none.
    """
    expected = (*model.grid, model.denoiser.in_channels)
    found = tuple(world.latent.shape)
    if found != expected or world.bank.channels != expected[-1]:
        raise ValueError(
            f"{name}: found a last latent [h, w, C] of {found} and a memory of "
            f"{world.bank.channels} channels, but the model's latents are {expected}"
        )
    if model.keeps_frames and world.past is None:
        raise ValueError(
            f"{name}: found no earlier frames, but the model is shown {model.preceding} preceding "
            f"and {model.references} reference frames"
        )
    check_intrinsics(world.intrinsics, model.size, f"{name}: intrinsics")
    check_cam2world(world.cam2world, f"{name}: cam2world")
