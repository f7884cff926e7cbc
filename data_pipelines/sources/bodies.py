"""Bodies that walk: they stand, go straight, turn, and bounce off what is in their way.

A body's motion from any moment on follows from its state at that moment alone: heading, speed and
turn rate, which a bounce mirrors. A step goes straight along the heading and then turns; bounces
happen at the exact place within the step. Bodies pass through each other.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int32

from data_pipelines.clip import Bodies
from data_pipelines.sources.body_kinds import KINDS, check_look
from data_pipelines.sources.ground import Ground, keep_off

_BOUNCES = 16
"""In one step, at most; a body that is squeezed more often stays where it is."""


@dataclasses.dataclass(frozen=True)
class Walkers:
    """The state of B bodies on a level floor.

    Attributes:
      positions: (x, y) of their centres, metres.
      headings: radians, counter-clockwise from +x.
      speeds: metres per second along the heading.
      turn_rates: radians per second, counter-clockwise.
    """

    positions: Float[np.ndarray, "*t b 2"]
    headings: Float[np.ndarray, "*t b"]
    speeds: Float[np.ndarray, "*t b"]
    turn_rates: Float[np.ndarray, "*t b"]

    def __getitem__(self, index: object) -> "Walkers":
        return Walkers(*(getattr(self, field.name)[index] for field in dataclasses.fields(self)))


def directions(headings: Float[np.ndarray, "*b"]) -> Float[np.ndarray, "*b 2"]:
    """Unit vectors (x, y) of headings in radians."""
    return np.stack([np.cos(headings), np.sin(headings)], -1)


def step(
    ground: Ground, walkers: Walkers, radius: Float[np.ndarray, " b"], seconds: float
) -> Walkers:
    """The state after `seconds`: straight on with bounces, then the turn.

    Args:
      ground: where they walk.
      walkers: their state, clear of all blocks.
      radius: metres that they keep from blocks.
      seconds: 0 or more.
    """
    positions, ways = walkers.positions.copy(), directions(walkers.headings)
    rates, left = walkers.turn_rates.copy(), walkers.speeds * seconds
    for _ in range(_BOUNCES):
        going = np.flatnonzero(left > 0)
        if not len(going):
            break
        distance, axis = ground.first_hit(positions[going], ways[going], radius[going])
        gone = np.minimum(keep_off(distance), left[going])
        hits = distance <= left[going]
        positions[going] += gone[:, None] * ways[going]
        left[going] = np.where(hits, left[going] - gone, 0.0)
        hit = going[hits]
        ways[hit, axis[hits]] *= -1.0
        rates[hit] *= -1.0
    headings = np.arctan2(ways[:, 1], ways[:, 0]) + rates * seconds
    return Walkers(positions, headings, walkers.speeds, rates)


def walk(
    ground: Ground, start: Walkers, radius: Float[np.ndarray, " b"], steps: int, seconds: float
) -> Walkers:
    """States at `steps` times, `seconds` apart and the start first; time is a leading axis."""
    states = [start]
    for _ in range(steps - 1):
        states.append(step(ground, states[-1], radius, seconds))
    names = [field.name for field in dataclasses.fields(Walkers)]
    return Walkers(*(np.stack([getattr(state, name) for state in states]) for name in names))


def body2world(walkers: Walkers, kinds: tuple[str, ...]) -> Float[np.ndarray, "*t b 4 4"]:
    """Poses of bodies that stand on the floor: x ahead, z up, origin at the middle of the body."""
    half = np.array([KINDS[kind].height / 2 for kind in kinds])
    middles = np.broadcast_to(half, walkers.headings.shape)
    return upright(np.concatenate([walkers.positions, middles[..., None]], -1), walkers.headings)


def upright(
    centres: Float[np.ndarray, "*t b 3"], headings: Float[np.ndarray, "*t b"]
) -> Float[np.ndarray, "*t b 4 4"]:
    """Poses of bodies that stand upright: x ahead, z up, origin at their centres."""
    ahead = directions(headings)
    poses = np.zeros((*headings.shape, 4, 4))
    poses[..., :2, 0] = ahead
    poses[..., :2, 1] = np.stack([-ahead[..., 1], ahead[..., 0]], -1)
    poses[..., 2, 2] = poses[..., 3, 3] = 1.0
    poses[..., :3, 3] = centres
    return poses


def to_bodies(
    walkers: Walkers,
    kinds: tuple[str, ...],
    looks: tuple[str, ...],
    shown: Int32[np.ndarray, "t height width"],
) -> Bodies:
    """The stored form of B bodies with ids 1 to B at T frames, whose mover ids `shown` has."""
    for look in looks:
        check_look(look)
    ids = np.arange(1, len(kinds) + 1, dtype=np.int32)
    frames, count = walkers.headings.shape
    velocity, turning = np.zeros((frames, count, 3)), np.zeros((frames, count, 3))
    velocity[..., :2] = walkers.speeds[..., None] * directions(walkers.headings)
    turning[..., 2] = walkers.turn_rates
    return Bodies(
        ids=ids,
        kinds=kinds,
        looks=looks,
        extent=np.array([KINDS[kind].extent for kind in kinds], np.float32).reshape(count, 3),
        body2world=body2world(walkers, kinds),
        velocity=velocity,
        angular_velocity=turning,
        present=np.ones((frames, count), bool),
        visible=np.stack([(shown == number).any((1, 2)) for number in ids], 1)
        if count
        else np.zeros((frames, 0), bool),
    )


def walkers_of(bodies: Bodies, frame: int) -> Walkers:
    """The state of a clip's bodies at a frame: what their later motion follows from."""
    poses = bodies.body2world[frame]
    return Walkers(
        positions=poses[:, :2, 3].copy(),
        headings=np.arctan2(poses[:, 1, 0], poses[:, 0, 0]),
        speeds=np.linalg.norm(bodies.velocity[frame, :, :2], axis=-1),
        turn_rates=bodies.angular_velocity[frame, :, 2].copy(),
    )


def radii(kinds: tuple[str, ...]) -> Float[np.ndarray, " b"]:
    """Metres that bodies of these kinds keep from what they walk into."""
    return np.array([KINDS[kind].radius for kind in kinds])


def visible_from(
    ground: Ground,
    cam2world: Float[np.ndarray, "t 4 4"],
    positions: Float[np.ndarray, "t b 2"],
    half_angle: float,
    reach: float,
) -> Bool[np.ndarray, "t b"]:
    """Whether the middle of a body is in view, seen from above: ahead, near enough, not hidden.

    Args:
      ground: with what hides.
      cam2world: level OpenCV poses.
      positions: (x, y) of the bodies at the same times.
      half_angle: of the view across, radians.
      reach: metres.
    """
    eyes, ahead = cam2world[:, None, :2, 3], cam2world[:, None, :2, 2]
    ahead = ahead / np.linalg.norm(ahead, axis=-1, keepdims=True)
    way = positions - eyes
    distance = np.linalg.norm(way, axis=-1)
    inside = (way * ahead).sum(-1) > np.cos(half_angle) * distance
    return np.asarray(inside & (distance < reach) & ground.sees(positions - way, positions))
