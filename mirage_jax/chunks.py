"""Arithmetic of frames, latents and chunks.

The causal video autoencoder puts the first frame of a clip into a latent of its own and every four
frames after it into one; a latent's pose is that of the last frame it covers. A rollout goes along
a camera path in chunks that share one frame with the chunk before.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mirage_jax.geometry import Camera

TEMPORAL_STRIDE = 4
"""Frames covered by every latent after the first (causal VAE)."""


def latents_of_frames(frames: int) -> int:
    """Latents that cover `frames` frames; raises ValueError unless frames = 1 + 4 n."""
    if frames < 1 or (frames - 1) % TEMPORAL_STRIDE:
        raise ValueError(f"frames: found {frames}, expected 1 + {TEMPORAL_STRIDE} n")
    return 1 + (frames - 1) // TEMPORAL_STRIDE


def frames_of_latents(latents: int) -> int:
    """Frames that `latents` latents cover."""
    return 1 + (latents - 1) * TEMPORAL_STRIDE


def whole_latents(frames: int) -> int:
    """The largest 1 + 4 n that is not above `frames`."""
    return frames - (frames - 1) % TEMPORAL_STRIDE


def latent_of_frame(latents: int) -> np.ndarray:
    """For every frame that `latents` latents cover, the number of the latent that covers it."""
    return -(-np.arange(frames_of_latents(latents)) // TEMPORAL_STRIDE)


def frames_per_latent(
    per_frame: Float[Array | np.ndarray, " frames *rest"], reads: int = TEMPORAL_STRIDE
) -> Float[Array, "latents reads *rest"]:
    """Groups a per-frame array by the latents that cover the frames.

    The first latent covers one frame, which is repeated. Of the four frames of each later latent
    the last of each of `reads` equal parts is kept, so that `reads=1` gives the latent's own pose.

    Raises:
      ValueError: if the frame count is not 1 + 4 n or `reads` does not divide 4.
    """
    latents = latents_of_frames(per_frame.shape[0])
    if TEMPORAL_STRIDE % reads:
        raise ValueError(f"reads: found {reads}, expected a divisor of {TEMPORAL_STRIDE}")
    first = jnp.repeat(per_frame[:1], reads, axis=0)[None]
    step = TEMPORAL_STRIDE // reads
    rest = per_frame[1:].reshape(latents - 1, TEMPORAL_STRIDE, *per_frame.shape[1:])
    return jnp.concatenate([first, rest[:, step - 1 :: step]], axis=0)


def latent_cameras(camera: Camera, reads: int) -> Camera:
    """Cameras [frames] -> [latents, reads], grouped by `frames_per_latent`."""
    return Camera(
        intrinsics=frames_per_latent(camera.intrinsics, reads),
        cam2world=frames_per_latent(camera.cam2world, reads),
        size=camera.size,
    )


def chunks_of_clip(frames: int, chunk_frames: int) -> int:
    """Whole chunks in a clip of `frames` frames, neighbours sharing one."""
    return (frames - 1) // (chunk_frames - 1)


def chunks_of_path(poses: int, chunk_frames: int, name: str = "camera path") -> int:
    """Chunks that a path of `poses` poses (the first one being the picture's) makes.

    Raises:
      ValueError: naming `name`, unless poses = 1 + n (chunk_frames - 1), n >= 1.
    """
    count, rest = divmod(poses - 1, chunk_frames - 1)
    if rest or count < 1:
        step = chunk_frames - 1
        below, above = 1 + max(count, 1) * step, 1 + (max(count, 0) + 1) * step
        raise ValueError(
            f"{name}: found {poses} poses, expected 1 + {step} n, for example "
            f"{below} or {max(above, below + step)}"
        )
    return count


def chunk_bounds(poses: int, chunk_frames: int) -> list[tuple[int, int]]:
    """First and last pose of every chunk of a path whose last chunk may be a short one.

    Raises:
      ValueError: unless both are 1 + 4 n, n >= 1.
    """
    for name, count in (("camera path", poses), ("chunk", chunk_frames)):
        if count <= TEMPORAL_STRIDE or (count - 1) % TEMPORAL_STRIDE:
            raise ValueError(
                f"{name}: found {count} poses, expected 1 + {TEMPORAL_STRIDE} n and at least "
                f"{1 + TEMPORAL_STRIDE}"
            )
    step = chunk_frames - 1
    return [(first, min(first + step, poses - 1)) for first in range(0, poses - 1, step)]
