"""Bodies in a view: upright pictures of them, hidden by what stands nearer."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
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
    chosen = _facing(movers, pose[:3, 3])
    front = _front(movers, chosen, camera, static)

    def points(values: Array) -> Array:
        return values.reshape(*values.shape[:-2], h, samples, w, samples)

    # One body per cell: that of most of its points.
    winner = points(front.slot)
    numbers = jnp.arange(movers.slots, dtype=jnp.int32)
    counts = jnp.sum(winner == numbers[:, None, None, None, None], axis=(2, 4), dtype=jnp.int32)
    best = jnp.argmax(counts, axis=0).astype(jnp.int32)
    count = jnp.max(counts, axis=0)
    there = count > 0
    owned = winner == best[:, None, :, None]

    def middle(values: Array) -> Array:
        total = jnp.sum(jnp.where(owned, points(values), 0), axis=(1, 3))
        return total // jnp.maximum(count, 1)

    tokens = chosen.tokens[best, middle(front.row), middle(front.column)]
    depth = jnp.min(jnp.where(owned, points(front.z), jnp.inf), axis=(1, 3))
    since = movers.time - movers.last_seen
    return MoverReadOut(
        tokens=jnp.where(there[..., None], tokens, 0),
        alpha=count.astype(jnp.float32) / samples**2,
        depth=jnp.where(there, depth, 0.0),
        age=jnp.where(there, since[best], 0.0),
        uncertainty=jnp.where(there, movers.uncertainty[best], 0.0),
        source=jnp.where(there, best, -1),
    )


@flax.struct.dataclass
class _Views:
    """Of every slot the view that is most like what a camera sees; leading dimension `[K]`.

    Attributes:
      shown: whether the body is confirmed and has a view.
      tokens: `[K, a, a, C]`.
      alpha: `[K, b, b]`.
      side: metres along the view's sides.
    """

    shown: Any
    tokens: Any
    alpha: Any
    side: Any


def _facing(movers: Movers, centre: Array) -> _Views:
    """The views most like those from a place."""
    apart = views.angles(movers, unit(_to_camera(movers, centre), movers.up))
    view = jnp.argmin(apart, axis=-1)

    def pick(rows: Array) -> Array:
        index = view.reshape(-1, *(1,) * (rows.ndim - 1))
        return jnp.take_along_axis(rows, index, axis=1)[:, 0]

    return _Views(
        shown=movers.shown & movers.view_valid.any(axis=-1),  # the same for every camera
        tokens=pick(movers.view_tokens),
        alpha=pick(movers.view_alpha),
        side=pick(movers.view_size),
    )


def _to_camera(movers: Movers, centre: Array) -> Array:
    return centre - (movers.position + 0.5 * movers.extent[:, 2:] * movers.up)


@flax.struct.dataclass
class _Front:
    """What is nearest at every point of a view; leading dimensions `[h, w]`.

    Attributes:
      z: z-depth in metres, infinite where no body is.
      slot: int32, of the body; `NO_SLOT` where none is.
      row, column: int32, the cell of its view that the point shows.
    """

    z: Any
    slot: Any
    row: Any
    column: Any


def _front(movers: Movers, chosen: _Views, camera: geometry.Camera, static: Array) -> _Front:
    """Draws body by body what nothing hides; slots that show none take no time, but under `vmap`.

    Args:
      movers: the table.
      chosen: a view of each.
      camera: one, whose size is that of the points.
      static: depth of what stands still, in blocks of them.
    """
    shape, centre, up = camera.size, camera.cam2world[:3, 3], movers.up
    rays = geometry.lift(jnp.ones(shape, jnp.float32), camera) - centre  # one metre of z-depth
    ahead = unit(horizontal(camera.cam2world[:3, 2], up), up)
    facing = unit(horizontal(_to_camera(movers, centre), up), -ahead)
    right = jnp.cross(up, facing)
    gap = centre - movers.position
    cells = movers.view_tokens.shape[2]  # of a view drawn at pixels more than of its alpha

    block = (shape[0] // static.shape[0], shape[1] // static.shape[1])
    # A block's depth is that of one of its points. As the lowest it is floor if any of them is.
    heights = _dot(rays, up).reshape(static.shape[0], block[0], static.shape[1], block[1])
    height = jnp.sum(centre * up) + static * jnp.min(heights, axis=(1, 3))
    static, height = (jnp.repeat(jnp.repeat(v, block[0], 0), block[1], 1) for v in (static, height))

    def drawn(slot: Array) -> tuple[Array, Array, Array]:
        slope = _dot(rays, facing[slot])
        crosses = slope < -1e-6
        z = jnp.sum(-gap[slot] * facing[slot]) / jnp.where(crosses, slope, -1.0)
        side = jnp.maximum(chosen.side[slot], 1e-3)

        def along(axis: Array) -> Array:
            return (jnp.sum(gap[slot] * axis) + z * _dot(rays, axis)) / side

        column, row = along(right[slot]) + 0.5, 1.0 - along(up)
        inside = (column >= 0) & (column < 1) & (row >= 0) & (row < 1) & crosses & (z > NEAR)
        row, column = jnp.where(inside, row, 0.0), jnp.where(inside, column, 0.0)
        covers = inside & (_covered(chosen.alpha[slot], row, column) >= LEAST_ALPHA)
        above = height - jnp.sum(movers.position[slot] * up)
        stands = above > ON_FLOOR * movers.extent[slot, 2]
        hidden = (static > 0) & stands & (static < z)
        places = ((x * cells).astype(jnp.int32) for x in (row, column))
        return jnp.where(covers & ~hidden, z, jnp.inf), *places

    def draw(front: _Front, slot: Array) -> tuple[_Front, None]:
        def closer() -> _Front:
            z, row, column = drawn(slot)
            nearer = z < front.z  # of equally near ones the lowest slot stays
            new = _Front(z, jnp.full(shape, slot), row, column)
            return jax.tree.map(lambda one, other: jnp.where(nearer, one, other), new, front)

        return jax.lax.cond(chosen.shown[slot], closer, lambda: front), None

    nowhere = jnp.zeros(shape, jnp.int32)
    start = _Front(jnp.full(shape, jnp.inf), nowhere + NO_SLOT, nowhere, nowhere)
    return jax.lax.scan(draw, start, jnp.arange(movers.slots, dtype=jnp.int32))[0]


def _dot(rays: Float[Array, "h w 3"], axis: Float[Array, "3"]) -> Float[Array, "h w"]:
    """Sums of three, written out: over a last axis of three they take a CPU four times as long."""
    return rays[..., 0] * axis[0] + rays[..., 1] * axis[1] + rays[..., 2] * axis[2]


def _covered(
    alpha: Float[Array, "a a"], row: Float[Array, "h w"], column: Float[Array, "h w"]
) -> Float[Array, "h w"]:
    """Share covered at points of a view, from 0 to 1 down and across, linear between cells."""
    cells = alpha.shape[-1]
    places = [jnp.clip(x * cells - 0.5, 0.0, cells - 1.0) for x in (row, column)]
    (top, left), (down, over) = zip(*((x.astype(jnp.int32), x % 1.0) for x in places), strict=True)
    bottom, right = jnp.minimum(top + 1, cells - 1), jnp.minimum(left + 1, cells - 1)
    upper = alpha[top, left] * (1.0 - over) + alpha[top, right] * over
    lower = alpha[bottom, left] * (1.0 - over) + alpha[bottom, right] * over
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
