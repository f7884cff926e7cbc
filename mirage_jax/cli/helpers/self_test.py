"""Small runs of every part on this machine, each compared with what must come out.

Weights and inputs are sines of their place, so that the numbers expected are the same everywhere.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mirage_jax import memory
from mirage_jax.geometry import Camera
from mirage_jax.nn.denoiser import Denoiser
from mirage_jax.nn.video_vae import VideoVAE

VIDEO_FRAMES, VIDEO_SIZE = 5, (16, 24)
_GRID, _CHANNELS = (2, 3), 4

DENOISER_STEP = -5.9557
VAE_RECONSTRUCTION = 7.3789
"""Sums of what the two networks below give, each value times the sine of its place."""
TOLERANCE = 0.02
"""How far a sum may be off, relative to it: matrix products of some devices round to bfloat16."""


@dataclasses.dataclass(frozen=True)
class Step:
    """One part of the test.

    Attributes:
      name: what is tried.
      run: does it, in a folder; returns what came out in words, and raises if it is wrong.
    """

    name: str
    run: Callable[[Path], str]


class SelfTestError(Exception):
    """A part gave something else than it must."""


def sines(shape: tuple[int, ...], number: int = 0) -> np.ndarray:
    """Values between -1 and 1 that are the same on every machine, float32."""
    place = np.arange(int(np.prod(shape)), dtype=np.float64) + 1
    return np.sin(place * (0.7 + 0.1 * number)).astype(np.float32).reshape(shape)


def projection(values: Any) -> float:
    """One number of an array that a change of any value changes."""
    array = np.asarray(values, np.float64)
    return float((array * sines(array.shape, 9)).sum())


def _params(module: nn.Module, *inputs: Any) -> Any:
    shapes = jax.eval_shape(lambda: nn.unbox(module.init(jax.random.key(0), *inputs)))["params"]
    leaves, structure = jax.tree.flatten(shapes)
    scaled = [
        sines(leaf.shape, number % 17) / np.sqrt(max(np.prod(leaf.shape[:-1]), 1))
        for number, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, scaled)


def denoiser_step() -> float:
    """One step of a denoiser of two blocks."""
    network = Denoiser(
        width=12, depth=2, heads=2, mlp_width=16, in_channels=_CHANNELS, out_channels=_CHANNELS,
        patch=(1, 1, 1), freq_width=8, zero_head=False,
    )  # fmt: skip
    latents = jnp.asarray(sines((1, 2, *_GRID, _CHANNELS)))
    times = jnp.full((1, 2), 0.5)
    params = _params(network, latents, times)
    return projection(jax.jit(network.apply)({"params": params}, latents, times))


def vae_reconstruction() -> float:
    """A clip of five frames through an autoencoder and back."""
    network = VideoVAE(
        base_width=4, decoder_width=4, latent_channels=_CHANNELS, width_mults=(1, 1, 1), blocks=1,
        attention=False,
    )  # fmt: skip
    video = jnp.asarray(sines((1, VIDEO_FRAMES, *VIDEO_SIZE, 3)))
    params = _params(network, video)
    return projection(jax.jit(network.apply)({"params": params}, video))


def _compare(name: str, found: float, expected: float) -> str:
    if not abs(found - expected) <= TOLERANCE * abs(expected):
        raise SelfTestError(
            f"{name}: found {found:.4f}, expected {expected:.4f}: this device or this version of "
            "jax computes something else"
        )
    return f"{found:.4f}, expected {expected:.4f}"


def _denoiser(_: Path) -> str:
    return _compare("denoiser", denoiser_step(), DENOISER_STEP)


def _vae(_: Path) -> str:
    return _compare("video autoencoder", vae_reconstruction(), VAE_RECONSTRUCTION)


def _memory(_: Path) -> str:
    grid, size = (6, 8), (48, 64)
    camera = Camera(
        np.array([[50.0, 50.0, 32.0, 24.0]], np.float32), np.eye(4, dtype=np.float32)[None], size
    )
    tokens = sines((1, *grid, 3))
    bank, report = memory.write(
        memory.create(100, 3), jnp.asarray(tokens), jnp.full((1, *grid), 2.0), camera
    )
    seen = jax.jit(lambda bank, camera: memory.read(bank, camera, grid))(bank, camera)
    if int(report.written) != tokens[..., 0].size:
        raise SelfTestError(f"found {int(report.written)} cells written, expected 48")
    error = float(np.abs(np.asarray(seen.tokens) - tokens).max())
    if error > 1e-6:
        raise SelfTestError(f"found an error of {error:.2g} in what was read, expected none")
    return f"{tokens[..., 0].size} cells written and read back, error {error:.1g}"


def _video(folder: Path) -> str:
    from mirage_jax.io.video import read_video, write_video

    frames = np.zeros((VIDEO_FRAMES, 32, 32, 3), np.uint8)
    frames[:, :16] = 200
    found, fps = read_video(write_video(folder / "self_test.mp4", frames, 10, scale=1))
    if found.shape != frames.shape or abs(fps - 10) > 0.1:
        raise SelfTestError(f"found a video of {found.shape} at {fps} fps, expected {frames.shape}")
    error = float(np.abs(found.astype(int) - frames).mean())
    if error > 8:
        raise SelfTestError(f"found colours {error:.1f} off, expected at most 8 of 255")
    return f"{len(found)} frames, colours {error:.1f} of 255 off"


def _export(folder: Path) -> str:
    from mirage_jax.weights import export, flatten, load_export

    params = {"dense": {"kernel": sines((20, 10)), "bias": jnp.ones(10, jnp.bfloat16)}}
    found, _ = load_export(export(folder / "export", params, {"kind": "self_test"}))
    _same(flatten(params), flatten(found))
    return "written and read back, bit for bit"


def _checkpoint(folder: Path) -> str:
    from mirage_jax.training import guard
    from mirage_jax.training.checkpoints import Checkpoints
    from mirage_jax.training.state import TrainState

    params = {"dense": {"kernel": jnp.asarray(sines((20, 10)))}}
    state = TrainState(
        jnp.int32(7), params, {"mu": params["dense"]["kernel"] * 2}, params, jax.random.key(3),
        guard.begin(),
    )  # fmt: skip
    with Checkpoints(folder / "run") as store:
        store.save(state, {"batches": 7})
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    with Checkpoints(folder / "run") as store:
        restored = store.restore(abstract)
    if restored is None or restored[1]["batches"] != 7:
        raise SelfTestError(f"found {restored and restored[1]}, expected the checkpoint of step 7")
    _same(state.params, restored[0].params)
    _same(state.opt_state, restored[0].opt_state)
    return "saved and restored, bit for bit"


def _same(expected: Any, found: Any) -> None:
    pairs = zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True)
    for one, other in pairs:
        if np.asarray(one).tobytes() != np.asarray(other).tobytes():
            raise SelfTestError("found other values than were written")


STEPS = (
    Step("video file", _video),
    Step("export of weights", _export),
    Step("memory bank", _memory),
    Step("video autoencoder", _vae),
    Step("denoiser", _denoiser),
    Step("checkpoint", _checkpoint),
)


def in_folder(folder: Path, step: Step) -> str:
    """Runs a step in a folder of its own, which is removed; errors are those of the step."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".self-test-") as own:
        return step.run(Path(own))
