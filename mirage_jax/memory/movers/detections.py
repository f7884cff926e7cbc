"""From the mask of a frame to bodies on the floor: where each is, how sure that is, and a crop."""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mirage_jax import geometry
from mirage_jax.memory import pooling
from mirage_jax.memory.movers import cropping
from mirage_jax.memory.movers.connected import components
from mirage_jax.memory.movers.state import DEFAULT, MoverOptions, Movers, horizontal, unit

BEHIND = 0.4
"""How far behind its visible surface a body's middle lies, in widths of the body: the median depth
of a cylinder's near half is .87 of its radius in front of its axis, that of a ball's .71."""
ROUNDNESS = 0.1
"""How much bodies differ in that, in widths."""
FOOT, FOOT_ROUNDNESS = 0.32, 0.12
"""How far behind the lowest ray that meets a body its middle lies where that ray meets the floor,
in widths, and how much bodies differ in that: half a width for an upright cylinder; for a ball half
of it times the tangent of half the ray's slope, .13 for a slope of 30 degrees."""
SLIMMEST, CUT = 0.4, 0.08
"""Least width of an upright body that the picture's edge cuts, and how uncertain its middle is, as
shares of its height."""
MOST_BORDER = 0.15
"""Share of a mask's own size that may be hidden before it counts as cut off."""
UNKNOWN = 1e3
"""Standard deviation in metres of what a frame does not tell."""


@flax.struct.dataclass
class Detections:
    """D places for bodies found in one frame, largest first.

    Attributes:
      valid: `[D]` bool.
      position: `[D, 3]` metres, where the middle of the body meets the floor.
      covariance: `[D, 3, 3]` of the position.
      extent: `[D, 2]` width and height, metres.
      cut: `[D, 3]` unit vector along which the picture's edge hides some of the body, else zero.
      whole: `[D]` bool, whether neither the picture nor anything in front cuts it off.
      pixels: `[D]` int32, of its mask.
      direction: `[D, 3]` unit vector from the middle of the body to the camera, world axes.
      box: `[D, 3]` top, left and side of the square crop, pixels of the mask; the body stands in
        the middle of its lower edge.
      size: `[D]` side of the crop, metres.
      alpha: `[D, a, a]` share of each cell of the crop that the body covers.
      tokens: `[D, a, a, C]` of the crop, see `with_views`; C = 0 where there are none.
      dropped: int32, bodies that had no place.
    """

    valid: Any
    position: Any
    covariance: Any
    extent: Any
    cut: Any
    whole: Any
    pixels: Any
    direction: Any
    box: Any
    size: Any
    alpha: Any
    tokens: Any
    dropped: Any


def none_found(options: MoverOptions, channels: int, frames: int) -> Detections:
    """What `detect` and `with_views` give, one row a frame, where nothing moves: zeros."""
    places, cells = options.detections, options.view_cells

    def zeros(*shape: int, dtype: Any = jnp.float32) -> Array:
        return jnp.zeros((frames, *shape), dtype)

    return Detections(
        valid=zeros(places, dtype=bool),
        position=zeros(places, 3),
        covariance=zeros(places, 3, 3),
        extent=zeros(places, 2),
        cut=zeros(places, 3),
        whole=zeros(places, dtype=bool),
        pixels=zeros(places, dtype=jnp.int32),
        direction=zeros(places, 3),
        box=zeros(places, 3),
        size=zeros(places),
        alpha=zeros(places, cells, cells),
        tokens=zeros(places, cells, cells, channels),
        dropped=zeros(dtype=jnp.int32),
    )


