"""Camera paths as keys that a player holds, and a mouse that is moved.

Keys are separated by spaces, each with the number of frames that it is held; several letters are
held at once. Arrows are words, a mouse moves by so many counts a frame to the right and down, and +
joins words and letters. Capitals alone are held for a latent (4 frames) each:

    w*10 a*5 wj*8
    left*5 w+right*8 w+mouse(4,-2)*10
    WWAD

Keys of HY-WorldPlay are separated by commas, each with the number of latents:

    w-31, right-1, d-4
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

# Right, down and forward in a frame; degrees to the right, up and of leaning right.
KEYS: dict[str, tuple[float, ...]] = {
    "w": (0, 0, 1, 0, 0, 0),
    "s": (0, 0, -1, 0, 0, 0),
    "a": (-1, 0, 0, 0, 0, 0),
    "d": (1, 0, 0, 0, 0, 0),
    "j": (0, 0, 0, -1, 0, 0),
    "l": (0, 0, 0, 1, 0, 0),
    "i": (0, 0, 0, 0, 1, 0),
    "k": (0, 0, 0, 0, -1, 0),
    "q": (0, 0, 0, 0, 0, -1),
    "e": (0, 0, 0, 0, 0, 1),
    "u": (0, 0, 0, 0, 0, 0),
}
"""W A S D walk, I J K L look, Q E lean, U waits."""

_ARROWS = {"left": "j", "right": "l", "up": "i", "down": "k"}
METRES_PER_FRAME, DEGREES_PER_FRAME = 0.02, 0.75
"""Speed of keys: HY-WorldPlay's 0.08 and 3 degrees for each latent of 4 frames."""

LATENT = 4
"""Frames of a latent: how long a key of HY-WorldPlay counts, and a capital alone is held."""
DEGREES_PER_COUNT = 0.15
"""How far a count of the mouse turns: Minecraft's default, 2,400 counts for a full turn."""

_NUMBER = r"[-+]?\d+(?:\.\d+)?"
_MOUSE = re.compile(rf"mouse\(({_NUMBER}),({_NUMBER})\)")
_HELD = re.compile(r"([a-z]+(?:\([^()\s]*\))?(?:\+[a-z]+(?:\([^()\s]*\))?)*)\*(\d+)")
_HELD_LATENTS = re.compile(r"(left|right|up|down|[a-z])-(\d+)")
_CAPITALS = re.compile(rf"[{''.join(KEYS).upper()}\s]*")


def is_keys(text: str) -> bool:
    """Whether a trajectory is keys, of any kind."""
    bare = _CAPITALS.fullmatch(text) is not None and Path(text).exists()  # a file's name
    return not bare and bool(_held(text))


def _held(text: str) -> list[tuple[str, int]]:
    """What is pressed, and for how many frames; [] for what is no keys."""
    parts = [_HELD.fullmatch(part) for part in re.split(r"\s+", text.strip().lower())]
    if all(parts):
        return [(match[1], int(match[2])) for match in parts if match]
    parts = [_HELD_LATENTS.fullmatch(part) for part in re.split(r"\s*,\s*", text.strip().lower())]
    if all(parts):
        return [(match[1], LATENT * int(match[2])) for match in parts if match]
    if _CAPITALS.fullmatch(text):
        return [(key, LATENT) for key in "".join(text.lower().split())]
    return []


def _move(pressed: str, text: str) -> np.ndarray:
    """What keys, arrows and a mouse do together in a frame; moves in steps, turns in degrees."""
    total = np.zeros(6)
    for word in pressed.split("+"):
        mouse = _MOUSE.fullmatch(word)
        if mouse is not None:
            total[3] += DEGREES_PER_COUNT * float(mouse[1])
            total[4] -= DEGREES_PER_COUNT * float(mouse[2])
            continue
        letters = _ARROWS.get(word, word)
        unknown = [letter for letter in letters if letter not in KEYS]
        if unknown:
            found = f"key {unknown[0]!r}" if word.isalpha() else repr(word)
            raise ValueError(
                f"trajectory {text!r}: found {found}, expected {', '.join(KEYS)}, "
                f"{', '.join(_ARROWS)} or mouse(RIGHT,DOWN)"
            )
        for letter in letters:
            total += np.array(KEYS[letter]) * ([1.0] * 3 + [DEGREES_PER_FRAME] * 3)
    return total


def keys(text: str, frames: int = 0) -> Float[np.ndarray, "t 4 4"]:
    """Poses of keys held one after another, beginning at the identity.

    Args:
      text: the keys, e.g. "w*10 left*5" (frames), "w-31, right-1" (latents of 4 frames) or "WWAD"
        (a latent each).
      frames: number of poses; 0 for one more than keys are held. Longer ones wait at the end.

    Raises:
      ValueError: for an unknown key, or fewer frames than keys are held.
    """
    moves: list[np.ndarray] = []
    for pressed, count in _held(text):
        moves += [_move(pressed, text)] * count
    if frames and frames < len(moves) + 1:
        raise ValueError(
            f"trajectory {text!r}: found {frames} frames, expected at least {len(moves) + 1}, as "
            "long as keys are held"
        )
    poses = [np.eye(4)]
    yaw = pitch = roll = 0.0
    for move in moves:
        yaw, pitch, roll = np.array([yaw, pitch, roll]) + np.radians(move[3:])
        turned = np.eye(4)
        turned[:3, :3] = _rotation(yaw, pitch, roll)
        # Walking follows where one looks, not whether one looks up or leans.
        step = _rotation(yaw, 0.0, 0.0) @ move[:3] * METRES_PER_FRAME
        turned[:3, 3] = poses[-1][:3, 3] + step
        poses.append(turned)
    poses += [poses[-1]] * (frames - len(poses))
    return np.stack(poses)


def _rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    return Rotation.from_euler("YXZ", [yaw, pitch, roll]).as_matrix()
