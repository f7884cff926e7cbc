"""A small geometry.npz of a level walk past a wall, for tests."""

import numpy as np

SIZE = (16, 32)
FRAMES = 13


def arrays(size=SIZE, frames=FRAMES, depth=4.0):
    """What Mirage's data pipeline would store of it."""
    height, width = size
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, 0, 3] = 0.05 * np.arange(frames)
    lens = np.array([[width * 0.8, 0, width / 2], [0, width * 0.8, height / 2], [0, 0, 1]])
    rng = np.random.default_rng(0)
    return {
        "depths": np.full((frames, *size), depth, np.float32),
        "intrinsics": np.tile(lens, (frames, 1, 1)),
        "poses_c2w": poses,
        "frames": rng.integers(0, 256, (frames, *size, 3), np.uint8),
        "masks": np.ones((frames, *size), bool),
        "frame_indices": np.arange(frames, dtype=np.int32),
        "original_size": np.array([-1, -1], np.int32),
        "processed_size": np.array(size, np.int32),
        "fps": np.array([12.0], np.float32),
    }


def save(path, **changes):
    """Writes it, with arrays exchanged or (None) left out."""
    kept = {name: array for name, array in (arrays() | changes).items() if array is not None}
    np.savez_compressed(path, **kept)
    return path