def detect(
    movers: Movers,
    mask: Bool[Array, "height width"] | Int[Array, "height width"],
    depth: Float[Array, "height width"],
    camera: geometry.Camera,
    options: MoverOptions = DEFAULT,
) -> Detections:
    """Finds the bodies of one frame.

    A body's distance is told by the depth of its own pixels and, where the floor is known and the
    body's foot in the picture and free, by where the ray through its foot meets the floor; both
    count by how exact they are. Where they contradict each other the body does not stand on the
    floor, and its own depth counts alone.

    Args:
      movers: the table, for its floor.
      mask: what moves; numbers tell bodies apart where they are known, see `components`.
      depth: z-depth in metres, of the mask's size; 0 = unknown, inf = sky.
      camera: of the frame, no leading dimensions.
      options: sizes and errors.
    """
    height, width = mask.shape
    depth = jnp.where(jnp.isfinite(depth), depth, 0.0)
    most, least, step = options.detections, options.least_pixels, options.depth_step
    found = components(mask, most, least, depth, step)
    grid_camera = geometry.resize_camera(camera, (height, width))

    def one(mask: Array, pixels: Array) -> dict[str, Array]:
        return _measure(movers, mask, pixels, depth, grid_camera, options)

    rows = jax.vmap(one)(found.masks, found.pixels)
    cells = options.view_cells
    return Detections(
        pixels=found.pixels,
        dropped=found.dropped,
        tokens=jnp.zeros((options.detections, cells, cells, 0), jnp.float32),
        **rows,
    )


class _Outline(NamedTuple):
    """A body in the picture: rows and columns of the mask at which it begins and is over.

    Attributes:
      top, bottom, left, right: see above; beyond the picture's edge where that cuts the body.
      middle: column of its middle.
      depth: z-depth of its visible surface, 0 = unknown.
      foot_seen: whether it ends above the lower edge of the picture.
      cut_side: whether the picture's edge cuts its left or right.
      missing: -1 or 1 where its left or its right alone is cut, else 0.
      hidden: whether something nearer may hide its left or right.
      whole: see `Detections`.
    """

    top: Array
    bottom: Array
    left: Array
    right: Array
    middle: Array
    depth: Array
    foot_seen: Array
    cut_side: Array
    missing: Array
    hidden: Array
    whole: Array


class _Foot(NamedTuple):
    """The ray through a body's foot: for one of z-depth, metres along the floor and down."""

    ray: Float[Array, "3"]
    flat: Array
    drop: Array


def _measure(
    movers: Movers,
    mask: Array,
    pixels: Array,
    depth: Array,
    camera: geometry.Camera,
    options: MoverOptions,
) -> dict[str, Array]:
    k = jnp.asarray(camera.intrinsics, jnp.float32)
    pose = jnp.asarray(camera.cam2world, jnp.float32)
    up, centre = movers.up, pose[:3, 3]
    seen = _outline(mask, pixels, depth, k, options.hiding_depth)
    across = seen.depth / k[0]  # metres of a pixel at the body
    body_width = (seen.right - seen.left) * across
    body_height = (seen.bottom - seen.top) * seen.depth / k[1]
    ray = _ray(k, pose, seen.middle, seen.bottom)
    foot = _Foot(ray, jnp.linalg.norm(horizontal(ray, up)), -jnp.sum(ray * up))

    # Both distances are along the horizontal part of the ray through the foot, to the middle.
    own_range = seen.depth * foot.flat + BEHIND * body_width
    own_error = jnp.hypot(options.depth_error * seen.depth * foot.flat, ROUNDNESS * body_width)
    floor_range, floor_error, meets = _floor_range(
        movers, seen, foot, depth, (k, pose), body_width, options
    )
    gap, allowed = own_range - floor_range, 3.0 * jnp.hypot(own_error, floor_error)
    agree = meets & (jnp.abs(gap) <= allowed)
    floor_weight = jnp.where(agree, 1.0 / floor_error**2, 0.0)
    own_weight = 1.0 / own_error**2
    total = own_weight + floor_weight
    distance = (own_weight * own_range + floor_weight * floor_range) / total
    # Metres grow with the distance at which the same pixels are seen.
    scale = distance / jnp.maximum(own_range, 1e-3)
    body_width, body_height = body_width * scale, body_height * scale

    ahead = unit(horizontal(ray, up), -unit(centre, up))
    # Down the ray as far as the surface, then level to the middle.
    surface = jnp.maximum(distance - BEHIND * body_width, 0.0) / jnp.maximum(foot.flat, 1e-3)
    position = centre + ray * surface + ahead * (distance - surface * foot.flat)
    on_floor = position + (movers.floor - jnp.sum(position * up)) * up
    position = jnp.where(agree, on_floor, position)

    along, sideways = 1.0 / jnp.sqrt(total), options.pixel_error * across * scale
    sideways = sideways + jnp.where(seen.cut_side, CUT * body_height, 0.0)
    sideways = sideways + jnp.where(seen.hidden, 0.5 * body_width, 0.0)
    slanted = sideways + along * foot.drop / jnp.maximum(foot.flat, 1e-3)
    upright = jnp.where(seen.foot_seen, slanted, body_height + 1.0)
    upright = jnp.where(agree, options.floor_error, upright)
    axes = jnp.stack([ahead, jnp.cross(ahead, up), up])
    variances = jnp.square(jnp.stack([along, sideways, upright]))
    covariance = jnp.sum(axes[:, :, None] * variances[:, None, None] * axes[:, None, :], axis=0)

    box = _box(seen, options.view_cells)
    to_camera = centre - (position + 0.5 * body_height * up)
    return {
        "valid": (pixels > 0) & (seen.depth > 0) & (body_height <= options.most_height),
        "position": position,
        "covariance": covariance,
        "extent": jnp.stack([body_width, body_height]),
        "cut": seen.missing * axes[1],
        "whole": seen.whole,
        "direction": unit(to_camera, up),
        "box": box,
        "size": box[2] * across * scale,
        "alpha": cropping.crop_alpha(mask, box, options.view_cells),
    }


