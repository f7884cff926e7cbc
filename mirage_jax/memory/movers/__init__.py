"""What moves: entities on the floor that the memory keeps while nobody looks.

Beside the static tokens of `memory.bank` a table of K slots holds, for every body that was seen,
where it was and how it went, how sure that is, and a few masked crops of it as tokens. A frame is
brought in by `observe`: what was detected in it is assigned to the slots, filtered, or born; a body
that is due in view and not there is looked for elsewhere (negative evidence). In between `advance`
moves all bodies on, stopped or deflected by what stands still, and `read` shows them in any view.

Everything is pure and jittable with static shapes, so the cost does not depend on how many bodies
there are, up to K. Positions are metres, times seconds.
"""

from mirage_jax.memory.movers.connected import components
from mirage_jax.memory.movers.detections import Detections, crops, detect, none_found, with_views
from mirage_jax.memory.movers.floor import estimate_up, update_floor
from mirage_jax.memory.movers.observation import MoverReport, observe
from mirage_jax.memory.movers.plan import Obstacles, obstacles
from mirage_jax.memory.movers.readout import MoverReadOut, read, read_along
from mirage_jax.memory.movers.state import (
    CONFIRMED,
    FREE,
    LOST,
    TENTATIVE,
    MoverOptions,
    Movers,
    create,
    emptied,
)
from mirage_jax.memory.movers.unseen import advance

__all__ = [
    "CONFIRMED",
    "FREE",
    "LOST",
    "TENTATIVE",
    "Detections",
    "MoverOptions",
    "MoverReadOut",
    "MoverReport",
    "Movers",
    "Obstacles",
    "advance",
    "components",
    "create",
    "crops",
    "detect",
    "emptied",
    "estimate_up",
    "none_found",
    "observe",
    "obstacles",
    "read",
    "read_along",
    "update_floor",
    "with_views",
]
