"""Exact depth of a Doom map by casting one ray per pixel, without a loop over pixels or walls.

A level of Doom is a plan of lines with a floor and a ceiling height on either side, so a column of
an upright picture is a walk over the lines that its ray crosses. Each crossing narrows the range
of slopes that can still pass on: the floor rises into it from below, the ceiling from above, and
a solid wall closes it. The bounds are monotone along the column, so the crossing at which a pixel
stops is found by bisection, for all pixels of all frames in one call.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from data_pipelines.sources.doom_map import DoomMap

NEAR = 0.25  # map units; nothing nearer than this is seen


@dataclass(frozen=True)
class RayHits:
    """What each pixel sees.

    depth: along the optical axis, map units; inf where the sky, 0 where unknown (no surface, or
    only seen through a masked texture, whose holes the geometry does not tell).
    sector: whose floor, ceiling or wall it is; -1 where sky or unknown.
    """

    depth: Float[np.ndarray, "n h w"]
    sector: Int[np.ndarray, "n h w"]


@dataclass(frozen=True)
class _Crossings:
    """Lines crossed by the rays of picture columns: sorted by column, then by depth."""

    frame: np.ndarray
    column: np.ndarray  # number of the column among those of all frames
    depth: np.ndarray
    near: np.ndarray  # sector on the camera's side
    far: np.ndarray  # sector beyond, -1 behind a solid line
    see_through: np.ndarray


def cast_rays(
    doom_map: DoomMap,
    eyes: Float[np.ndarray, "n 3"],
    yaws: Float[np.ndarray, " n"],
    intrinsics: Float[np.ndarray, "4"],
    size: tuple[int, int],
    *,
    floor: Float[np.ndarray, "n s"] | None = None,
    ceiling: Float[np.ndarray, "n s"] | None = None,
) -> RayHits:
    """Depth of `n` upright views of a map.

    eyes: (x, y, z), map units. yaws: radians, counter-clockwise from east. intrinsics: fx, fy, cx,
    cy in pixels, centres at +0.5; the vertical stretch of Doom's pixels belongs into fy.
    size: (height, width). floor, ceiling: heights per frame where they differ from the file's.
    """
    height, width = size
    frames, sectors = len(yaws), len(doom_map.floor)
    floor = np.broadcast_to(doom_map.floor if floor is None else floor, (frames, sectors))
    ceiling = np.broadcast_to(doom_map.ceiling if ceiling is None else ceiling, (frames, sectors))
    fx, fy, cx, cy = (float(value) for value in intrinsics)
    ray_x = (np.arange(width) + 0.5 - cx) / fx
    slopes = (cy - (np.arange(height) + 0.5)) / fy
    shown = _visible_lines(doom_map, floor, ceiling)
    crossings = _cross(doom_map, shown, np.asarray(eyes, float), np.asarray(yaws, float), ray_x)
    depth, sector = _stop(
        doom_map, crossings, floor, ceiling, np.asarray(eyes, float)[:, 2], slopes, width
    )
    shape = (frames, width, height)
    return RayHits(
        np.ascontiguousarray(depth.reshape(shape).swapaxes(1, 2)),
        np.ascontiguousarray(sector.reshape(shape).swapaxes(1, 2)),
    )


def _visible_lines(doom_map: DoomMap, floor: np.ndarray, ceiling: np.ndarray) -> np.ndarray:
    """Lines that can stop a ray or that divide different heights; the others change no depth."""
    front, back = doom_map.front, np.maximum(doom_map.back, 0)
    differ = (floor[:, front] != floor[:, back]) | (ceiling[:, front] != ceiling[:, back])
    differ = differ.any(0) | (doom_map.sky[front] != doom_map.sky[back])
    return np.nonzero((doom_map.back < 0) | differ | doom_map.see_through)[0]


def _cross(
    doom_map: DoomMap, lines: np.ndarray, eyes: np.ndarray, yaws: np.ndarray, ray_x: np.ndarray
) -> _Crossings:
    """All crossings up to and including the first solid line of each column."""
    forward = np.stack([np.cos(yaws), np.sin(yaws)], 1)
    rightward = np.stack([np.sin(yaws), -np.cos(yaws)], 1)
    # Vertices, not line ends, are projected: neighbours then share bit-equal picture columns,
    # and no ray slips between them or is stopped twice.
    offset = doom_map.vertices[None] - eyes[:, None, :2]
    right = np.einsum("nvc,nc->nv", offset, rightward)
    ahead = np.einsum("nvc,nc->nv", offset, forward)
    start, end = doom_map.line_vertices[lines].T
    frame, index = np.nonzero((ahead[:, start] > NEAR) | (ahead[:, end] > NEAR))
    right_0, ahead_0 = right[frame, start[index]], ahead[frame, start[index]]
    along_right = right[frame, end[index]] - right_0
    along_ahead = ahead[frame, end[index]] - ahead_0

    first, last = _column_range(right_0, ahead_0, along_right, along_ahead, ray_x)
    count = last - first
    seen = count > 0
    pick = np.repeat(np.nonzero(seen)[0], count[seen])
    before = np.cumsum(count[seen]) - count[seen]
    column = np.arange(len(pick)) - np.repeat(before, count[seen]) + first[pick]

    twice_area = right_0 * along_ahead - ahead_0 * along_right
    denominator = ray_x[column] * along_ahead[pick] - along_right[pick]
    depth = twice_area[pick] / np.where(denominator == 0.0, np.inf, denominator)
    on_front = (twice_area < 0)[pick]
    line = lines[index[pick]]
    column += frame[pick] * len(ray_x)

    solid = doom_map.back[line] < 0
    limit = np.full(len(yaws) * len(ray_x), np.inf)
    np.minimum.at(limit, column[solid], depth[solid])
    kept = np.nonzero(depth <= limit[column])[0]
    kept = kept[np.lexsort((depth[kept], column[kept]))]
    line, on_front = line[kept], on_front[kept]
    front, back = doom_map.front[line], doom_map.back[line]
    return _Crossings(
        frame=frame[pick[kept]],
        column=column[kept],
        depth=depth[kept],
        near=np.where(on_front, front, back),
        far=np.where(on_front, back, front),
        see_through=doom_map.see_through[line],
    )


def _column_range(
    right: np.ndarray,
    ahead: np.ndarray,
    along_right: np.ndarray,
    along_ahead: np.ndarray,
    ray_x: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """First and one past the last picture column whose ray meets each line ahead of the camera."""
    ends = []
    safe = np.where(along_ahead == 0.0, 1.0, along_ahead)
    at_near_plane = right + along_right * (NEAR - ahead) / safe
    for side, depth in ((right, ahead), (right + along_right, ahead + along_ahead)):
        behind = depth < NEAR
        ends.append(np.where(behind, at_near_plane, side) / np.where(behind, NEAR, depth))
    # Rays are compared, not rounded: the same comparison decides for both lines at a vertex.
    low = np.searchsorted(ray_x, np.minimum(*ends))
    high = np.searchsorted(ray_x, np.maximum(*ends))
    return low, high


def _stop(
    doom_map: DoomMap,
    crossings: _Crossings,
    floor: np.ndarray,
    ceiling: np.ndarray,
    eye_z: np.ndarray,
    slopes: np.ndarray,
    width: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Depth and sector per pixel, [columns of all frames, rows]."""
    columns = len(eye_z) * width
    c, total = crossings, len(crossings.depth)
    if total == 0:
        return np.zeros((columns, len(slopes))), np.full((columns, len(slopes)), -1)
    # A line whose camera side is void can only be seen by an eye outside the map: near is -1.
    near, far = np.maximum(c.near, 0), np.maximum(c.far, 0)
    z = eye_z[c.frame]
    near_floor, near_ceiling = floor[c.frame, near] - z, ceiling[c.frame, near] - z
    far_floor, far_ceiling = floor[c.frame, far] - z, ceiling[c.frame, far] - z
    bound = np.abs(slopes).max() + 1.0
    lowest = np.maximum(near_floor, far_floor) / c.depth
    highest = np.minimum(near_ceiling, far_ceiling) / c.depth
    lowest = np.where(c.far < 0, bound, np.clip(lowest, -bound, bound))
    highest = np.where(c.far < 0, -bound, np.clip(highest, -bound, bound))

    # Columns are laid end to end, further apart than any slope, so that one running maximum and
    # one bisection serve all of them.
    spacing = 4.0 * bound
    offset = spacing * np.arange(columns)[:, None]
    rising = np.maximum.accumulate(lowest + spacing * c.column)
    falling = np.maximum.accumulate(-highest + spacing * c.column)
    by_floor = np.searchsorted(rising, (offset + slopes).ravel(), side="right")
    by_ceiling = np.searchsorted(falling, (offset - slopes).ravel(), side="right")
    stop = np.minimum(by_floor, by_ceiling)
    ends = np.searchsorted(c.column, np.arange(columns), side="right")
    begins = np.searchsorted(c.column, np.arange(columns), side="left")
    lost = stop >= np.repeat(ends, len(slopes))
    stop = np.where(lost, 0, stop)

    slope = np.tile(slopes, columns)
    level = slope * c.depth[stop]
    on_floor = level < near_floor[stop]
    on_ceiling = ~on_floor & (level > near_ceiling[stop])
    near_sky = doom_map.sky[near]
    sky_above = near_sky & doom_map.sky[far] & (c.far >= 0)
    is_sky = on_ceiling & near_sky[stop]
    is_sky |= ~on_floor & ~on_ceiling & sky_above[stop] & (level > far_ceiling[stop])
    with np.errstate(divide="ignore", invalid="ignore"):
        plane = np.where(on_floor, near_floor[stop], near_ceiling[stop]) / slope
    depth = np.where(on_floor | on_ceiling, plane, c.depth[stop])
    depth[is_sky] = np.inf

    masked = np.cumsum(c.see_through)
    ahead = np.concatenate([[0], masked])
    through = ahead[stop] > np.repeat(ahead[begins], len(slopes))
    unknown = lost | through | (depth <= 0.0) | (c.near[stop] < 0) | np.isnan(depth)
    depth[unknown] = 0.0
    sector = np.where(unknown | is_sky, -1, near[stop])
    return depth, sector
