"""The pose between two memories of one made place is the known one, or is refused.

Tokens are waves over the place, seen with noise; the two memories share no element.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mirage_jax import memory
from mirage_jax.memory import edit
from mirage_jax.memory.alignment import AlignmentOptions, estimate_pose

QUICK = AlignmentOptions(points=700, draws=4000)
CHANNELS = 6


def room(rng, count):
    """Places on the floor, the walls and a pillar of a room of 8 x 3 x 5 m, y pointing down."""
    side = rng.integers(0, 6, count)
    x, y, z = rng.uniform((0, -3, 0), (8, 0, 5), (count, 3)).T
    angle = rng.uniform(0, 2 * np.pi, count)
    x = np.select([side == 1, side == 2, side == 5], [0, 8, 2 + 0.4 * np.cos(angle)], x)
    z = np.select([side == 3, side == 4, side == 5], [0, 5, 3.5 + 0.4 * np.sin(angle)], z)
    return np.stack([x, np.where(side == 0, 0, y), z], axis=1)


def look(places, seed):
    """Tokens of places: waves of a metre and more, the same for one seed."""
    rng = np.random.default_rng(seed)
    waves = rng.normal(size=(3, 4 * CHANNELS))
    return np.sin(places @ waves + rng.uniform(0, 6, 4 * CHANNELS)) @ rng.normal(
        size=(4 * CHANNELS, CHANNELS)
    )


def remembered(places, tokens, rng, pose=None):
    """A memory of them, with noise, holes between the elements, and a world of its own."""
    count = len(places)
    tokens = tokens + 0.3 * tokens.std() * rng.normal(size=tokens.shape)
    places = places + 0.01 * rng.normal(size=places.shape)
    if pose is not None:
        places = places @ pose[:3, :3].T + pose[:3, 3]
    slots = 2 * np.arange(count)
    mem = memory.create(2 * count, CHANNELS)
    return mem.replace(
        xyz=mem.xyz.at[slots].set(jnp.asarray(places, jnp.float32)),
        tokens=mem.tokens.at[slots].set(jnp.asarray(tokens, jnp.float32)),
        valid=mem.valid.at[slots].set(True),
        count=jnp.int32(2 * count),
    )


def pose_of(rotation, shift):
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = Rotation.from_rotvec(rotation).as_matrix(), shift
    return pose


def two_sessions(pose, seed=0, **looks):
    """Memories of the left and the right two thirds of a room, the second seen from elsewhere."""
    rng = np.random.default_rng(seed)
    left, right = (room(rng, 2500) for _ in range(2))
    left, right = left[left[:, 0] < 5.5], right[right[:, 0] > 2.5 * (1 - bool(looks))]
    tokens = look(left, 7), looks.get("tokens", lambda places: look(places, 7))(right)
    return remembered(left, tokens[0], rng), remembered(right, tokens[1], rng, pose)


@pytest.mark.parametrize(("rotation", "turn"), [("yaw", (0, 2.5, 0)), ("rigid", (0.5, 2, -0.4))])
def test_the_pose_between_two_sessions_of_a_room_is_found(rotation, turn):
    pose = pose_of(turn, (4, -0.5, -20))
    one, other = two_sessions(pose)
    found = estimate_pose(one, other, dataclasses.replace(QUICK, rotation=rotation))
    error = found.pose @ pose
    assert np.degrees(Rotation.from_matrix(error[:3, :3]).magnitude()) < 0.5
    places = np.asarray(other.xyz)[np.asarray(other.valid)]
    report = edit.merge(edit.with_capacity(one, 2 * one.capacity), other, np.float32(found.pose))[1]
    assert int(report.added) == len(places)
    back = places @ found.pose[:3, :3].T + found.pose[:3, 3]
    true = (places - pose[:3, 3]) @ pose[:3, :3]
    # Along x the tokens alone say where it is, blurred over a voxel.
    assert np.linalg.norm(back - true, axis=1).max() < 0.3 * found.voxel
    assert np.abs((back - true)[:, 1:]).max() < 0.05
    assert found.residual < 0.03  # two noises of 1 cm
    assert found.overlap > 0.2 and found.margin > QUICK.least_margin


@pytest.mark.parametrize(
    "tokens",
    [
        pytest.param(lambda places: look(places, 8), id="another room of the same shape"),
        pytest.param(
            lambda places: np.random.default_rng(3).normal(size=(len(places), CHANNELS)),
            id="tokens that say nothing",
        ),
    ],
)
def test_another_place_is_refused_with_the_numbers(tokens):
    one, other = two_sessions(pose_of((0, 1, 0), (1, 0, 2)), tokens=tokens)
    with pytest.raises(ValueError, match=r"not sure: .* expected at least 15% and 1\.3; give"):
        estimate_pose(one, other, QUICK)


def test_a_place_that_is_twice_the_same_is_refused():
    """Turned by half a turn the room looks the same: two poses are equally good."""
    rng = np.random.default_rng(1)

    def twofold(places):
        turned = np.array([8, 0, 5]) + places * [-1, 1, -1]
        return look(places, 7) + look(turned, 7)

    def box(count):
        places = room(rng, 3 * count)
        return places[np.abs(places - [2, 0, 3.5])[:, [0, 2]].max(1) > 0.5][:count]

    one, other = (remembered(p, twofold(p), rng) for p in (box(1200), box(1200)))
    with pytest.raises(ValueError, match=r"is 1\.\d\d times better"):
        estimate_pose(one, other, QUICK)


def test_what_cannot_be_compared_is_refused():
    one, other = two_sessions(None)
    with pytest.raises(ValueError, match="found tokens of 2 channels, expected 6"):
        estimate_pose(one, memory.create(9, 2))
    with pytest.raises(ValueError, match="found 0 elements, expected at least 50"):
        estimate_pose(one, memory.create(9, CHANNELS))
    with pytest.raises(ValueError, match=r"up: found .* expected a direction"):
        estimate_pose(one, other, AlignmentOptions(up=(0.0, 0.0, 0.0)))
