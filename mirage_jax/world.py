"""WorldModel: encoder, memory and denoiser tied into a chunk-by-chunk rollout (paper, Algorithm 1).

A `World` is what is carried from chunk to chunk: the memory, the last latent, the last pose and the
time. Everything else is a pure function of it, so a world can be saved, copied and continued, and a
rollout of any length needs no more device memory than one chunk and the bank.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt8
from safetensors import SafetensorError, safe_open

from mirage_jax import memory
from mirage_jax.conditioning import (
    TEMPORAL_STRIDE,
    camera_rays,
    memory_context,
)
from mirage_jax.diffusion import samplers
from mirage_jax.geometry import Camera, check_cam2world, check_intrinsics
from mirage_jax.latent_encoder import LatentEncoder, to_model_range, to_uint8
from mirage_jax.nn.denoiser import Denoiser
from mirage_jax.nn.geometry_head import GeometryHead
from mirage_jax.training.export import compare_tensors, save_tensors

WORLD_FORMAT = "mirage-world-1"


@flax.struct.dataclass
class World:
    """The state of a rollout.

    Attributes:
      bank: the memory.
      latent: normalised latent of the last frame alone, [h, w, C]; the next chunk starts from it.
      cam2world: pose of the last frame, [4, 4].
      intrinsics: of the pictures, [4].
      frames: frames generated so far, the first picture included; also the time.
    """

    bank: memory.LatentMemory
    latent: Any
    cam2world: Any
    intrinsics: Any
    frames: Any


def sample_chunk(
    denoiser: Denoiser,
    params: Any,
    first: Float[Array, "b h w c"],
    context: Float[Array, "b l h w m"] | None,
    rays: Float[Array, "b l h w k"],
    key: PRNGKeyArray,
    *,
    steps: int,
    shift: float,
    method: str,
    text: Float[Array, "b n e"] | None = None,
) -> Float[Array, "b l h w c"]:
    """Samples the latents of a chunk whose first latent is given; as many as there are rays for.

    `method` is one of `samplers.METHODS`, or "staggered": Euler's, each latent a step behind the
    one before it, for denoisers trained with a noise level per latent.
    """
    noise = jax.random.normal(key, (*rays.shape[:2], *first.shape[1:]))
    clean = jnp.zeros_like(noise).at[:, 0].set(first)
    mask = jnp.zeros(noise.shape[:2]).at[:, 0].set(1.0)

    def velocity(x: Array, timestep: Array) -> Any:
        return denoiser.apply({"params": params}, x, timestep, memory=context, rays=rays, text=text)

    schedule = None
    if method == "staggered":
        schedule = samplers.staggered_schedule(steps, rays.shape[1], shift=shift, given=1)
        method = "euler"
    pin = (clean, mask)
    return samplers.sample(
        velocity, noise, steps=steps, shift=shift, method=method, pin=pin, schedule=schedule
    )


@flax.struct.dataclass
class WorldModel:
    """A trained world model; a pytree of parameters with its modules as static fields.

    Attributes:
      encoder: pictures to latents and back.
      head_params, denoiser_params: of `head` and `denoiser`.
      head: geometry from latents.
      denoiser: velocity from noisy latents, memory context and rays.
      size: picture size (H, W).
      chunk_frames: frames of a chunk, one shared with the chunk before.
      readout: options of `conditioning.memory_context`, as pairs.
      steps, shift, method: of the sampler, see `sample_chunk`.
      reencode: write what comes of decoding each keyframe and encoding it alone, as the paper does,
        instead of the image-mode tokens that the head predicts from the clip's latents.
      sky_depth: metres at which sky is remembered.
    """

    encoder: LatentEncoder
    head_params: Any
    denoiser_params: Any
    head: GeometryHead = flax.struct.field(pytree_node=False)
    denoiser: Denoiser = flax.struct.field(pytree_node=False)
    size: tuple[int, int] = flax.struct.field(pytree_node=False)
    chunk_frames: int = flax.struct.field(pytree_node=False)
    readout: tuple[tuple[str, Any], ...] = flax.struct.field(pytree_node=False, default=())
    steps: int = flax.struct.field(pytree_node=False, default=4)
    shift: float = flax.struct.field(pytree_node=False, default=1.0)
    method: str = flax.struct.field(pytree_node=False, default="euler")
    reencode: bool = flax.struct.field(pytree_node=False, default=False)
    sky_depth: float = flax.struct.field(pytree_node=False, default=200.0)

    @property
    def grid(self) -> tuple[int, int]:
        stride = self.encoder.vae.spatial_stride
        return self.size[0] // stride, self.size[1] // stride

    def context(self, bank: memory.LatentMemory, camera: Camera) -> Float[Array, "l h w m"]:
        """What the memory shows along the chunk's frames."""
        return memory_context(bank, camera, self.grid, **dict(self.readout))

    def denoise(
        self,
        first: Float[Array, "b h w c"],
        context: Float[Array, "b l h w m"] | None,
        rays: Float[Array, "b l h w k"],
        key: PRNGKeyArray,
    ) -> Float[Array, "b l h w c"]:
        """Samples the latents of a chunk whose first latent is given."""
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
        )

    def observe(
        self,
        bank: memory.LatentMemory,
        latents: Float[Array, "l h w c"],
        is_image: Array,
        camera: Camera,
        times: Float[Array, " k"],
        depth: Float[Array, "k dh dw"] | None = None,
    ) -> tuple[memory.LatentMemory, memory.WriteReport, Float[Array, "k h w c"]]:
        """Writes the last K latents at the poses of the last frame each covers.

        Geometry is the head's, which sees the latents before those K too; a `depth` in metres (0 =
        unknown, inf = sky) stands in for the head's, at the size of the pictures or any multiple of
        the grid of cells. Returns the memory, what was written, and the image-mode tokens that
        were.
        """
        new = slice(latents.shape[0] - times.shape[0], None)
        found: Any = self.head.apply({"params": self.head_params}, latents[None], is_image[None])
        found = jax.tree.map(lambda leaf: leaf[:, new], found)
        if depth is None:
            depth = jnp.where(found.sky_logit > 0, self.sky_depth, found.depth)[0]
            confidence = found.confidence[0]
        else:
            depth = jnp.where(jnp.isposinf(depth), self.sky_depth, depth)
            confidence = None  # how sure the head is of its own depth says nothing of this one
        bank, report = memory.write(
            bank,
            found.image_tokens[0],
            depth,
            camera,
            static=(found.mover_logit[0] < 0).astype(jnp.float32),
            confidence=confidence,
            times=times,
        )
        return bank, report, found.image_tokens[0]

    def start(
        self,
        picture: Float[Array, "height width 3"],
        camera: Camera,
        capacity: int,
        depth: Float[Array, "height width"] | None = None,
    ) -> tuple[World, memory.WriteReport]:
        """A world that knows one picture.

        Args:
          picture: colours in [-1, 1].
          camera: where it was taken from; no leading dimension.
          capacity: elements that the memory can hold.
          depth: of the picture's pixels in metres, where it is known better than the head can tell:
            0 = unknown (not remembered), inf = sky (remembered at `sky_depth`).
        """
        latent = self.encoder.encode_images(picture[None])
        bank = memory.create(capacity, latent.shape[-1])
        given = None if depth is None else depth[None]
        bank, report, _ = self.observe(
            bank, latent, jnp.ones(1, bool), camera[None], jnp.zeros(1), given
        )
        world = World(
            bank=bank,
            latent=latent[0],
            cam2world=jnp.asarray(camera.cam2world, jnp.float32),
            intrinsics=jnp.asarray(camera.intrinsics, jnp.float32),
            frames=jnp.ones((), jnp.int32),
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
        context = self.context(world.bank, camera) if self.denoiser.memory_channels else None
        rays = camera_rays(camera, self.grid)
        latents = self.denoise(
            world.latent[None], None if context is None else context[None], rays[None], key
        )[0]
        seen = camera[TEMPORAL_STRIDE::TEMPORAL_STRIDE]
        times = (world.frames - 1 + jnp.arange(TEMPORAL_STRIDE, frames, TEMPORAL_STRIDE)).astype(
            jnp.float32
        )
        if self.reencode:
            pictures = jnp.clip(self.encoder.decode(latents[None])[0], -1.0, 1.0)
            looked_at = self.encoder.encode_images(pictures[TEMPORAL_STRIDE::TEMPORAL_STRIDE])
            is_image = jnp.ones(looked_at.shape[0], bool)
        else:
            looked_at, is_image = latents, jnp.arange(latents.shape[0]) == 0
        bank, report, tokens = self.observe(world.bank, looked_at, is_image, seen, times)
        world = World(bank, tokens[-1], cam2world[-1], world.intrinsics, world.frames + frames - 1)
        return world, latents, report


@flax.struct.dataclass
class Chunk:
    """What `rollout` hands to its callback.

    Attributes:
      index: number of the chunk, from 0.
      video: its new frames (the very first picture included in chunk 0), uint8 [T, H, W, 3].
      world: the state after the chunk.
      report: what was written to memory.
    """

    index: int
    video: UInt8[np.ndarray, "t height width 3"]
    world: World
    report: memory.WriteReport


def chunks_of_path(poses: int, chunk_frames: int, name: str = "camera path") -> int:
    """Chunks that a path of `poses` poses (the first one being the picture's) makes.

    Raises:
      ValueError: naming `name`, unless poses = 1 + n (chunk_frames - 1), n >= 1.
    """
    count, rest = divmod(poses - 1, chunk_frames - 1)
    if rest or count < 1:
        step = chunk_frames - 1
        below, above = 1 + max(count, 1) * step, 1 + (max(count, 0) + 1) * step
        raise ValueError(
            f"{name}: found {poses} poses, expected 1 + {step} n, for example "
            f"{below} or {max(above, below + step)}"
        )
    return count


def rollout(
    model: WorldModel,
    world: World,
    path: Float[np.ndarray, "f 4 4"],
    key: PRNGKeyArray,
    on_chunk: Callable[[Chunk], None] | None = None,
) -> World:
    """Walks a world along a camera path, chunk by chunk.

    The device holds one chunk and the memory, whatever the length of the path: keep what you need
    of the frames in `on_chunk`.

    Args:
      model: the trained parts.
      world: where to start; its pose is the path's first.
      path: cam2world of every frame, the first being the frame the world is at.
      key: randomness; chunk n uses `fold_in(key, n)`, n counted from the start of the world, so
        that a continued world gives what an unbroken one would.
      on_chunk: called after each chunk.

    Raises:
      ValueError: on a path of the wrong length, bad poses, or one that starts elsewhere; or if the
        world is another model's.
    """
    check_world(world, model)
    poses = check_cam2world(path, "camera path")
    count = chunks_of_path(len(poses), model.chunk_frames)
    gap = float(np.abs(poses[0] - np.asarray(world.cam2world)).max())
    if gap > 1e-3:
        raise ValueError(
            f"camera path: its first pose is {gap:.3g} away from the world's, expected the same"
        )
    advance, decode = jax.jit(WorldModel.advance), jax.jit(LatentEncoder.decode)
    step = model.chunk_frames - 1
    for index in range(count):
        number = (int(world.frames) - 1) // step
        chunk_poses = jnp.asarray(poses[index * step : (index + 1) * step + 1], jnp.float32)
        fresh = number == 0
        world, latents, report = advance(model, world, chunk_poses, jax.random.fold_in(key, number))
        if on_chunk is not None:
            video = to_uint8(decode(model.encoder, latents[None])[0])
            on_chunk(Chunk(number, video if fresh else video[1:], world, report))
    return world


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
    check_intrinsics(world.intrinsics, model.size, f"{name}: intrinsics")
    check_cam2world(world.cam2world, f"{name}: cam2world")


def save_world(path: Path, world: World) -> None:
    """Writes a world to one safetensors file, so that a rollout can be continued later.

    Raises:
      OSError: naming the file, if writing fails, e.g. on a full disk; an older one is kept.
    """
    flat = {name: np.asarray(leaf, order="C") for name, leaf in _by_name(world).items()}
    partial = path.with_suffix(path.suffix + ".partial")
    try:
        save_tensors(partial, flat, {"format": WORLD_FORMAT}, path)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load_world(path: Path, model: WorldModel | None = None) -> World:
    """Reads what `save_world` wrote.

    Args:
      path: the file.
      model: what is to continue the world, to check it against.

    Raises:
      ValueError: naming the file, on another kind of file, a tensor that is missing, of another
        shape or not finite, or a world that is not the model's.
    """
    try:
        with safe_open(path, "numpy") as file:
            found = (file.metadata() or {}).get("format")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a saved world ({error})") from error
    if found != WORLD_FORMAT:
        raise ValueError(f"{path}: format {found!r}, expected {WORLD_FORMAT!r}")
    missing = [name for name in _by_name(_blank((1, 1, 1), 1)) if name not in tensors]
    if missing:
        raise ValueError(f"{path}: tensor {missing[0]!r} is missing")
    latent, slots = tensors["latent"].shape, tensors["bank/xyz"].shape
    if len(latent) != 3 or len(slots) != 2 or 0 in latent + slots:
        raise ValueError(
            f"{path}: found a last latent of shape {latent} and positions of {slots}, "
            "expected (h, w, C) and (N, 3)"
        )
    blank = jax.eval_shape(lambda: _blank(latent, slots[0]))
    expected = _by_name(blank)
    leaves = {name: tensors[name] for name in expected}
    compare_tensors(str(path), leaves, expected)
    for name, leaf in leaves.items():
        if not np.isfinite(leaf).all():
            raise ValueError(f"{path}: tensor {name!r}: found NaN or infinity, expected numbers")
    world = jax.tree.unflatten(jax.tree.structure(blank), map(jnp.asarray, leaves.values()))
    check_cam2world(world.cam2world, f"{path}: cam2world")
    if model is not None:
        check_world(world, model, str(path))
    return world


def _by_name(world: World) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(world)[0]
    return {"/".join(str(getattr(k, "name", k)) for k in keys): leaf for keys, leaf in leaves}


def _blank(latent: tuple[int, ...], capacity: int) -> World:
    """A world of nothing, for the names and shapes of its parts."""
    return World(
        bank=memory.create(capacity, latent[-1]),
        latent=jnp.zeros(latent),
        cam2world=jnp.zeros((4, 4)),
        intrinsics=jnp.zeros(4),
        frames=jnp.zeros((), jnp.int32),
    )
