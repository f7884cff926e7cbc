"""Which clips are left out of a recording, by what is measured in them."""

from __future__ import annotations

import dataclasses

from data_pipelines.clip_measures import Measures
from mirage_jax.settings import Settings, setting


@dataclasses.dataclass(frozen=True)
class Filters(Settings):
    """Thresholds of `clip_measures.Measures`; what could not be measured is never a reason."""

    apply: bool = setting(True, "Leave out what fails; false = measure alone.")
    black: float = setting(0.0, "Most black frames, as a share; 1 = any.", least=0, most=1)
    blur: float = setting(0.65, "Most blur, 0 sharp to 1 blurred; 1 = any.", least=0, most=1)
    cut: float = setting(
        0.3, "Most that a change of the picture stands out, 0 to 1; 1 = any.", least=0, most=1
    )
    motion: float = setting(1.0, "Least motion in the picture, % of its width; 0 = any.", least=0)
    parallax: float = setting(
        0.0, "Least of it that no turn explains, % of the width; 0 = any.", least=0
    )
    overlay: float = setting(
        0.3, "Most captions and logos, % of the pixels; 100 = any.", least=0, most=100
    )
    warp_gain: float = setting(
        2.0, "Least dB that depth and poses bring by warping; -1000 = any.", least=-1000
    )
    seen_through: float = setting(
        3.0, "Most points that the depth of other frames denies, %; 100 = any.", least=0, most=100
    )
    epipolar: float = setting(
        1.2,
        "Most distance of points from where poses allow them, % of the width; 100 = any.",
        least=0,
        most=100,
    )

    def why_rejected(self, measures: Measures) -> tuple[str, str] | None:
        """The first filter that a clip fails, with what was found and expected; None if none."""
        failed = self.failed(measures) if self.apply else {}
        return next(iter(failed.items()), None)

    def failed(self, measures: Measures) -> dict[str, str]:
        """What was found and expected by every filter that a clip fails."""
        found = {}
        for name, unit in UNITS.items():
            value, bound = getattr(measures, name), getattr(self, name)
            at_least = name in AT_LEAST
            if value is None or (value >= bound if at_least else value <= bound):
                continue
            side = "at least" if at_least else "at most"
            found[name] = f"{name}: found {value:.3g}{unit}, expected {side} {bound:g}{unit}"
            if name in OF_CAMERAS:
                found[name] += " (poses of the other direction or of other axes, or another lens?)"
        return found


UNITS = {
    **dict.fromkeys(("black", "blur", "cut"), ""),
    **dict.fromkeys(("motion", "parallax", "overlay"), " %"),
    **{"warp_gain": " dB", "seen_through": " %", "epipolar": " %"},
}
"""Of every filter."""

OF_CAMERAS = ("warp_gain", "seen_through", "epipolar")
"""Filters that cameras which are misread fail."""

AT_LEAST = ("motion", "parallax", "warp_gain")
"""Filters that ask for much of something; the others ask for little."""
