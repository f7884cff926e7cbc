"""What is said of a scene that is too short for a clip: how long it is, and which flags help."""

import numpy as np
from jaxtyping import Bool, Float, Int

from data_pipelines.sources.footage.cutting import longest_piece

LEAST_FRAMES = 9
"""Of clips to train on: two chunks of five frames that share one."""


def described(
    times: Float[np.ndarray, " n"],
    usable: Bool[np.ndarray, " n"],
    frames: int,
    fps: float,
    takes: Int[np.ndarray, " n"] | None = None,
) -> str:
    """What was found and expected, for a scene of which `cutting.windows` makes nothing."""
    count, longest = int(usable.sum()), longest_piece(times, usable, fps, takes)
    rate = f" at {fps:g} a second" if fps else ""
    pieces = f", at most {longest} of them in a piece{rate}" if longest < count else ""
    expected = f"found {count} frames{pieces}, expected a piece of {frames} without a gap"
    remedy = _remedy(longest, longest_piece(times, usable, takes=takes), frames)
    return f"{expected}: {remedy}" if remedy else expected


def _remedy(longest: int, unthinned: int, frames: int) -> str:
    """The flags by which the longest piece makes a clip.

    Args:
      longest: its frames.
      unthinned: the same where every frame is taken.
      frames: that a clip was to have.
    """
    fields = []
    if unthinned > longest:
        fields, longest = ["data.fps=0"], unthinned
    if longest < frames:
        chunk = 4 * ((longest - 1) // 8) + 1
        fields.append(f"record.frames={2 * chunk - 1 if longest >= LEAST_FRAMES else longest}")
        fields += [f"chunk_frames={chunk}"] if longest >= LEAST_FRAMES else []
    flags = " ".join(f"--config.{field}" for field in fields)
    if not longest:
        return ""
    if longest >= min(LEAST_FRAMES, frames):
        return f"{flags} makes clips of this footage"
    return f"{flags} makes clips to look at, those to train on have {LEAST_FRAMES} frames or more"
