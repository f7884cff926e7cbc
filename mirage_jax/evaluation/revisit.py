"""Consistency of revisited views, chosen from the poses alone.

Which frames revisit, whether a return shows the place from a new point (parallax) or can be had by
copying an old frame, which old frame that would be, and normalised memory retention (NMR).
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from mirage_jax.evaluation.image_metrics import METRICS
from mirage_jax.geometry import pose_angle_deg, pose_distance

PARALLAX_METRES = 0.6
PARALLAX_DEGREES = 15.0

Poses = Float[np.ndarray, "frames 4 4"]


# -- nearest views and parallax ------------------------------------------------------------------


def pose_gap(
    query: Float[np.ndarray, "queries 4 4"], history: Float[np.ndarray, "views 4 4"]
) -> Float[np.ndarray, "queries views"]:
    """How far apart cameras are, in units of the parallax thresholds: max(metres/.6, degrees/15).

    At 1 or more a pair is `PARALLAX_METRES` or `PARALLAX_DEGREES` apart.
    """
    a, b = query[:, None].astype(np.float64), history[None].astype(np.float64)
    metres = np.asarray(pose_distance(a, b))
    degrees = np.asarray(pose_angle_deg(a, b))
    return np.maximum(metres / PARALLAX_METRES, degrees / PARALLAX_DEGREES)


def nearest_view(
    query: Float[np.ndarray, "queries 4 4"], history: Float[np.ndarray, "views 4 4"]
) -> Int[np.ndarray, " queries"]:
    """Index of the history frame that the copy_nearest_view control shows for each query pose.

    The frame with the smallest `pose_gap`; the earliest of equals.
    """
    if len(history) == 0:
        raise ValueError("history: found no frames, expected at least one to copy from")
    return pose_gap(query, history).argmin(axis=1)


def has_parallax(
    query: Float[np.ndarray, "queries 4 4"], history: Float[np.ndarray, "views 4 4"]
) -> Bool[np.ndarray, " queries"]:
    """Whether every history pose is at least .6 m or at least 15 degrees away from the query."""
    return pose_gap(query, history).min(axis=1) >= 1.0


def returns_with_parallax(cam2world: Poses, *, history: int, revisit: int) -> bool:
    """Whether a trajectory comes back to a view it never had.

    Args:
      cam2world: poses of the whole trajectory.
      history: number of leading frames that were seen and written into memory.
      revisit: number of last frames that count as the revisit.
    Returns:
      True if at least half of the revisited frames have parallax to all of the history.
    Raises:
      ValueError: if history and revisit do not fit into the trajectory.
    """
    frames = len(cam2world)
    if history < 1 or revisit < 1 or history + revisit > frames:
        raise ValueError(
            f"history {history} and revisit {revisit} do not fit a trajectory of {frames} frames"
        )
    return bool(has_parallax(cam2world[-revisit:], cam2world[:history]).mean() >= 0.5)


# -- normalised memory retention -----------------------------------------------------------------

MIN_GAP = 10
"""Frames between a view and its revisit, at least (R2M-Bench)."""
SHORT_GAP = 1
"""Frames between the two of a short pair (R2M-Bench: at least 2 of 481)."""
MIN_PAIRS = 3
"""A trajectory with fewer revisit, baseline or short pairs has no NMR."""
UNRELATED_DEGREES = 45.0
UNRELATED_METRES = 3.0
MIN_SPREAD = {"psnr": 0.5, "ssim": 0.01}
"""Short-pair minus baseline similarity below which a trajectory cannot be normalised."""


@dataclasses.dataclass(frozen=True)
class NmrPairs:
    """Frame pairs (earlier, later) of one trajectory, chosen from poses alone.

    Attributes:
      revisit: later frames with the earlier frame of (nearly) the same pose.
      baseline: frames of similar lag that look elsewhere.
      short: adjacent frames.
    """

    revisit: Int[np.ndarray, "r 2"]
    baseline: Int[np.ndarray, "b 2"]
    short: Int[np.ndarray, "s 2"]

    @property
    def usable(self) -> bool:
        """Whether each kind has at least `MIN_PAIRS` pairs."""
        return min(len(self.revisit), len(self.baseline), len(self.short)) >= MIN_PAIRS


def nmr_pairs(cam2world: Poses, first: int) -> NmrPairs:
    """Chooses the pairs of normalised memory retention for one trajectory.

    After R2M-Bench (arXiv 2608.27328), whose trajectories have 481 slow frames. Here they have a
    few dozen fast ones, of which only those from `first` on are generated, hence:

    - the later frame of every pair is generated; the earlier one may be history;
    - revisit: each later frame with the best earlier one at least 10 frames before, if within
      twice the 95th percentile of the per-frame change, clamped to .1..1 m and 1..5 degrees
      (unchanged, but with the full rotation angle in place of yaw; no fallback for trajectories
      without a match, which are left out and counted);
    - baseline: *all* pairs instead of random draws from ten time bins. The lag equals that of some
      revisit pair to max(10, .3 lag), relaxed to .5 lag if that leaves fewer than three. "Not near
      a return" is asked of the poses (45 degrees or 3 m apart) since ten frames are a third of the
      trajectory;
    - short: all generated pairs of adjacent frames (there: 20 draws of at least two apart). Two
      steps are up to 20 degrees here, hardly more alike than the baseline, and the ratio of a
      trajectory then says little: its spread over trajectories doubles;
    - the static tail is cut as there: frames after the last step of more than .01 m or .5 degrees.

    Args:
      cam2world: poses of the whole sequence, true history first.
      first: index of the first generated frame.
    """
    poses = cam2world.astype(np.float64)
    metres = np.asarray(pose_distance(poses[:, None], poses[None]))
    degrees = np.asarray(pose_angle_deg(poses[:, None], poses[None]))
    index = np.arange(len(poses) - 1)
    step_metres, step_degrees = metres[index, index + 1], degrees[index, index + 1]
    moving = np.flatnonzero((step_metres > 0.01) | (step_degrees > 0.5))
    end = int(moving[-1]) + 2 if len(moving) else 0
    if end <= first:
        nothing = np.zeros((0, 2), np.int64)
        return NmrPairs(nothing, nothing, nothing)
    near_metres = np.clip(2 * np.percentile(step_metres[: end - 1], 95), 0.1, 1.0)
    near_degrees = np.clip(2 * np.percentile(step_degrees[: end - 1], 95), 1.0, 5.0)

    later = np.arange(first, end)
    lag = later[:, None] - np.arange(len(poses))[None]
    gap = np.maximum(metres[later] / near_metres, degrees[later] / near_degrees)
    gap = np.where(lag >= MIN_GAP, gap, np.inf)
    best = gap.argmin(axis=1)
    found = gap[np.arange(len(later)), best] <= 1.0
    revisit = np.stack([best[found], later[found]], axis=1)

    elsewhere = (degrees[later] >= UNRELATED_DEGREES) | (metres[later] >= UNRELATED_METRES)
    elsewhere &= lag >= MIN_GAP
    lags = (revisit[:, 1] - revisit[:, 0])[:, None, None]
    baseline = np.zeros((0, 2), np.int64)
    for slack in (0.3, 0.5):
        similar = (np.abs(lag[None] - lags) <= np.maximum(10, slack * lags)).any(axis=0)
        rows, earlier = np.nonzero(elsewhere & similar)
        baseline = np.stack([earlier, later[rows]], axis=1)
        if len(baseline) >= MIN_PAIRS:
            break

    short = np.stack([later[SHORT_GAP:] - SHORT_GAP, later[SHORT_GAP:]], axis=1)
    return NmrPairs(revisit, baseline, short)


def memory_retention(
    video: UInt8[np.ndarray, "frames H W C"], pairs: NmrPairs, metric: str = "psnr"
) -> float:
    """NMR of one trajectory: mean(R - B) / mean(S - B) with R, B, S the similarity of its pairs.

    0: a revisit is no more like the earlier view than an unrelated frame is; 1: as alike as
    adjacent frames. With a fast camera the truth itself exceeds 1, so divide by the value of the
    encoder's reconstruction (`results.nmr_summary`).

    Args:
      video: true history followed by what a method generated.
      pairs: from `nmr_pairs` on the poses of the same frames.
      metric: "psnr" or "ssim".
    Returns:
      NaN if a kind of pair is missing or S - B is below `MIN_SPREAD`.
    """
    if metric not in METRICS:
        raise ValueError(f"metric: found {metric!r}, expected one of {', '.join(METRICS)}")
    if not pairs.usable:
        return float("nan")
    groups = (pairs.revisit, pairs.baseline, pairs.short)
    stacked = np.concatenate(groups)
    alike = METRICS[metric](video[stacked[:, 0]], video[stacked[:, 1]])
    bounds = np.cumsum([len(g) for g in groups])[:-1]
    returned, unrelated, adjacent = (float(part.mean()) for part in np.split(alike, bounds))
    spread = adjacent - unrelated
    if spread < MIN_SPREAD[metric]:
        return float("nan")
    return (returned - unrelated) / spread
