"""What is odd about a camera path: jumps, times, pictures it does not fit."""

from __future__ import annotations

import dataclasses

import numpy as np

from mirage_jax.io.camera_files.conventions import forward_share, median_step
from mirage_jax.io.camera_files.record import CameraRecord

JUMP = 8.0
"""Times both of its neighbours that a step is remarked on."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One result of a check.

    Attributes:
      name: what was checked.
      good: False where something is wrong; None for what is only reported.
      said: what was found and, where it is wrong, what was expected.
    """

    name: str
    good: bool | None
    said: str


def check_record(record: CameraRecord, frames: int | None = None) -> list[Finding]:
    """Checks cameras that were read; `frames` is how many are needed."""
    poses = record.cam2world
    rotation = poses[:, :3, :3]
    determinant = np.linalg.det(rotation)
    gram = np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max()
    findings = [
        Finding("determinant", True, f"{determinant.min():.6f} to {determinant.max():.6f}"),
        Finding("orthonormal", True, f"|R R^T - I| at most {gram:.2g}"),
    ]
    if len(record) > 1:
        findings += _motion(record)
    findings.append(_scale(record))
    findings.append(_times(record))
    if frames is not None:
        good = len(record) == frames
        findings.append(Finding("frames", good, f"{len(record)}, expected {frames}"))
    else:
        whole = (len(record) - 1) // 4 * 4 + 1
        fits = "whole latents (4 n + 1)" if whole == len(record) else f"4 n + 1 is {whole}"
        findings.append(Finding("frames", None, f"{len(record)}; {fits}"))
    if record.intrinsics is not None:
        findings.append(_lens(record))
    return findings


def _motion(record: CameraRecord) -> list[Finding]:
    poses = record.cam2world
    step = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
    relative = poses[:-1, :3, :3].transpose(0, 2, 1) @ poses[1:, :3, :3]
    cosine = (np.trace(relative, axis1=1, axis2=2) - 1) / 2
    turn = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    findings = []
    for name, values, unit in (("steps", step, ""), ("turns", turn, " degrees")):
        median = float(np.median(values))
        # Not the median alone: a path that begins and ends at rest has a small one.
        beside = np.concatenate([[0.0], values, [0.0]])
        apart = values > JUMP * np.maximum(beside[:-2], beside[2:])
        apart &= values > max(3 * median, 0.01 * values.sum())
        jumps = np.flatnonzero(apart & (len(values) > 1))
        said = f"median {median:.4g}{unit}, largest {values.max():.4g}{unit}"
        if len(jumps):
            where = ", ".join(f"{i} to {i + 1}" for i in jumps[:5])
            said += f"; {len(jumps)} jumps of {JUMP:g} times what is beside them, frames {where}"
        findings.append(Finding(name, not len(jumps), said))
    ahead = forward_share(poses)
    said = "stands still" if np.isnan(ahead) else f"{ahead:.0%} of moving steps go where it looks"
    findings.append(Finding("looks forward", None, said))
    return findings


def _scale(record: CameraRecord) -> Finding:
    if record.metric is False:
        return Finding("scale", None, "arbitrary: the format has a scale of its own")
    if record.metric:
        return Finding("scale", None, "metres")
    step = median_step(record.cam2world)
    said = f"not stated, arbitrary; taken as metres, the camera moves {step:.3g} m a frame"
    return Finding("scale", None, said)


def _times(record: CameraRecord) -> Finding:
    if record.timestamps is None:
        return Finding("timestamps", None, "none")
    gaps = np.diff(record.timestamps)
    wrong = [("duplicate", gaps == 0), ("unsorted", gaps < 0)]
    said = [
        f"{int(where.sum())} {what}, first at frame {int(np.argmax(where)) + 1}"
        for what, where in wrong
        if where.any()
    ]
    if said:
        return Finding("timestamps", False, f"{', '.join(said)}, expected rising times")
    rate = f", {1 / np.median(gaps):.4g} per second" if len(gaps) else ""
    return Finding("timestamps", True, f"rising{rate}")


def _lens(record: CameraRecord) -> Finding:
    lens = record.intrinsics
    assert lens is not None
    size = (1, 1) if record.normalised else record.size
    if size is None:
        return Finding("lens", None, "the pictures' size is not known")
    fov = np.degrees(2 * np.arctan(size[1] / 2 / lens[:, 0]))
    centre = lens[:, 2:] / np.array([size[1], size[0]])
    good = bool((np.abs(centre - 0.5) < 0.25).all() and ((fov > 5) & (fov < 170)).all())
    said = f"{fov.min():.1f} to {fov.max():.1f} degrees across, centre at {centre[0].round(3)}"
    return Finding("lens", good, said if good else f"{said}, expected a centred lens")
