"""Camera presets of other projects, and the path here that goes the same way.

GEN3C's distance is a share of the depth in the middle of the picture (`x`), 0.3 by default; Lyra
takes its names. Lengths and angles that a project leaves open are those of `trajectories.make`.
Paths here begin and end at rest where most of theirs move evenly.
"""

from __future__ import annotations

_SIDES = ("left", "right", "up", "down", "clockwise", "counterclockwise")
_PLAIN = {
    **{side: f"move_{side}" for side in _SIDES[:4]},
    **{side: side for side in _SIDES[4:]},
}

PRESETS: dict[str, dict[str, str]] = {
    "GEN3C, Lyra (center_facing)": {
        **{side: f"face_{side}:0.3x" for side in _SIDES},
        "zoom_in": "push_in:0.3x",
        "zoom_out": "pull_out:0.3x",
        "none": "hold",
    },
    "GEN3C, Lyra (no_rotation)": {
        **{side: f"{_PLAIN[side]}:0.3x" for side in _SIDES},
        "zoom_in": "push_in:0.3x",
        "zoom_out": "pull_out:0.3x",
    },
    "GEN3C, Lyra (trajectory_aligned)": {
        **{side: f"lead_{side}:0.3x" for side in _SIDES},
        "zoom_in": "push_in:0.3x",
        "zoom_out": "pull_out:0.3x",
    },
    "ReCamMaster": {
        "1 Pan Right": "pan_right",
        "2 Pan Left": "pan_left",
        "3 Tilt Up": "tilt_up",
        "4 Tilt Down": "tilt_down",
        "5 Zoom In": "push_in",
        "6 Zoom Out": "pull_out",
        "7 Translate Up (with rotation)": "face_up",
        "8 Translate Down (with rotation)": "face_down",
        "9 Arc Left (with rotation)": "orbit_left",
        "10 Arc Right (with rotation)": "orbit_right",
    },
    "Stable Virtual Camera (SEVA)": {
        "orbit": "orbit_circle",
        "spiral": "spiral",
        "lemniscate": "face_lemniscate:0.577x",
        "dolly zoom-in": "dolly_zoom:0.5x",
        "dolly zoom-out": "dolly_zoom:-0.5x",
        "move-forward": "move_forward",
        "move-backward": "move_backward",
        "move-up": "face_up",
        "move-down": "face_down",
        "move-left": "face_left",
        "move-right": "face_right",
        "roll": "roll_right:360",
    },
    "WorldScore": {
        "push_in": "push_in",
        "pull_out": "pull_out",
        "move_left": "move_left",
        "move_right": "move_right",
        "orbit_left": "orbit_left",
        "orbit_right": "orbit_right",
        "pan_left": "pan_left",
        "pan_right": "pan_right",
        "fixed": "fixed",
    },
    "MotionCtrl, CameraCtrl": {
        "Pan Left": "truck_left",
        "Pan Right": "truck_right",
        "Pan Up": "pedestal_up",
        "Pan Down": "pedestal_down",
        "Zoom In": "zoom_in",
        "Zoom Out": "zoom_out",
    },
    "HY-WorldPlay": {"w-31, right-1, d-4": "w-31, right-1, d-4"},
    "WASD, arrows and mouse": {
        "W W A D": "WWAD",
        "W held, mouse dx dy": "w+mouse(4,-2)*10",
        "left arrow": "left*5",
    },
}
"""By project, and by the name that it has: what `--trajectory` takes."""
