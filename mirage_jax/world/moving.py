"""Moving bodies of a world: brought into the table frame by frame, and read along a chunk."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float

from mirage_jax import memory
from mirage_jax.geometry import Camera
from mirage_jax.memory import movers
from mirage_jax.memory.movers import CONFIRMED, Detections, MoverOptions, MoverReport, Movers
from mirage_jax.origin import Origin

T = TypeVar("T")

LEAST_DEPTH = 0.1
"""Metres below which inverse depths are not told apart."""
FLAGS = 3
"""Channels of a body beside its token: alpha, age, uncertainty."""


def start(camera: Camera, channels: int, options: MoverOptions) -> Movers:
    """An empty table for a world that begins with these cameras, which are held upright.

    Args:
      camera: of the first pictures, leading dimension [k].
      channels: of a token.
      options: sizes.
    """
    return movers.create(channels, movers.estimate_up(camera.cam2world), options)


def timed(origin: Origin, options: MoverOptions | None) -> Origin:
    """The origin of a world with bodies, which says how long a frame takes.

    Raises:
      ValueError: if it says so already, and otherwise than the options.
    """
    if options is None:
        return origin
    seconds = 1.0 / options.fps
    if origin.frame_seconds is not None and abs(origin.frame_seconds - seconds) > 1e-6 * seconds:
        raise ValueError(
            f"origin: frame_seconds: found {origin.frame_seconds:g}, expected {seconds:g} as "
            f"bodies are kept at {options.fps:g} frames a second"
        )
    return dataclasses.replace(origin, frame_seconds=origin.frame_seconds or seconds)


def observe(
    table: Movers,
    bank: memory.LatentMemory,
    pictures: Float[Array, "k height width 3"],
    moving: Bool[Array, "k mh mw"],
    depth: Float[Array, "k dh dw"],
    camera: Camera,
    times: Float[Array, " k"],
    *,
    encode: Callable[[Float[Array, "n s s 3"]], Float[Array, "n a a c"]],
    stride: int,
    options: MoverOptions,
    measured: bool = False,
    batched: bool = False,
) -> tuple[Movers, MoverReport]:
    """Brings frames into the table, one after the other; appearances are encoded crops.

    Args:
      table: the bodies known so far.
      bank: what stands still.
      pictures: the frames, in [-1, 1].
      moving: what is taken to move; its size and that of `depth` are multiples of one another.
      depth: z-depth in metres; 0 = unknown.
      camera: of the frames.
      times: numbers of the frames.
      encode: pictures to image-mode latents.
      stride: pixels of a latent's cell.
      options: the filter's numbers.
      measured: whether depth is given, and not the head's: `given_depth_error`,
        `given_depth_step` and `given_hiding_depth` hold.
      batched: whether this runs under `vmap`; else frames in which nothing moves take less time.

    Returns:
      The table, and the counts of all frames together.
    """
    moving, depth = same_size(moving, depth)
    share = moving.shape[1] * moving.shape[2] / (pictures.shape[1] * pictures.shape[2])
    options = dataclasses.replace(
        options,
        least_pixels=max(round(options.least_pixels * share), 1),
        birth_pixels=max(round(options.birth_pixels * share), 1),
    )
    if measured:
        options = dataclasses.replace(
            options,
            depth_error=options.given_depth_error,
            depth_step=options.given_depth_step,
            hiding_depth=options.given_hiding_depth,
        )

    def floors(table: Movers, frame: tuple[Any, ...]) -> tuple[Movers, Array]:
        mask, metres, view = frame
        return movers.update_floor(table, metres, mask, view)

    table, scales = jax.lax.scan(floors, table, (moving, depth, camera))
    depth = depth * scales[:, None, None]

    def find() -> Detections:
        found = jax.vmap(lambda m, z, view: movers.detect(table, m, z, view, options))(
            moving, depth, camera
        )
        size = options.view_cells * stride
        crops = jax.vmap(lambda p, m, d: movers.crops(p, m, d, size))(pictures, moving, found)
        # Encoding is not to be fused with the cutting out: XLA then compiles for minutes on a CPU.
        crops = jax.lax.optimization_barrier(crops)
        tokens = encode(crops.reshape(-1, size, size, crops.shape[-1]))
        tokens = tokens.reshape(*crops.shape[:2], *tokens.shape[1:])
        return jax.vmap(movers.with_views)(found, tokens)

    nothing = movers.none_found(options, table.view_tokens.shape[-1], len(moving))
    found = find() if batched else _if_any(moving, find, nothing)
    # Only now is the floor known of a world that begins. Where a body is seen no wall stands.
    plan = movers.obstacles(table, bank, jnp.asarray(camera.centre)[-1], options)
    plan = plan.without(found.position, 0.5 * found.extent[..., 0], found.valid)

    def step(table: Movers, frame: tuple[Any, ...]) -> tuple[Movers, MoverReport]:
        bodies, metres, mask, view, time = frame
        return movers.observe(
            table, bodies, metres, mask, view, time, obstacles=plan, options=options
        )

    seconds = times / options.fps
    table, reports = jax.lax.scan(step, table, (found, depth, moving, camera, seconds))
    return table, jax.tree.map(lambda counts: jnp.sum(counts, dtype=jnp.int32), reports)


def free_of_bodies(
    still: Float[Array, "k sh sw"], grid: tuple[int, int], options: MoverOptions
) -> Float[Array, "k h w"]:
    """1 where a cell shows next to nothing of what moves: a token keeps all that its cell shows,
    and what it keeps of a body would stay where that was.

    Args:
      still: share that stands still, of cells or finer.
      grid: cells (h, w).
      options: for `most_covered`.
    """
    covered = 1.0 - memory.pool_static(still, grid)
    return (covered <= options.most_covered).astype(jnp.float32)


def _if_any(which: Bool[Array, "*shape"], made: Callable[[], T], nothing: T) -> T:
    """What is made, or nothing where nothing is true: then it takes no time, but under `vmap`."""
    found: T = jax.lax.cond(jnp.any(which), made, lambda: nothing)
    return found


def same_size(
    moving: Bool[Array, "k mh mw"], depth: Float[Array, "k dh dw"]
) -> tuple[Bool[Array, "k h w"], Float[Array, "k h w"]]:
    """A mask and a depth of the larger of their sizes, the other's pixels repeated.

    Raises:
      ValueError: if neither is a multiple of the other.
    """
    height, width = (max(a, b) for a, b in zip(moving.shape[1:], depth.shape[1:], strict=True))
    for name, shape in (("moving", moving.shape), ("depth", depth.shape)):
        if height % shape[1] or width % shape[2]:
            raise ValueError(
                f"{name}: found size {shape[1:]}, expected one that divides {(height, width)}"
            )

    def repeated(values: Array) -> Array:
        values = jnp.repeat(values, height // values.shape[1], axis=1)
        return jnp.repeat(values, width // values.shape[2], axis=2)

    return repeated(moving), repeated(depth)


def read_channels(
    table: Movers | None,
    bank: memory.LatentMemory,
    camera: Camera,
    times: Float[Array, " n"],
    static_depth: Float[Array, "n h w"],
    *,
    channels: int,
    options: MoverOptions,
    backwards: bool = False,
) -> Float[Array, "n h w c"]:
    """What bodies show in views along a path: token, alpha, and the logarithms of 1 + age and 1 +
    uncertainty where a body is; zero where none is, and everywhere without a table.

    Args:
      table: the bodies; None = none are known.
      bank: what stands still.
      camera: of the views, leading dimension [n].
      times: of each, numbers of frames, never decreasing.
      static_depth: what stands still in them, 0 = nothing.
      channels: of a token.
      options: the filter's numbers.
      backwards: whether the times never increase instead.
    """
    views, h, w = static_depth.shape
    if table is None:
        return jnp.zeros((views, h, w, channels + FLAGS), jnp.float32)
    seen = _read(table, bank, camera, times, (h, w), static_depth, options, backwards)
    flags = [seen.alpha, jnp.log1p(seen.age), jnp.log1p(seen.uncertainty)]
    return jnp.concatenate([seen.tokens.astype(jnp.float32), jnp.stack(flags, -1)], axis=-1)


def read_pictures(
    table: Movers | None,
    bank: memory.LatentMemory,
    camera: Camera,
    times: Float[Array, " n"],
    static_depth: Float[Array, "n sh sw"],
    *,
    decode: Callable[[Float[Array, "*b c"]], Float[Array, "*b s s 3"]],
    options: MoverOptions,
    backwards: bool = False,
) -> Float[Array, "n height width 4"]:
    """What bodies show at the pixels of views along a path: colour in [-1, 1] and inverse depth in
    1/m, zero where none is.

    Args:
      table, bank, camera, times, options, backwards: as for `read_channels`.
      static_depth: what stands still in blocks of their pixels, 0 = nothing.
      decode: tokens to the pixels of their cells.
    """
    nothing = jnp.zeros((*camera.shape, *camera.size, 4), jnp.float32)
    if table is None:
        return nothing
    grid = camera.size

    def drawn() -> Array:
        pictures = rearrange(decode(table.view_tokens), "k v h w y x c -> k v (h y) (w x) c")
        shown = table.replace(view_tokens=pictures)  # type: ignore[attr-defined]
        seen = _read(shown, bank, camera, times, grid, static_depth, options, backwards, samples=1)
        inverse = jnp.where(seen.depth > 0, 1.0 / jnp.maximum(seen.depth, LEAST_DEPTH), 0.0)
        return jnp.concatenate([seen.tokens.astype(jnp.float32), inverse[..., None]], axis=-1)

    return _if_any(table.status == CONFIRMED, drawn, nothing)


def _read(
    table: Movers,
    bank: memory.LatentMemory,
    camera: Camera,
    times: Array,
    grid: tuple[int, int],
    static_depth: Array,
    options: MoverOptions,
    backwards: bool,
    **given: Any,
) -> movers.MoverReadOut:
    step = -1 if backwards else 1
    camera, times, static_depth = camera[::step], times[::step], static_depth[::step]
    plan = movers.obstacles(table, bank, jnp.asarray(camera.centre)[0], options)
    seconds = times / options.fps
    seen = movers.read_along(table, camera, seconds, grid, static_depth, plan, options, **given)
    return jax.tree.map(lambda field: field[::step], seen)