def _outline(mask: Array, pixels: Array, depth: Array, k: Array, hiding_depth: float) -> _Outline:
    height, width = mask.shape
    top, bottom = _ends(mask.any(axis=1))
    left, right = _ends(mask.any(axis=0))
    cut_left, cut_right = left == 0, right == width
    slimmest = SLIMMEST * (bottom - top) * k[0] / k[1]
    missing = jnp.maximum(slimmest - (right - left), 0.0)
    middle = jnp.sum(mask * (jnp.arange(width) + 0.5)) / jnp.maximum(pixels, 1)
    middle = jnp.where(cut_left | cut_right, 0.5 * (left + right), middle)
    side = cut_right.astype(jnp.float32) - cut_left
    shift = side * missing
    left, right = left + jnp.minimum(shift, 0.0), right + jnp.maximum(shift, 0.0)
    own, _ = pooling.pool_depth(jnp.where(mask, depth, 0.0), (1, 1))
    own = own.reshape(())
    hidden = _share_hidden(mask, depth, hiding_depth * own) >= MOST_BORDER
    foot_seen = bottom < height
    cut_side = cut_left | cut_right
    whole = foot_seen & (top > 0) & ~cut_side & ~hidden
    middle = middle + 0.5 * shift
    return _Outline(top, bottom, left, right, middle, own, foot_seen, cut_side, side, hidden, whole)


def _floor_range(
    movers: Movers,
    seen: _Outline,
    foot: _Foot,
    depth: Array,
    view: tuple[Array, Array],
    body_width: Array,
    options: MoverOptions,
) -> tuple[Array, Array, Array]:
    """How far away a body stands by where the ray through its foot meets the floor.

    Returns:
      Metres along the floor to its middle, their error (`UNKNOWN` where the floor does not tell),
      and whether it does.
    """
    (k, pose), (height, width) = view, depth.shape
    above = jnp.sum(pose[:3, 3] * movers.up) - movers.floor
    meets = seen.foot_seen & (movers.floor_weight > 0) & (foot.drop > 1e-3) & (above > 0)
    column = jnp.clip(seen.middle, 0, width - 1).astype(int)
    under = depth[jnp.minimum(seen.bottom, height - 1), column]
    below = _ray(k, pose, seen.middle, seen.bottom + 0.5)
    floor_under = above / jnp.maximum(-jnp.sum(below * movers.up), 1e-3)
    before = (under > 0) & (under < options.hiding_depth * floor_under)
    meets &= ~before  # something stands before the foot
    floor_depth = jnp.where(meets, above / jnp.where(meets, foot.drop, 1.0), 0.0)
    floor_range = floor_depth * foot.flat + FOOT * body_width
    drop_error = options.pixel_error / k[1]
    relative = jnp.hypot(
        drop_error / jnp.maximum(foot.drop, 1e-3), options.floor_error / jnp.maximum(above, 1e-3)
    )
    error = jnp.hypot(floor_depth * foot.flat * relative, FOOT_ROUNDNESS * body_width)
    return floor_range, jnp.where(meets, error, UNKNOWN), meets


