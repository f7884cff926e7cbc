"""What `results.json` holds: one schema, built by plain functions from per-clip arrays.

    {"world": name of the default world, "seed": int, "sampling_steps": int,
     "seconds": {stage: s}, "efficiency": {...},
     "worlds": {world: {"clips": N, "parallax_clips": n,
                        "revisit": {method: {"psnr": {mean, stderr}, "ssim": {mean, stderr},
                                             "lpips": {mean, stderr} where it was measured,
                                             "easy": {clips, psnr, ssim, lpips},
                                             "parallax": {clips, psnr, ssim, lpips}}},
                        "gains": {"over_<method>": {mean, stderr, share_positive, per_clip,
                                                    "easy": {...}, "parallax": {...}}},
                        "nmr": {"psnr": {method: {mean, stderr, relative, trajectories}},
                                "ssim": {...}},
                        "geometry": {"abs_rel": ...}}},
     "bodies": what `permanence.protocol.Scores.summarise` has; {} where none was scored,
     "revisit", "gains", "nmr", "geometry": those of the default world,
     "must": [{"what", "world", "value", "sign", "must", "aim", "unit", "passed", "aim_met"}],
     "missing": [{"control", "world", "reason"}]}

Means are over clips (a clip's value is the mean of its revisited frames), standard errors are those
of the mean over clips, gains are paired. A number that does not exist is null, never NaN.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from mirage_jax.io.json_files import plain, write_json

PerClip = Mapping[str, Float[np.ndarray, "clips frames"]]


class Method(NamedTuple):
    """A line of the comparison: its label, what it is, and its role in the plots."""

    label: str
    meaning: str
    role: str  # "ours" | "ablation" | "rival" | "copy" | "bound"


METHODS: dict[str, Method] = {
    "memory": Method("Latent memory", "the model, reading its memory of latent tokens", "ours"),
    "memory_zeroed": Method("Memory emptied", "same weights, nothing in memory", "ablation"),
    "no_memory": Method(
        "Trained without", "no memory branch, same data and training budget", "ablation"
    ),
    "rgb_memory": Method(
        "RGB memory", "colour point cloud rendered and encoded, same training budget", "rival"
    ),
    "copy_nearest_view": Method(
        "Copy nearest view", "the history frame whose camera is nearest", "copy"
    ),
    "copy_first_frame": Method("Copy first frame", "the first picture, unchanged", "copy"),
    "vae_reconstruction": Method(
        "Encoder ceiling", "the truth, encoded and decoded; bounds what is generated", "bound"
    ),
}


# -- statistics over clips -----------------------------------------------------------------------


def mean_stderr(values: Float[np.ndarray, " n"]) -> dict[str, float | None]:
    """Mean and standard error of the mean; null where there are too few values."""
    n = len(values)
    return {
        "mean": _number(values.mean()) if n else None,
        "stderr": _number(values.std(ddof=1) / math.sqrt(n)) if n > 1 else None,
    }


def summarise(
    psnr: PerClip,
    ssim: PerClip,
    parallax: Bool[np.ndarray, " clips"],
    *,
    lpips: PerClip | None = None,
    ours: str = "memory",
) -> dict[str, Any]:
    """Turns scores at revisited frames into `clips`, `parallax_clips`, `revisit` and `gains`.

    Args:
      psnr, ssim: for each method the scores of every clip's revisited frames.
      parallax: whether a clip's return has parallax (`revisit.returns_with_parallax`).
      lpips: scores of the same, where they were measured.
      ours: the method whose paired PSNR gain over each other one is taken.
    Raises:
      ValueError: naming the method, if methods, clip counts or values do not fit.
    """
    metrics = {"psnr": psnr, "ssim": ssim} | ({} if lpips is None else {"lpips": lpips})
    clips = len(parallax)
    for metric, scores in metrics.items():
        if set(psnr) != set(scores):
            raise ValueError(f"psnr has methods {sorted(psnr)}, {metric} has {sorted(scores)}")
        for method, values in scores.items():
            if len(values) != clips:
                raise ValueError(f"{metric}[{method}]: found {len(values)} clips, expected {clips}")
            if not np.isfinite(values).all():
                raise ValueError(f"{metric}[{method}]: found values that are not finite")
    per_clip = {
        method: {metric: scores[method].mean(axis=1) for metric, scores in metrics.items()}
        for method in _ordered(psnr)
    }
    parts = {"easy": ~parallax, "parallax": parallax}

    revisit: dict[str, Any] = {}
    for method, means in per_clip.items():
        revisit[method] = {metric: mean_stderr(values) for metric, values in means.items()}
        for part, chosen in parts.items():
            revisit[method][part] = {"clips": int(chosen.sum())} | {
                metric: mean_stderr(values[chosen]) for metric, values in means.items()
            }
    gains: dict[str, Any] = {}
    if ours in per_clip:
        for method, means in per_clip.items():
            if method == ours:
                continue
            difference = per_clip[ours]["psnr"] - means["psnr"]
            gains[f"over_{method}"] = _gain(difference) | {
                "per_clip": [round(float(d), 3) for d in difference],
                **{part: _gain(difference[chosen]) for part, chosen in parts.items()},
            }
    return {
        "clips": clips,
        "parallax_clips": int(parallax.sum()),
        "revisit": revisit,
        "gains": gains,
    }


def nmr_summary(
    per_clip: Mapping[str, Float[np.ndarray, " clips"]], *, reference: str = "vae_reconstruction"
) -> dict[str, Any]:
    """NMR by method for one similarity, with its value relative to the encoder's reconstruction.

    Args:
      per_clip: `revisit.memory_retention` of every clip; NaN where it is not defined.
      reference: the method whose value counts as 1 in `relative`.
    Returns:
      For each method `mean`, `stderr`, `trajectories` (how many are defined) and `relative`: the
      ratio of means over the trajectories defined for both.
    """
    summary: dict[str, Any] = {}
    for method in _ordered(per_clip):
        values = per_clip[method]
        defined = np.isfinite(values)
        entry: dict[str, Any] = mean_stderr(values[defined])
        entry["trajectories"] = int(defined.sum())
        entry["relative"] = None
        if reference in per_clip:
            both = defined & np.isfinite(per_clip[reference])
            if both.any() and abs(per_clip[reference][both].mean()) > 1e-6:
                ratio = values[both].mean() / per_clip[reference][both].mean()
                entry["relative"] = _number(ratio)
        summary[method] = entry
    return summary


def _gain(difference: np.ndarray) -> dict[str, Any]:
    positive = float((difference > 0).mean()) if len(difference) else None
    return {"clips": len(difference), **mean_stderr(difference), "share_positive": positive}


def _ordered(methods: Mapping[str, Any]) -> list[str]:
    """Known methods in the order of `METHODS`, then the others."""
    return [m for m in METHODS if m in methods] + [m for m in methods if m not in METHODS]


def _number(value: Any) -> float | None:
    value = float(value)
    return value if math.isfinite(value) else None


# -- targets -------------------------------------------------------------------------------------


class Target(NamedTuple):
    """A number to reach: where it is found in a world's results, and its bounds by world."""

    what: str
    path: tuple[str, ...]
    sign: str  # ">=" or "<="
    must: dict[str, float]
    aim: dict[str, float]
    unit: str = "dB"
    negate: bool = False


