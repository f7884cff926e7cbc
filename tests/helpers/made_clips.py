"""Clips made of random numbers, for tests of what is done with clips."""

import numpy as np

from data_pipelines.clip import Bodies, Clip


def make_clip(frames=3, height=4, width=6, seed=0, **changes) -> Clip:
    """A valid clip without any of the newer parts; the first one, of 5 x 8 x 8, is in clip-1."""
    rng = np.random.default_rng(seed)
    cam2world = np.tile(np.eye(4), (frames, 1, 1))
    angle = rng.uniform(-1, 1, frames)
    cam2world[:, 0, 0] = cam2world[:, 2, 2] = np.cos(angle)
    cam2world[:, 0, 2], cam2world[:, 2, 0] = np.sin(angle), -np.sin(angle)
    cam2world[:, :3, 3] = rng.normal(size=(frames, 3))
    fields = {
        "video": rng.integers(0, 256, (frames, height, width, 3), np.uint8),
        "depth": rng.uniform(0.5, 9, (frames, height, width)).astype(np.float32),
        "intrinsics": np.tile(np.float32([5, 5, width / 2, height / 2]), (frames, 1)),
        "cam2world": cam2world,
        "mover_ids": rng.integers(0, 70_000, (frames, height, width), np.int32),
        "world": "freedoom2/MAP07",
        "source": "freedoom",
        "trajectory": "easy",
        "seed": seed,
        "gamma": 0.6,
        "fps": 10.0,
        "name": f"clip-ü-{seed}",
    }
    if fields["depth"].size > 2:  # one of them must be known
        fields["depth"].flat[:2] = 0, np.inf
    return Clip(**(fields | changes))


def make_full_clip(frames=3, height=4, width=6) -> Clip:
    """A valid clip with every part: of two bodies, the second comes later and is never seen."""
    movers = np.zeros((frames, height, width), np.int32)
    movers[0, 1, 2] = 7
    body2world = np.tile(np.eye(4), (frames, 2, 1, 1))
    body2world[:, 0, 0, 3] = np.arange(frames)
    velocity = np.zeros((frames, 2, 3))
    velocity[:, 0, 0] = 10.0
    bodies = Bodies(
        ids=np.array([7, 9], np.int32),
        kinds=("capsule", "capsule"),
        looks=("red", "blue"),
        extent=np.full((2, 3), 0.5, np.float32),
        body2world=body2world,
        velocity=velocity,
        angular_velocity=np.zeros((frames, 2, 3)),
        present=np.array([[True, frame > 0] for frame in range(frames)]),
        visible=np.array([[frame == 0, False] for frame in range(frames)]),
    )
    return make_clip(
        frames,
        height,
        width,
        mover_ids=movers,
        bodies=bodies,
        times=1.5 + np.arange(frames) ** 1.5,
        caption="a corridor",
        licence="CC-BY-4.0",
        provenance={"tool": "a test", "version": [1, 2], "file": None},
    )


def bare(clip: Clip) -> Clip:
    """The same clip without anything that may be absent."""
    required = ("video", "intrinsics", "cam2world")
    meta = ("world", "source", "trajectory", "gamma", "fps", "name")
    return Clip(**{field: getattr(clip, field) for field in (*required, *meta)})


def edited(array, index, value):
    array = array.copy()
    array[index] = value
    return array
