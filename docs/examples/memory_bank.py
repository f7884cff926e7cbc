"""The memory bank alone: anything seen at a known depth, kept in place and read from elsewhere.

A camera looks at a wall two metres away and stores what it sees there, one token per cell: here
the place on the wall. A camera half a metre to the right then reads the wall from its own side.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mirage_jax import memory
from mirage_jax.geometry import Camera

GRID = (24, 32)  # cells a picture has
SIZE = (192, 256)  # pixels that the intrinsics refer to


def camera_at(x: float) -> Camera:
    """A camera x metres to the right of the first, looking ahead (OpenCV: x right, z forward)."""
    pose = np.eye(4, dtype=np.float32)
    pose[0, 3] = x
    intrinsics = np.array([200.0, 200.0, 128.0, 96.0], np.float32)  # fx, fy, cx, cy
    return Camera(intrinsics[None], pose[None], SIZE)


def places(x: float) -> jnp.ndarray:
    """Where on the wall the cells of such a camera look, in metres [1, 24, 32, 2]."""
    rows = (np.arange(GRID[0]) + 0.5) * SIZE[0] / GRID[0]
    columns = (np.arange(GRID[1]) + 0.5) * SIZE[1] / GRID[1]
    wall = np.meshgrid(x + 2.0 * (columns - 128) / 200, 2.0 * (rows - 96) / 200)
    return jnp.asarray(np.stack(wall, axis=-1)[None], jnp.float32)


def main() -> float:
    bank = memory.create(capacity=4096, channels=2)
    bank, report = memory.write(bank, places(0.0), jnp.full((1, *GRID), 2.0), camera_at(0.0))
    print(f"{int(report.written)} cells stored, {memory.nbytes(bank):,} bytes")

    look = jax.jit(lambda bank, camera: memory.read(bank, camera, GRID))
    seen = look(bank, camera_at(0.5))
    visible = np.asarray(seen.visible) > 0
    error = np.abs(np.asarray(seen.tokens) - places(0.5))[visible].max()
    print(f"{visible.mean():.0%} of the new view was seen before, {error:.3f} m off at most")
    print(f"a cell of the wall is {2.0 * SIZE[1] / GRID[1] / 200:.3f} m wide")
    return float(error)


if __name__ == "__main__":
    main()
