"""Bodies in a view: upright pictures of them, hidden by what stands nearer."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mirage_jax import geometry
from mirage_jax.memory.movers import views
from mirage_jax.memory.movers.plan import Obstacles
from mirage_jax.memory.movers.state import DEFAULT, MoverOptions, Movers, horizontal, unit
from mirage_jax.memory.movers.unseen import advance
from mirage_jax.memory.readout import NEAR, NO_SLOT, flatten

SAMPLES = 4
"""Points per cell and axis at which it is asked what covers it, unless told."""
LEAST_ALPHA = 0.5
"""Share covered, between the middles of a view's cells, from which on a point shows the body: a
cell is a quarter of the body's height, its outline runs through it."""
ON_FLOOR = 0.15
"""Share of a body's height above its foot up to which what stands still does not hide it: that is
the floor it stands on, which a cell shows a little nearer or farther than it is at the foot."""


@flax.struct.dataclass
class MoverReadOut:
    """What bodies show at target poses; leading dimensions are those of the camera.

    Attributes:
      tokens: `[..., h, w, C]`, of the view most like the current one, zero where no body is.
      alpha: `[..., h, w]` share of the cell that bodies cover and nothing hides.
      depth: `[..., h, w]` z-depth of the body in metres, 0 where none is.
      age: `[..., h, w]` seconds since it was last seen, 0 where none is.
      uncertainty: `[..., h, w]` standard deviation of where it is, metres.
      source: `[..., h, w]` int32, its slot, -1 where none is.
    """

    tokens: Any
    alpha: Any
    depth: Any
    age: Any
    uncertainty: Any
    source: Any


def read(
    movers: Movers,
    camera: geometry.Camera,
    grid: tuple[int, int],
    static_depth: Float[Array, "*b sh sw"] | None = None,
    samples: int = SAMPLES,
) -> MoverReadOut:
    """Shows confirmed bodies where they are at `movers.time`.

    Each is drawn upright, turned to the camera, with the view whose direction is most like the
    current one. A cell shows the body that covers most of it; of several the nearest hides the
    others, point by point, and of equally near ones the lowest slot.

    Args:
      movers: the table.
      camera: target cameras, any leading dimensions.
      grid: cells (h, w).
      static_depth: of what stands still in these views (`memory.read(...).depth`), 0 = nothing; of
        the cells, or of blocks of them.
      samples: points per cell and axis at which it is asked what covers it; 1 where cells are
        pixels.

    Raises:
      ValueError: if the cells are not square, or blocks of `static_depth` no whole numbers of
        points.
    """
    geometry.check_shape(camera, grid)
    lead = camera.shape
    flat = flatten(camera)
    depth = jnp.zeros((len(flat), 1, 1)) if static_depth is None else static_depth
    depth = jnp.asarray(depth, jnp.float32).reshape(len(flat), *depth.shape[-2:])
    points = (grid[0] * samples, grid[1] * samples)
    if points[0] % depth.shape[1] or points[1] % depth.shape[2]:
        raise ValueError(
            f"static_depth: found {depth.shape[1:]} blocks, expected divisors of {points} points"
        )
    out = jax.vmap(lambda k, pose, z: _read_one(movers, k, pose, z, camera.size, grid, samples))(
        flat.intrinsics, flat.cam2world, depth
    )
    return jax.tree.map(lambda x: x.reshape(*lead, *x.shape[1:]), out)


