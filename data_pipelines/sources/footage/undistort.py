"""Pictures of a lens with distortion as a pinhole sees them."""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Num, UInt8
from PIL import Image

_RADIAL = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")
_EQUIDISTANT = ("k1", "k2", "k3", "k4")
_THIN_PRISM = (*_EQUIDISTANT, "p1", "p2", "sx1", "sy1")
BROWN4 = "BROWN4"
"""Nerfstudio's lens: OpenCV's radial and tangential one, whose k4 is a fourth radial term."""

_COEFFICIENTS = {
    **dict.fromkeys(("SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV"), _RADIAL),
    BROWN4: (*_EQUIDISTANT, "p1", "p2"),
    **dict.fromkeys(("SIMPLE_FISHEYE", "FISHEYE", "OPENCV_FISHEYE"), _EQUIDISTANT),
    **dict.fromkeys(("SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE"), _EQUIDISTANT),
    "THIN_PRISM_FISHEYE": _THIN_PRISM,
}
"""The coefficients of every lens that is undone, by the names that COLMAP has for them."""
_PINHOLES = ("pinhole", "SIMPLE_PINHOLE", "PINHOLE")
_FISHEYES = tuple(name for name in _COEFFICIENTS if name.endswith("FISHEYE"))
_BRIMS = 64  # points along each side of a picture that are looked at
_WIDEST = 8.0  # zoom beyond which next to nothing of the picture would be left


def is_straight(lens: str, coefficients: Mapping[str, float]) -> bool:
    """Whether pictures of a lens are those of a pinhole; a fisheye's are not, bent or not."""
    names = lens.split(" and ")
    perspective = {*_PINHOLES, *_COEFFICIENTS} - {*_FISHEYES}
    return perspective.issuperset(names) and not any(coefficients.values())


def _model(lens: str) -> str:
    """A name whose model all parts of a lens have; ValueError for one that is not undone."""
    names = [name for name in lens.split(" and ") if name not in _PINHOLES] or ["OPENCV"]
    if unknown := [name for name in names if name not in _COEFFICIENTS]:
        raise ValueError(
            f"lens {unknown[0]}: found a model that is not undone, expected one of "
            f"{', '.join(_COEFFICIENTS)}, or pictures that were undistorted before"
        )
    kinds = {_COEFFICIENTS[name] for name in names}
    mixed = len(kinds) > 1 or (names[0] in _FISHEYES and names != lens.split(" and "))
    if mixed:
        raise ValueError(
            f"lens {lens}: found frames of several kinds of lenses, expected one: give them as "
            "scenes of their own"
        )
    return names[0]


def distort(
    rays: Float[np.ndarray, "*b 2"], lens: str, coefficients: Mapping[str, float]
) -> Float[np.ndarray, "*b 2"]:
    """Where a lens puts the rays (x / z, y / z), in units of the focal length.

    OpenCV's radial and tangential model, rational with k4 to k6, or its equidistant fisheye
    (docs.opencv.org, calib3d); `BROWN4`; COLMAP's fisheye with a thin prism, whose radial,
    tangential and prism terms are of the equidistant picture (its sensor/models.h).

    Args:
      rays: directions.
      lens: name of the model as COLMAP has it.
      coefficients: of the model; those that are not given are 0.

    Raises:
      ValueError: another model, or a coefficient that the model does not have.
    """
    model = _model(lens)
    known = _COEFFICIENTS[model]
    unknown = sorted(name for name, value in coefficients.items() if value and name not in known)
    if unknown:
        raise ValueError(f"lens {lens}: found {unknown[0]}, expected only {', '.join(known)}")
    given = {name: float(value) for name, value in coefficients.items()}
    k1, k2, k3, k4, k5, k6, p1, p2 = (given.get(name, 0.0) for name in _RADIAL)
    if model in _FISHEYES:
        r = np.linalg.norm(rays, axis=-1)
        rays = rays * np.where(r > 1e-9, np.arctan(r) / np.maximum(r, 1e-9), 1.0)[..., None]
    x, y = rays[..., 0], rays[..., 1]
    r2 = x * x + y * y
    if known == _RADIAL:
        scale = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    else:
        scale = 1 + r2 * (k1 + r2 * (k2 + r2 * (k3 + r2 * k4)))
    return np.stack(
        [
            x * scale + 2 * p1 * x * y + p2 * (r2 + 2 * x * x) + given.get("sx1", 0.0) * r2,
            y * scale + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y + given.get("sy1", 0.0) * r2,
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
      ValueError: for a lens that no pinhole can stand in for, or as `distort`.
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
