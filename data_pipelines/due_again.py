"""Which bodies of a clip go out of sight in its first half and show again in its second."""

import dataclasses

import numpy as np
from jaxtyping import Int

from data_pipelines.clip import Bodies, Clip


@dataclasses.dataclass(frozen=True)
class Sight:
    """What counts as seeing a body, in pixels that show it."""

    last: int = 10  # of what counts as the last sight of it
    known: int = 40  # in the best view before, at least
    due: int = 40  # in a view in which it shows again
    hidden: int = 4  # simulated frames from one to the other, at least


@dataclasses.dataclass(frozen=True)
class DueAgain:
    """A frame in which a body shows that was out of sight.

    Attributes:
      body: its place in `Clip.bodies`.
      last_seen: frame of the last sight of it in the first half.
      frame: that shows it again.
      hidden: simulated frames from one to the other, those left out included.
    """

    body: int
    last_seen: int
    frame: int
    hidden: int


def history_frames(clip: Clip) -> int:
    """Frames of a clip's first half, which is given: the one in the middle is its last."""
    return clip.frames // 2 + 1


def frame_numbers(clip: Clip) -> Int[np.ndarray, " frames"]:
    """When each frame was simulated, in frames since the first; some may have been left out."""
    return np.rint((clip.timestamps - clip.timestamps[0]) * clip.fps).astype(int)


def bodies_of(clip: Clip) -> Bodies:
    """The states of a clip's bodies; ValueError, naming the clip, if they are not known."""
    if clip.bodies is None:
        raise ValueError(f"clip {clip.name!r}, bodies: found none, expected their states")
    return clip.bodies


def pixel_counts(clip: Clip) -> Int[np.ndarray, "frames bodies"]:
    """Pixels that show each body; ValueError, naming the clip, without bodies or mover ids."""
    return (clip.require("mover_ids")[..., None] == bodies_of(clip).ids).sum((1, 2))


def due_again(clip: Clip, sight: Sight | None = None) -> list[DueAgain]:
    """Frames of the second half in which a body is due, body by body.

    Of the frames that were recorded between the last sight of it and then, half show it in less
    than `sight.last` pixels: it was out of sight, not only left out.

    Raises:
      ValueError: naming the clip, if it has no bodies or no mover ids.
    """
    sight, counts, numbers = sight or Sight(), pixel_counts(clip), frame_numbers(clip)
    given, found = history_frames(clip), []
    for body, pixels in enumerate(counts.T):
        seen = np.flatnonzero(pixels[:given] >= sight.last)
        if not len(seen) or pixels[:given].max() < sight.known:
            continue
        last = int(seen[-1])
        for frame in (given + np.flatnonzero(pixels[given:] >= sight.due)).tolist():
            between, hidden = pixels[last + 1 : frame], int(numbers[frame] - numbers[last])
            out = int((between < sight.last).sum())
            if hidden >= sight.hidden and 2 * out >= len(between) > 0:
                found.append(DueAgain(body, last, frame, hidden))
    return found
