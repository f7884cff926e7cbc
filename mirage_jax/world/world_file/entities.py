"""Moving bodies of a world to the parts "entities" and "movers" of a file, and back.

"entities" is what any reader may want to know; "movers" what it lacks for a rollout to continue bit
for bit.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mirage_jax.memory.movers import FREE, Movers

_SAME = (
    "up",
    "id",
    "position",
    "velocity",
    "heading",
    "turn_rate",
    "extent",
    "view_valid",
    "view_tokens",
    "view_alpha",
    "view_direction",
    "next_id",
    "evicted",
)
"""Tensors of "entities" that are fields of `Movers` as they are."""
_OWN = ("floor", "floor_weight", "time", "oriented", "last_seen", "hits", "misses",
        "overlooked", "view_pixels", "view_time")  # fmt: skip
"""Tensors of "movers" that are; times in seconds, where those of "entities" are frames."""


def to_parts(
    table: Movers, frame_seconds: float, tracks: Mapping[str, np.ndarray] | None = None
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The tensors of both parts.

    Args:
      table: the bodies.
      frame_seconds: seconds from one frame to the next.
      tracks: of "entities", where they are recorded.
    """
    held = {name: np.asarray(leaf) for name, leaf in vars(table).items()}
    frames = {
        name: (held[name] / np.float64(frame_seconds)).astype(np.float32)
        for name in ("last_seen", "view_time")
    }
    side = held["view_size"]
    none: dict[str, np.ndarray] = {
        "track_id": np.zeros(0, np.int32),
        "track_time": np.zeros(0, np.float64),
        "track_position": np.zeros((0, 3), np.float32),
    }
    entities = {name: held[name] for name in _SAME} | frames
    entities |= {
        "status": np.maximum(held["status"], 0).astype(np.uint8),
        "covariance": held["covariance"][:, :6, :6],
        "view_size": np.stack([side, side], axis=-1),
    }
    entities |= {name: (tracks or {}).get(name, leaf) for name, leaf in none.items()}
    own = {name: held[name] for name in _OWN} | {"turn_covariance": held["covariance"][:, 6]}
    return entities, own


def from_parts(entities: Mapping[str, np.ndarray], own: Mapping[str, np.ndarray]) -> Movers:
    """The bodies that `to_parts` was given; leaves are numpy's.

    Files of version 1 of "movers" do not say how often bodies were overlooked: never, then.
    """
    own = {"overlooked": np.zeros_like(own["hits"])} | dict(own)
    covariance = np.zeros((*entities["covariance"].shape[:1], 7, 7), np.float32)
    covariance[:, :6, :6] = entities["covariance"]
    covariance[:, 6] = covariance[:, :, 6] = own["turn_covariance"]
    status = entities["status"].astype(np.int32)
    return Movers(
        **{name: entities[name] for name in _SAME},
        **{name: own[name] for name in _OWN},
        status=np.where(entities["id"] < 0, np.int32(FREE), status),
        covariance=covariance,
        view_size=entities["view_size"][..., 0],
    )
