"""Bodies met by rays, in closed form: boxes, upright cylinders and spheres."""

import numpy as np
from jaxtyping import Float, Int

from data_pipelines.sources.body_kinds import KINDS, Part, part_colours
from data_pipelines.sources.stage import Placed

_LIGHT = np.array([0.4, 0.25, 0.88])
_AMBIENT = 0.6


def meet(
    eye: Float[np.ndarray, "3"], rays: Float[np.ndarray, "p 3"], bodies: tuple[Placed, ...]
) -> tuple[Float[np.ndarray, " p"], Int[np.ndarray, " p"], Float[np.ndarray, "p 3"]]:
    """What rays meet first.

    Args:
      eye: where rays begin, metres.
      rays: their directions, of any length.
      bodies: level ones, as walking bodies are.

    Returns:
      Ray parameters (inf where nothing is met), numbers of the bodies (0 = none), and colours 0..1
      as lit from one side.
    """
    nearest, numbers = np.full(len(rays), np.inf), np.zeros(len(rays), np.int32)
    colours = np.zeros((len(rays), 3))
    for body in bodies:
        turn, kind = body.body2world[:3, :3], KINDS[body.kind]
        at, ways = (eye - body.body2world[:3, 3]) @ turn, rays @ turn
        for part, paint in zip(kind.parts, part_colours(body.look), strict=True):
            middle = np.array([0.0, 0.0, part.height - kind.height / 2])
            depth, normal = _PARTS[part.shape](at - middle, ways, part)
            hit = depth < nearest
            nearest, numbers = np.where(hit, depth, nearest), np.where(hit, body.number, numbers)
            lit = np.maximum(normal[hit] @ turn.T @ _LIGHT, 0.0)
            colours[hit] = paint * (_AMBIENT + (1 - _AMBIENT) * lit)[:, None]
    return nearest, numbers, colours


def _meet_sphere(eye: np.ndarray, rays: np.ndarray, part: Part) -> tuple[np.ndarray, np.ndarray]:
    depth = _quadratic((rays**2).sum(-1), rays @ eye, eye @ eye - part.half[0] ** 2)
    points = eye + np.where(np.isfinite(depth), depth, 0.0)[:, None] * rays
    return depth, points / part.half[0]


def _meet_box(eye: np.ndarray, rays: np.ndarray, part: Part) -> tuple[np.ndarray, np.ndarray]:
    half = np.array(part.half)
    along = np.where(np.abs(rays) < 1e-12, 1e-12, rays)
    enter, leave = (-np.sign(along) * half - eye) / along, (np.sign(along) * half - eye) / along
    axis = enter.argmax(-1)
    near = enter.max(-1)
    depth = np.where((near < leave.min(-1)) & (near > 0), near, np.inf)
    return depth, -np.eye(3)[axis] * np.sign(along)


def _meet_cylinder(eye: np.ndarray, rays: np.ndarray, part: Part) -> tuple[np.ndarray, np.ndarray]:
    radius, half = part.half[0], part.half[2]
    flat = rays[:, :2]
    side = _quadratic(
        np.maximum((flat**2).sum(-1), 1e-24), flat @ eye[:2], eye[:2] @ eye[:2] - radius**2
    )
    side = np.where(np.abs(_height(eye, rays, side)) <= half, side, np.inf)
    upright = np.where(np.abs(rays[:, 2]) < 1e-12, 1e-12, rays[:, 2])
    lid = (-np.sign(upright) * half - eye[2]) / upright
    across = np.linalg.norm(eye[:2] + lid[:, None] * flat, axis=-1)
    lid = np.where((lid > 0) & (across <= radius), lid, np.inf)
    depth = np.minimum(side, lid)
    points = eye + np.where(np.isfinite(depth), depth, 0.0)[:, None] * rays
    normal = points * [1 / radius, 1 / radius, 0.0]
    normal[lid < side] = 0.0
    normal[lid < side, 2] = -np.sign(upright[lid < side])
    return depth, normal


def _height(eye: np.ndarray, rays: np.ndarray, depth: np.ndarray) -> np.ndarray:
    return eye[2] + np.where(np.isfinite(depth), depth, 0.0) * rays[:, 2]


def _quadratic(a: np.ndarray, b: np.ndarray, c: float) -> np.ndarray:
    """The smaller root of a t^2 + 2 b t + c, inf where there is none above 0."""
    discriminant = b**2 - a * c
    near = (-b - np.sqrt(np.maximum(discriminant, 0.0))) / a
    return np.where((discriminant > 0) & (near > 0), near, np.inf)


_PARTS = {"sphere": _meet_sphere, "box": _meet_box, "cylinder": _meet_cylinder}