def _both(freedoom: float, labmaze: float | None = None) -> dict[str, float]:
    return {"freedoom": freedoom, "labmaze": freedoom if labmaze is None else labmaze}


TARGETS: tuple[Target, ...] = (
    Target(
        "Encoder reconstruction at revisited frames, PSNR",
        ("revisit", "vae_reconstruction", "psnr", "mean"),
        ">=",
        _both(25.5, 24.0),
        _both(28.5, 27.0),
    ),
    Target(
        "Revisit PSNR with memory",
        ("revisit", "memory", "psnr", "mean"),
        ">=",
        _both(22.0, 18.5),
        _both(24.8, 21.9),
    ),
    Target(
        "Paired gain over the same weights with memory emptied",
        ("gains", "over_memory_zeroed", "mean"),
        ">=",
        _both(4.2, 4.5),
        _both(7.0),
    ),
    Target(
        "Paired gain over a model trained without memory",
        ("gains", "over_no_memory", "mean"),
        ">=",
        _both(4.2, 4.5),
        _both(7.0),
    ),
    Target(
        "Trajectories that gain over memory emptied",
        ("gains", "over_memory_zeroed", "share_positive"),
        ">=",
        _both(0.95),
        _both(1.0),
        "share",
    ),
    Target(
        "Trajectories that gain over the model trained without",
        ("gains", "over_no_memory", "share_positive"),
        ">=",
        _both(0.95),
        _both(1.0),
        "share",
    ),
    Target(
        "Memory retention (NMR, PSNR) relative to the encoder's, with memory",
        ("nmr", "psnr", "memory", "relative"),
        ">=",
        _both(0.55),
        _both(0.8),
        "",
    ),
    Target(
        "The same with memory emptied",
        ("nmr", "psnr", "memory_zeroed", "relative"),
        "<=",
        _both(0.35),
        {},
        "",
    ),
    Target(
        "Behind RGB memory at equal training",
        ("gains", "over_rgb_memory", "mean"),
        "<=",
        _both(2.0),
        _both(0.0),
        negate=True,
    ),
    Target(
        "Ahead of copying the nearest view, returns with parallax",
        ("gains", "over_copy_nearest_view", "parallax", "mean"),
        ">=",
        _both(0.0),
        _both(2.0),
    ),
)


