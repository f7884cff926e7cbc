"""What a picture says of a body, by comparing it with renderings that differ in that body alone.

Errors are squared and in units of 8-bit colours. Everything but the body is the same in all the
renderings, so that only pixels in which they differ can tip a comparison.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, UInt8

Picture = UInt8[np.ndarray, "height width 3"]
Pictures = UInt8[np.ndarray, "n height width 3"]

CONTRAST = 40.0
"""Length of a colour difference above which a pixel tells a body from what is behind it."""


def squared_error(
    picture: Picture, renderings: Pictures, where: Bool[np.ndarray, "height width"] | None = None
) -> Float[np.ndarray, " n"]:
    """Sum of squared differences between a picture and each of some renderings.

    Args:
      picture: what is judged.
      renderings: what it is compared with.
      where: pixels that count; all by default.
    """
    difference = picture.astype(np.float64) - renderings
    if where is not None:
        difference = difference[:, where]
    return np.square(difference).reshape(len(renderings), -1).sum(1)


def presence(
    picture: Picture,
    there: Pictures,
    absent: Picture,
    where: Bool[np.ndarray, "height width"] | None = None,
) -> Float[np.ndarray, " n"]:
    """For each rendering with the body, how clearly a picture shows it rather than its absence.

    Args:
      picture: what is judged.
      there: renderings with the body in a place each.
      absent: the rendering without it.
      where: pixels that count; all by default.

    Returns:
      From 1, the picture is the rendering in the pixels where the two differ, over 0, it is as near
      to either, to -1, it is the one without; more extreme where it exaggerates the difference.
      -inf where they do not differ at all.
    """
    apart = squared_error(absent, there, where)
    gain = squared_error(picture, absent[None], where) - squared_error(picture, there, where)
    return np.where(apart > 0, gain / np.maximum(apart, 1.0), -np.inf)


def best_placement(picture: Picture, there: Pictures) -> int:
    """Which rendering with the body is nearest to the picture; the first of equals."""
    return int(squared_error(picture, there).argmin())


def nearest_look(picture: Picture, looks: Pictures) -> int:
    """Which of the renderings that differ in the body's look is nearest; the first of equals."""
    return int(squared_error(picture, looks).argmin())


def occlusion_order(
    picture: Picture,
    alone: Picture,
    absent: Picture,
    with_body: Picture,
    silhouette: Bool[np.ndarray, "height width"],
    in_front: Bool[np.ndarray, "height width"],
) -> tuple[int, int]:
    """Pixels of a body's silhouette that show the body where it is in front, and not elsewhere.

    Args:
      picture: what is judged.
      alone: the body and nothing else.
      absent: everything but the body.
      with_body: both.
      silhouette: pixels that the body covers where nothing hides it.
      in_front: those of them in which nothing hides it.

    Returns:
      How many are right, and how many there are; pixels in which body and background look alike
      (`CONTRAST`), or which show some of both, do not count.
    """
    body, behind = _distance(picture, alone), _distance(picture, absent)
    pure = np.where(in_front, _distance(with_body, alone), _distance(with_body, absent))
    counted = silhouette & (_distance(alone, absent) > CONTRAST) & (pure < CONTRAST / 4)
    right = (body < behind) == in_front
    return int((right & counted).sum()), int(counted.sum())


def _distance(one: Picture, other: Picture) -> Float[np.ndarray, "height width"]:
    return np.linalg.norm(one.astype(np.float64) - other, axis=-1)
