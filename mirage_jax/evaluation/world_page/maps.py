"""A memory from above and from two sides: pictures of bins, coloured by what is known there."""

from __future__ import annotations

import base64
import dataclasses
import io

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from mirage_jax.origin import UPS

# Nine stops of matplotlib's viridis.
_SCALE = np.array(
    [[68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141], [39, 173, 129],
     [92, 200, 99], [170, 220, 50], [253, 231, 37]], float,
)  # fmt: skip
_FEWEST_PIXELS, _MOST_PIXELS = 48, 480


@dataclasses.dataclass(frozen=True)
class View:
    """A flat view of the world.

    Attributes:
      name: what it is called.
      across: unit vector to its right.
      upward: unit vector to its upper edge.
      low, high: bounds along the two, metres.
      longest: pixels along the longer side.
      slab: of a section, the distances along what is across the view that it shows, metres; None
        for a plan, which shows all.
    """

    name: str
    across: np.ndarray
    upward: np.ndarray
    low: np.ndarray
    high: np.ndarray
    longest: int = _MOST_PIXELS
    slab: tuple[float, float] | None = None

    def flat(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 2"]:
        """Metres to the right and upwards."""
        return np.asarray(points, np.float64) @ np.stack([self.across, self.upward], axis=1)

    def shows(self, points: Float[np.ndarray, "n 3"]) -> np.ndarray:
        """Which points lie in the slab."""
        if self.slab is None:
            return np.ones(len(points), bool)
        depth = points @ np.cross(self.across, self.upward)
        return (depth >= self.slab[0]) & (depth <= self.slab[1])

    @property
    def pixel(self) -> float:
        """Metres of a pixel."""
        return float((self.high - self.low).max()) / self.longest

    @property
    def pixels(self) -> tuple[int, int]:
        """(rows, columns) of the picture."""
        columns, rows = np.maximum(np.ceil((self.high - self.low) / self.pixel), 1).astype(int)
        return int(rows), int(columns)


def views(
    xyz: Float[np.ndarray, "n 3"], centres: Float[np.ndarray, "f 3"], up: str, slab: float = 0.0
) -> list[View]:
    """The plan, and two sections through the middle of the camera path.

    Args:
      xyz: elements, at least one.
      centres: where the cameras were, at least one.
      up: name of a direction, see `UPS`.
      slab: thickness of a section, metres; 0: a fifth of the extent.
    """
    upward = UPS[up]
    across = np.eye(3)[1 if up[-1] == "x" else 0]
    ahead = np.cross(upward, across)  # so that nothing is mirrored
    # Few elements far away, e.g. of the sky, would make all others a dot.
    low, high = np.percentile(xyz, [0.5, 99.5], axis=0)
    low, high = np.minimum(low, centres.min(0)), np.maximum(high, centres.max(0))
    middle = np.median(centres, axis=0)
    # About two elements to a pixel where they lie evenly, so that walls are not dotted.
    longest = int(np.clip(1.2 * np.sqrt(len(xyz)), _FEWEST_PIXELS, _MOST_PIXELS))

    def bounds(*axes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        corners = np.array([[(low @ axis, high @ axis) for axis in axes]])[0]
        least, most = corners.min(1), corners.max(1)
        margin = 0.04 * (most - least).max() + 1e-3
        return least - margin, most + margin

    def section(name: str, right: np.ndarray, top: np.ndarray) -> View:
        through = np.cross(right, top)
        extent = abs(float((high - low) @ through))
        half = (slab or extent / 5) / 2
        at = float(middle @ through)
        return View(name, right, top, *bounds(right, top), longest, (at - half, at + half))

    return [
        View("from above", across, ahead, *bounds(across, ahead), longest),
        section("section across", across, upward),
        section("section along", ahead, upward),
    ]


def bins(view: View, points: Float[np.ndarray, "n 3"]) -> np.ndarray:
    """The pixel that each point falls into, row * columns + column; -1 outside."""
    rows, columns = view.pixels
    place = (view.flat(points) - view.low) / view.pixel
    column, row = np.floor(place).astype(np.int64).T
    row = rows - 1 - row
    inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns) & view.shows(points)
    return np.where(inside, row * columns + column, -1)


def mean_picture(
    view: View, number: np.ndarray, values: Float[np.ndarray, "n c"]
) -> Float[np.ndarray, "h w c"]:
    """Mean of the values of the points of each pixel, NaN where there are none."""
    rows, columns = view.pixels
    kept = number >= 0
    count = np.bincount(number[kept], minlength=rows * columns)
    sums = [np.bincount(number[kept], c, rows * columns) for c in values[kept].T]
    with np.errstate(invalid="ignore"):
        means = np.stack(sums, axis=1) / count[:, None]
    return np.where(count[:, None] > 0, means, np.nan).reshape(rows, columns, -1)


def distinct_picture(view: View, number: np.ndarray, frame: np.ndarray) -> Float[np.ndarray, "h w"]:
    """How many different frames the points of each pixel come from, NaN where there are none."""
    rows, columns = view.pixels
    kept = number >= 0
    pairs = np.unique(np.stack([number[kept], frame[kept]], axis=1), axis=0)
    count = np.bincount(pairs[:, 0], minlength=rows * columns).astype(float)
    return np.where(count > 0, count, np.nan).reshape(rows, columns)


def coloured(
    values: Float[np.ndarray, "h w"], low: float | int, high: float | int
) -> UInt8[np.ndarray, "h w 4"]:
    """Values on a scale from dark blue to yellow; transparent where they are NaN."""
    known = np.isfinite(values)
    share = (np.where(known, values, low) - low) / max(high - low, 1e-12)
    place = np.clip(share, 0, 1) * (len(_SCALE) - 1)
    stops = np.arange(len(_SCALE))
    rgb = np.stack([np.interp(place, stops, channel) for channel in _SCALE.T], axis=-1)
    alpha = np.where(known, 255, 0)[..., None]
    return np.concatenate([np.round(rgb), alpha], axis=-1).astype(np.uint8)


def data_uri(picture: UInt8[np.ndarray, "h w 4"]) -> str:
    """A picture as the text of a link, PNG."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def scale_css() -> str:
    """The colours of `coloured` as a gradient of CSS, low to high."""
    stops = ",".join("rgb({:.0f} {:.0f} {:.0f})".format(*stop) for stop in _SCALE)
    return f"linear-gradient(90deg,{stops})"