def _box(seen: _Outline, cells: int) -> Float[Array, "3"]:
    """Top, left and side of the square crop of a body, at least a pixel for every cell."""
    side = jnp.maximum(jnp.maximum(seen.right - seen.left, seen.bottom - seen.top), cells)
    side = side.astype(jnp.float32)
    corner = jnp.stack([seen.bottom - side, 0.5 * (seen.left + seen.right) - side / 2])
    return jnp.concatenate([corner, side[None]]).astype(jnp.float32)


def _ends(line: Bool[Array, " n"]) -> tuple[Array, Array]:
    """First number at which a line is true, and the one after the last; both 0 if nowhere."""
    size = line.shape[0]
    last = size - jnp.argmax(line[::-1])
    return jnp.argmax(line), jnp.where(line.any(), last, 0)


def _ray(k: Array, pose: Array, u: Array, v: Array) -> Float[Array, "3"]:
    """World vector from the lens to z-depth 1 at these picture coordinates."""
    local = jnp.stack([(u - k[2]) / k[0], (v - k[3]) / k[1], jnp.ones(())])
    return jnp.sum(pose[:3, :3] * local, axis=-1)


def _share_hidden(mask: Array, depth: Array, before: Array) -> Array:
    """Neighbours beside and above the mask that are nearer than `before`, as a share of the mask's
    border.

    Those below it are left out: there lies the floor in front of it.
    """
    wide = jnp.pad(mask, 1)
    left, right, under = wide[1:-1, 2:], wide[1:-1, :-2], wide[2:, 1:-1]
    border = (left | right | under) & ~mask  # pixels to the left, to the right, above
    nearer = border & (depth > 0) & (depth < before)
    return jnp.sum(nearer) / jnp.maximum(jnp.sum(border), 1)


# -- crops ---------------------------------------------------------------------------------------


def crops(
    picture: Float[Array, "height width c"],
    mask: Bool[Array, "mh mw"] | Int[Array, "mh mw"],
    found: Detections,
    size: int,
) -> Float[Array, "d size size c"]:
    """Square crops of all bodies, enlarged to `size` pixels and on neutral ground (0).

    Args:
      picture: in [-1, 1].
      mask: what moves, of the size that `found` was detected at.
      found: the bodies.
      size: pixels along each side.
    """
    shares = mask.shape[0] / picture.shape[0], mask.shape[1] / picture.shape[1]
    moving = (jnp.asarray(mask) != 0).astype(jnp.float32)

    def one(box: Array) -> Array:
        rows, columns = cropping.sample_points(box, size)
        alpha = cropping.nearest(moving[..., None], rows, columns)
        pixels = cropping.bilinear(picture, rows / shares[0], columns / shares[1])
        return pixels * alpha

    return jax.vmap(one)(found.box)


def measured_as(
    found: Detections, width: Float[Array, " d"], up: Float[Array, "3"]
) -> Float[Array, "d 3"]:
    """Where detections stand if they are of bodies whose width is known, metres.

    The width that one frame shows is a matter of a pixel or two, or of what the picture's edge
    leaves: the middle lies behind the surface, and beside the edge that is seen, in proportion.
    """
    gap = (width - found.extent[:, 0])[:, None]
    away = -unit(horizontal(found.direction, up), jnp.zeros(3))
    return found.position + gap * (BEHIND * away + 0.5 * found.cut)


def with_views(found: Detections, tokens: Float[Array, "d a a c"]) -> Detections:
    """The detections with the tokens of their crops.

    Raises:
      ValueError: if they are not of the crops' cells.
    """
    if tokens.shape[:3] != found.alpha.shape:
        raise ValueError(
            f"movers: tokens of crops have shape {tokens.shape}, expected "
            f"{(*found.alpha.shape, 'C')}"
        )
    return found.replace(tokens=tokens)  # type: ignore[attr-defined]