def check_targets(worlds: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The must/aim table: one row per target and world that has a bound for it.

    `passed` and `aim_met` are null where the number is missing (a control not run yet).
    """
    rows = []
    for target in TARGETS:
        for world, results in worlds.items():
            if world not in target.must:
                continue
            value = lookup(results, *target.path)
            if value is not None and target.negate:
                value = -value
            must, aim = target.must[world], target.aim.get(world)
            rows.append(
                {
                    "what": target.what,
                    "world": world,
                    "value": value,
                    "sign": target.sign,
                    "must": must,
                    "aim": aim,
                    "unit": target.unit,
                    "passed": _meets(value, target.sign, must),
                    "aim_met": _meets(value, target.sign, aim),
                }
            )
    return rows


def lookup(node: Any, *path: str) -> Any:
    """The value at a path of keys, None if any is missing or null."""
    for key in path:
        if not isinstance(node, Mapping) or node.get(key) is None:
            return None
        node = node[key]
    return node


def _meets(value: float | None, sign: str, bound: float | None) -> bool | None:
    if value is None or bound is None:
        return None
    return value >= bound if sign == ">=" else value <= bound


# -- the whole file ------------------------------------------------------------------------------

_OF_A_WORLD = ("revisit", "gains", "nmr", "geometry")


def build(
    *,
    world: str,
    worlds: Mapping[str, Mapping[str, Any]],
    seconds: Mapping[str, float | int],
    efficiency: Mapping[str, Any],
    sampling_steps: int,
    seed: int,
    missing: Sequence[Mapping[str, str]] = (),
    **others: Any,
) -> dict[str, Any]:
    """Everything `results.json` holds.

    Args:
      world: the default world, a key of `worlds`; its numbers stand at the top level too.
      worlds: by world, `summarise(...)` with `nmr` and `geometry` added.
      seconds: wall time of each stage.
      efficiency: the memory benchmark.
      sampling_steps: denoising steps, the same for every method.
      seed: of training and sampling.
      missing: controls that were not run, each with `control`, `world`, `reason`.
      others: further entries, such as `device` or `revision`.
    Raises:
      ValueError: if the default world has no results, or a `missing` entry has no reason.
    """
    if world not in worlds:
        raise ValueError(f"world: found {world!r}, expected one of {', '.join(worlds) or 'none'}")
    for entry in missing:
        if not entry.get("control") or not entry.get("reason"):
            raise ValueError(f"missing: found {dict(entry)}, expected a control and its reason")
    results = {
        "world": world,
        "seed": seed,
        "sampling_steps": sampling_steps,
        "seconds": dict(seconds),
        **{key: worlds[world].get(key, {}) for key in _OF_A_WORLD},
        "must": check_targets(worlds),
        "missing": [dict(entry) for entry in missing],
        "efficiency": dict(efficiency),
        "worlds": {name: dict(of_world) for name, of_world in worlds.items()},
        **others,
    }
    return plain(results)


def save(path: str | os.PathLike, results: Mapping[str, Any]) -> Path:
    """Writes results as JSON: an old file is never half replaced."""
    return write_json(path, results)
