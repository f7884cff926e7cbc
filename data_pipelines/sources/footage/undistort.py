"""Pictures of a lens with distortion as a pinhole sees them."""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Num, UInt8
from PIL import Image

_RADIAL = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")
_FISHEYES = ("OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE")
_BRIMS = 64  # points along each side of a picture that are looked at
_WIDEST = 8.0  # zoom beyond which next to nothing of the picture would be left


def distort(
    rays: Float[np.ndarray, "*b 2"], lens: str, coefficients: Mapping[str, float]
) -> Float[np.ndarray, "*b 2"]:
    """Where a lens puts the rays (x / z, y / z), in units of the focal length.

    OpenCV's radial and tangential model, rational with k4 to k6, or its equidistant fisheye
    (docs.opencv.org, calib3d).

    Args:
      rays: directions.
      lens: name of the model as COLMAP has it; a fisheye, or anything else for the first.
      coefficients: k1 to k6, p1, p2 of the first; k1 to k4 of a fisheye.

    Raises:
      ValueError: a coefficient that the model does not have.
    """
    fisheye = lens in _FISHEYES
    known = _RADIAL[:4] if fisheye else _RADIAL
    unknown = sorted(name for name, value in coefficients.items() if value and name not in known)
    if unknown:
        raise ValueError(f"lens {lens}: found {unknown[0]}, expected only {', '.join(known)}")
    k1, k2, k3, k4, k5, k6, p1, p2 = (float(coefficients.get(name, 0.0)) for name in _RADIAL)
    x, y = rays[..., 0], rays[..., 1]
    r2 = x * x + y * y
    if fisheye:
        r = np.sqrt(r2)
        angle = np.arctan(r)
        a2 = angle * angle
        bent = angle * (1 + a2 * (k1 + a2 * (k2 + a2 * (k3 + a2 * k4))))
        scale = np.where(r > 1e-9, bent / np.maximum(r, 1e-9), 1.0)
        return rays * scale[..., None]
    scale = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    return np.stack(
        [
            x * scale + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
            y * scale + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
        ],
        axis=-1,
    )


@dataclasses.dataclass(frozen=True)
class Undistortion:
    """From pictures of a lens to those of a pinhole of the same size.

    The pinhole's focal length is the least, from the lens's own on, at which it sees nothing that
    the lens does not: no pixel has to be made up.

    Attributes:
      lens: name of the model.
      coefficients: of it, see `distort`.
      size: (H, W).
      lens_intrinsics: `fx, fy, cx, cy` of the lens.

    Raises:
      ValueError: for a lens that no pinhole can stand in for, or an unknown coefficient.
    """

    lens: str
    coefficients: Mapping[str, float]
    size: tuple[int, int]
    lens_intrinsics: tuple[float, ...]

    def __post_init__(self) -> None:
        _ = self.zoom  # refused here rather than when the first picture is read

    @functools.cached_property
    def zoom(self) -> float:
        """Focal length of the pinhole relative to the lens's."""
        height, width = self.size
        along = np.linspace(0, 1, _BRIMS)
        u = np.concatenate([along * width, along * width, 0 * along, 0 * along + width])
        v = np.concatenate([0 * along, 0 * along + height, along * height, along * height])

        def inside(zoom: float) -> bool:
            seen = self._seen(zoom, u, v)
            return bool(((seen >= -1e-6) & (seen <= np.array([height, width]) + 1e-6)).all())

        low, high = 1.0, 1.0
        while not inside(high):
            low, high = high, high * 1.25
            if high > _WIDEST:
                raise ValueError(
                    f"lens {self.lens} {dict(self.coefficients)}: found no pinhole within its "
                    "picture, expected a distortion that one can be cut out of"
                )
        while high - low > 1e-4:
            middle = (low + high) / 2
            low, high = (low, middle) if inside(middle) else (middle, high)
        return high

    @property
    def intrinsics(self) -> Float[np.ndarray, "4"]:
        """Of the pinhole."""
        return np.asarray(self.lens_intrinsics) * [self.zoom, self.zoom, 1.0, 1.0]

    @functools.cached_property
    def _mesh(self) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
        """Cells of the pinhole's picture, and where the corners of each are in the lens's."""
        height, width = self.size
        # So small that a lens is as good as linear across one, to a hundredth of a pixel.
        cell = int(np.clip(min(self.lens_intrinsics[:2]) / 64, 2, 16))
        u = np.append(np.arange(0, width, cell), width)
        v = np.append(np.arange(0, height, cell), height)
        seen = self._seen(self.zoom, *map(np.asarray, np.meshgrid(u, v)))[..., ::-1]
        return [
            (
                (int(u[x]), int(v[y]), int(u[x + 1]), int(v[y + 1])),
                tuple(
                    float(number)
                    for corner in (seen[y, x], seen[y + 1, x], seen[y + 1, x + 1], seen[y, x + 1])
                    for number in corner
                ),
            )
            for y in range(len(v) - 1)
            for x in range(len(u) - 1)
        ]

    def _seen(self, zoom: float, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        fx, fy, cx, cy = self.lens_intrinsics
        rays = np.stack([(u - cx) / (fx * zoom), (v - cy) / (fy * zoom)], -1)
        bent = distort(rays, self.lens, self.coefficients)
        return np.stack([bent[..., 1] * fy + cy, bent[..., 0] * fx + cx], -1)

    def picture(self, picture: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
        """A picture by linear interpolation."""
        return self._through(picture, Image.Resampling.BILINEAR)

    def nearest(self, values: Num[np.ndarray, "H W"]) -> Num[np.ndarray, "H W"]:
        """z-depth (float32) or labels (int32), which are never blended."""
        return self._through(values, Image.Resampling.NEAREST)

    def _through(self, array: np.ndarray, filter: Image.Resampling) -> np.ndarray:
        image = Image.fromarray(np.ascontiguousarray(array))
        return np.asarray(
            image.transform(image.size, Image.Transform.MESH, self._mesh, resample=filter)
        )
