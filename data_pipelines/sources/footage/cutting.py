"""Which frames of a scene make a clip: of one take, by timestamp, without a break."""

import numpy as np
from jaxtyping import Bool, Float, Int

from data_pipelines.frame_rates import native_fps, nearest_to_rate

_LONGEST_GAP = 3.5
"""Steps between frames, relative to the median one, beyond which footage is not in one piece."""


def windows(
    times: Float[np.ndarray, " n"],
    usable: Bool[np.ndarray, " n"],
    *,
    frames: int,
    fps: float = 0.0,
    hop: int = 0,
    takes: Int[np.ndarray, " n"] | None = None,
) -> list[np.ndarray]:
    """Frame numbers of every clip of a scene.

    A clip never leaves its take, nor goes past an unusable frame or a gap in time of more than 3.5
    median steps of the takes.

    Args:
      times: of the frames, seconds.
      usable: which of them can be shown.
      frames: of a clip.
      fps: frames per second to come to, by the frame nearest in time; 0 takes every frame.
      hop: frames from the start of one clip to the start of the next; 0 = `frames`, no overlap.
      takes: numbers of the takes that the frames are of; None: all are of one.

    Raises:
      ValueError: if the scene has fewer frames per second than `fps`.
    """
    takes = np.zeros(len(times), int) if takes is None else takes
    step = _step(times, takes)
    if fps and fps * step > 1.0 + 1e-3:
        raise ValueError(
            f"found {1 / step:g} frames per second, expected at least {fps:g}: fewer in "
            "--config.data.fps, where 0 takes every frame"
        )
    starts: list[np.ndarray] = []
    for piece in _pieces(times, usable, takes, _LONGEST_GAP * step):
        picked = piece if not fps else piece[nearest_to_rate(times[piece], fps)]
        last = len(picked) - frames
        starts += [picked[i : i + frames] for i in range(0, last + 1, hop or frames)]
    return starts


def longest_piece(
    times: Float[np.ndarray, " n"],
    usable: Bool[np.ndarray, " n"],
    fps: float = 0.0,
    takes: Int[np.ndarray, " n"] | None = None,
) -> int:
    """Frames of the longest clip that `windows` could cut; errors as there."""
    least, most = 0, int(usable.sum())
    while least < most:
        middle = (least + most + 1) // 2
        if windows(times, usable, frames=middle, fps=fps, hop=1, takes=takes):
            least = middle
        else:
            most = middle - 1
    return least


def _step(times: np.ndarray, takes: np.ndarray) -> float:
    inside = np.diff(times)[np.diff(takes) == 0]
    if len(inside) in (0, len(times) - 1):
        return 1.0 / native_fps(times)
    return float(np.median(inside))


def _pieces(
    times: np.ndarray, usable: np.ndarray, takes: np.ndarray, gap: float
) -> list[np.ndarray]:
    numbers = np.flatnonzero(usable)
    if not len(numbers):
        return []
    cut = (np.diff(numbers) > 1) | (np.diff(times[numbers]) > gap) | (np.diff(takes[numbers]) != 0)
    return np.split(numbers, np.flatnonzero(cut) + 1)