def _read_one(
    movers: Movers,
    k: Array,
    pose: Array,
    static: Array,
    size: tuple[int, int],
    grid: tuple[int, int],
    samples: int,
) -> MoverReadOut:
    h, w = grid
    fine = (h * samples, w * samples)
    camera = geometry.resize_camera(geometry.Camera(k, pose, size), fine)
    centre, up = pose[:3, 3], movers.up
    rays = geometry.lift(jnp.ones(fine, jnp.float32), camera) - centre  # one metre of z-depth
    forward = pose[:3, 2]

    def points(values: Array) -> Array:
        return values.reshape(*values.shape[:-2], h, samples, w, samples)

    block = (fine[0] // static.shape[0], fine[1] // static.shape[1])

    def widened(values: Array) -> Array:
        return jnp.repeat(jnp.repeat(values, block[0], 0), block[1], 1)

    to_camera = centre - (movers.position + 0.5 * movers.extent[:, 2:] * up)
    apart = views.angles(movers, unit(to_camera, up))
    view = jnp.argmin(apart, axis=-1)
    has_view = jnp.isfinite(jnp.take_along_axis(apart, view[:, None], 1)[:, 0])

    def pick(rows: Array) -> Array:
        index = view.reshape(-1, *(1,) * (rows.ndim - 1))
        return jnp.take_along_axis(rows, index, axis=1)[:, 0]

    alpha, side = pick(movers.view_alpha), pick(movers.view_size)
    facing = unit(horizontal(to_camera, up), -unit(horizontal(forward, up), up))
    right = jnp.cross(up, facing)
    away = jnp.sum((movers.position - centre) * facing, axis=-1)  # along the plane's normal
    slope = jnp.einsum("hwc,kc->khw", rays, facing, precision=jax.lax.Precision.HIGHEST)
    crosses = slope < -1e-6
    z = away[:, None, None] / jnp.where(crosses, slope, -1.0)
    gap = centre - movers.position

    def along(axis: Array) -> Array:
        start = jnp.sum(gap * axis, axis=-1)[:, None, None]
        rate = jnp.einsum("hwc,kc->khw", rays, axis, precision=jax.lax.Precision.HIGHEST)
        return (start + z * rate) / jnp.maximum(side, 1e-3)[:, None, None]

    column = along(right) + 0.5
    row = 1.0 - along(jnp.broadcast_to(up, right.shape))
    inside = (column >= 0) & (column < 1) & (row >= 0) & (row < 1) & crosses & (z > NEAR)
    inside &= (movers.shown & has_view)[:, None, None]
    row, column = jnp.where(inside, row, 0.0), jnp.where(inside, column, 0.0)
    covers = inside & (_covered(alpha, row, column) >= LEAST_ALPHA)
    cells = movers.view_tokens.shape[2]  # of a view drawn at pixels more than of its alpha
    cell_row, cell_column = ((x * cells).astype(jnp.int32) for x in (row, column))

    # A block's depth is that of one of its points. As the lowest it is floor if any of them is.
    heights = jnp.sum(rays * up, axis=-1)
    heights = heights.reshape(static.shape[0], block[0], static.shape[1], block[1])
    lowest = jnp.min(heights, axis=(1, 3))
    height = widened(jnp.sum(centre * up) + static * lowest)
    static = widened(static)
    above = height[None] - jnp.sum(movers.position * up, axis=-1)[:, None, None]
    stands = above > ON_FLOOR * movers.extent[:, 2, None, None]
    hidden = (static > 0) & stands & (static < z)
    z = jnp.where(covers & ~hidden, z, jnp.inf)
    # As for the static z-buffer: what is reduced must be what is compared.
    z = jax.lax.optimization_barrier(z)
    nearest = jnp.min(z, axis=0)
    numbers = jnp.arange(movers.slots, dtype=jnp.int32)[:, None, None]
    winner = jnp.min(jnp.where((z == nearest) & jnp.isfinite(z), numbers, NO_SLOT), axis=0)

    # One body per cell: that of most of its points.
    owned = points(winner[None] == numbers)
    counts = jnp.sum(owned, axis=(2, 4), dtype=jnp.int32)
    best = jnp.argmax(counts, axis=0).astype(jnp.int32)
    count = jnp.max(counts, axis=0)
    there = count > 0

    def of_best(values: Array) -> Array:
        """Values of every body at every point -> of the cell's body, 0 at points not its own."""
        values = jnp.where(owned, points(values), 0.0)
        return jnp.take_along_axis(values, best[None, :, None, :, None], axis=0)[0]

    def middle(values: Array) -> Array:
        total = jnp.sum(of_best(values.astype(jnp.float32)), axis=(1, 3))
        return jnp.floor(total / jnp.maximum(count, 1)).astype(jnp.int32)

    tokens = pick(movers.view_tokens)[best, middle(cell_row), middle(cell_column)]
    depth = jnp.min(jnp.where(of_best(jnp.ones_like(z)) > 0, of_best(z), jnp.inf), axis=(1, 3))
    since = movers.time - movers.last_seen
    return MoverReadOut(
        tokens=jnp.where(there[..., None], tokens, 0),
        alpha=count.astype(jnp.float32) / samples**2,
        depth=jnp.where(there, depth, 0.0),
        age=jnp.where(there, since[best], 0.0),
        uncertainty=jnp.where(there, movers.uncertainty[best], 0.0),
        source=jnp.where(there, best, -1),
    )


def _covered(
    alpha: Float[Array, "k a a"], row: Float[Array, "k h w"], column: Float[Array, "k h w"]
) -> Float[Array, "k h w"]:
    """Share covered at points of views, from 0 to 1 down and across, linear between cells."""
    cells = alpha.shape[-1]
    slots = np.arange(alpha.shape[0])[:, None, None]
    places = [jnp.clip(x * cells - 0.5, 0.0, cells - 1.0) for x in (row, column)]
    (top, left), (down, over) = zip(*((x.astype(jnp.int32), x % 1.0) for x in places), strict=True)
    bottom, right = jnp.minimum(top + 1, cells - 1), jnp.minimum(left + 1, cells - 1)
    upper = alpha[slots, top, left] * (1.0 - over) + alpha[slots, top, right] * over
    lower = alpha[slots, bottom, left] * (1.0 - over) + alpha[slots, bottom, right] * over
    return upper * (1.0 - down) + lower * down


def read_along(
    movers: Movers,
    camera: geometry.Camera,
    times: Float[Array, " n"],
    grid: tuple[int, int],
    static_depth: Float[Array, "n sh sw"],
    obstacles: Obstacles | None = None,
    options: MoverOptions = DEFAULT,
    samples: int = SAMPLES,
) -> MoverReadOut:
    """`read` along a path: every view shows bodies where they will be by then.

    Args:
      movers: the table.
      camera: target cameras, leading dimension [n].
      times: of each, seconds, never decreasing.
      grid: cells (h, w).
      static_depth: of what stands still, 0 = nothing, see `read`.
      obstacles: what is in bodies' way.
      options: of `advance`.
      samples: see `read`.
    """

    def step(table: Movers, view: tuple[Any, Array, Array]) -> tuple[Movers, MoverReadOut]:
        at, time, depth = view
        table = advance(table, time, obstacles, options)
        return table, read(table, at, grid, depth, samples)

    return jax.lax.scan(step, movers, (flatten(camera), times, static_depth))[1]
