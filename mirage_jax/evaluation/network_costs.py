"""What denoiser and video VAE cost: milliseconds, operations and memory of each pass.

In every round of a measurement a plain matrix product takes its turn between the passes. On cores
that others use too, wall time says little; CPU time, and the share of that product's speed, say
more.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mirage_jax.evaluation.network_cases import (
    DENOISERS,
    RECORDED_MS,
    VAES,
    DenoiserCase,
    VAECase,
)
from mirage_jax.evaluation.stopwatch import median_times
from mirage_jax.nn.denoiser import Denoiser
from mirage_jax.nn.video_vae import VideoVAE, latent_frames
from mirage_jax.parallel.flops import matmul_flops

CASES: dict[str, Mapping[str, DenoiserCase | VAECase]] = {"denoiser": DENOISERS, "vae": VAES}
PASSES = {
    "denoiser": ("forward", "forward_backward"),
    "vae": ("encode", "decode", "forward_backward"),
}
"""Gradients are of all parameters; the VAE's are those of encoding and decoding a clip."""


class Network(NamedTuple):
    """Shapes of a network's parameters and inputs, and its passes: functions of those two."""

    params: Any
    inputs: dict[str, jax.ShapeDtypeStruct]
    passes: dict[str, Callable[[Any, Any], Any]]


def denoiser(case: DenoiserCase, dtype: Any = jnp.float32, backend: str = "auto") -> Network:
    """The network of a case; parameters and products in `dtype`, attention by `backend`."""
    model = Denoiser(**case.fields, dtype=dtype, attention_backend=backend)
    (frames, *grid), channels = case.latents, model.in_channels
    shapes: dict[str, tuple[int, ...]] = {
        "latents": (1, frames, *grid, channels),
        "timestep": (1, frames),
    }
    if case.references:
        shapes["reference"] = (1, case.references, *grid, channels)
    if case.precedings:
        shapes["preceding"] = (1, case.precedings, *grid, channels)
    if model.text_width:
        shapes["text"] = (1, case.text_tokens, model.text_width)
    if model.memory_channels:
        shapes["memory"] = (1, frames + case.precedings, *grid, model.memory_channels)
    inputs = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}

    def forward(params: Any, inputs: Any) -> Any:
        latents, timestep = inputs["latents"], inputs["timestep"]
        others = {k: v for k, v in inputs.items() if k not in ("latents", "timestep")}
        return model.apply({"params": params}, latents, timestep, **others)

    def loss(params: Any, inputs: Any) -> Any:
        return jnp.mean(jnp.square(forward(params, inputs)))

    init = partial(model.init, jax.random.key(0))
    params = _parameters(init, inputs["latents"], inputs["timestep"], dtype=dtype)
    return Network(params, inputs, {"forward": forward, "forward_backward": jax.grad(loss)})


def vae(case: VAECase, dtype: Any = jnp.float32) -> Network:
    """The network of a case; parameters, convolutions and products in `dtype`."""
    model = VideoVAE(**case.fields, dtype=dtype)
    (frames, *size), stride = case.video, model.spatial_stride
    cells = [pixels // stride for pixels in size]
    latents = (1, latent_frames(frames, model.temporal_stride), *cells, model.latent_channels)
    inputs = {
        "video": jax.ShapeDtypeStruct((1, frames, *size, 3), jnp.float32),
        "latents": jax.ShapeDtypeStruct(latents, jnp.float32),
    }

    def encode(params: Any, inputs: Any) -> Any:
        return model.apply({"params": params}, inputs["video"], method="encode")

    def decode(params: Any, inputs: Any) -> Any:
        return model.apply({"params": params}, inputs["latents"], method="decode")

    def loss(params: Any, inputs: Any) -> Any:
        video = inputs["video"]
        return jnp.mean(jnp.square(model.apply({"params": params}, video) - video))

    smallest = jax.ShapeDtypeStruct((1, 1, stride, stride, 3), jnp.float32)
    params = _parameters(partial(model.init, jax.random.key(0)), smallest, dtype=dtype)
    passes: dict[str, Callable[[Any, Any], Any]] = {"encode": encode, "decode": decode}
    return Network(params, inputs, {**passes, "forward_backward": jax.grad(loss)})


def _parameters(init: Callable[..., Any], *inputs: Any, dtype: Any) -> Any:
    shapes = nn.unbox(jax.eval_shape(init, *inputs))["params"]
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), shapes)


def measure(
    subject: str,
    sizes: Sequence[str],
    *,
    dtype: Any = jnp.float32,
    passes: Sequence[str] = (),
    repeats: int = 5,
    notify: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Compiles every pass of the named cases and times them, taking turns, with random weights.

    Args:
      subject: "denoiser" or "vae".
      sizes: names of its cases.
      dtype: of parameters and products.
      passes: which of `PASSES[subject]`; () for all.
      repeats: runs per median; 0 compiles only, which needs no memory and gives that of each pass.
      notify: called with the name of each size before it is measured.

    Returns:
      A dict ready for JSON: `subject`, `device`, `cores`, `jax`, `dtype`, `repeats`, and by size
      under `sizes` the number of `parameters`, the shapes of the `inputs`, `matmul_gflops`, and
      under `passes` for each: `gflop` (operations of products and convolutions, attention
      included whatever computes it), `argument_bytes`, `temporary_bytes` (None where the backend
      reports none), `recorded_ms` (of PyTorch, in another run; None if there is none or `dtype` is
      not float32), and if it was run, else None: `ms`, `cpu_ms` (CPU time of all threads),
      `of_matmul` (its operations per second as a share of the matrix product's; of CPU time if
      that is where it runs) and `ratio` (recorded_ms / ms).

    Raises:
      ValueError: if a subject, size or pass is not known.
    """
    cases = _lookup("subject", subject, CASES)
    chosen = passes or PASSES[subject]
    for name in chosen:
        _lookup("pass", name, dict.fromkeys(PASSES[subject]))
    named = {size: _lookup("size", size, cases) for size in sizes}
    found = {}
    for size, case in named.items():
        recorded = RECORDED_MS[subject].get(size, {}) if dtype == jnp.float32 else {}
        notify(size)
        found[size] = _measure_one(case, dtype, chosen, repeats, recorded)
    return {
        "subject": subject,
        "device": str(jax.devices()[0].device_kind),
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "dtype": jnp.dtype(dtype).name,
        "repeats": repeats,
        "sizes": found,
    }


def _lookup(kind: str, name: str, among: Mapping[str, Any]) -> Any:
    if name not in among:
        raise ValueError(f"{kind}: found {name!r}, expected one of {', '.join(among)}")
    return among[name]


def _measure_one(
    case: DenoiserCase | VAECase,
    dtype: Any,
    passes: Sequence[str],
    repeats: int,
    recorded: Mapping[str, float],
) -> dict[str, Any]:
    if isinstance(case, DenoiserCase):
        network = denoiser(case, dtype)
        # A fused kernel hides its products, so they are counted where none is used.
        countable = denoiser(case, dtype, backend="xla")
    else:
        network = countable = vae(case, dtype)
    params, inputs = network.params, network.inputs
    compiled: dict[str, Any] = {}
    found: dict[str, dict[str, Any]] = {}
    for name in passes:
        program = jax.jit(network.passes[name]).lower(params, inputs).compile()
        compiled[name], memory = program, program.memory_analysis()
        found[name] = {
            "gflop": matmul_flops(jax.make_jaxpr(countable.passes[name])(params, inputs)) / 1e9,
            "argument_bytes": memory and memory.argument_size_in_bytes,
            "temporary_bytes": memory and memory.temp_size_in_bytes,
            "recorded_ms": recorded.get(name),
            **dict.fromkeys(("ms", "cpu_ms", "of_matmul", "ratio")),
        }
    matmul_gflops = None
    if repeats:
        arrays = draw(params), draw(inputs)
        side, matmul = _matmul(dtype)
        calls = [partial(program, *arrays) for program in compiled.values()]
        *times, matmul_time = median_times([*calls, matmul], repeats)
        matmul_gflops = 2e-6 * side**3 / matmul_time.ms
        on_cpu = jax.default_backend() == "cpu"
        reference = 2e-9 * side**3 / (matmul_time.cpu_ms if on_cpu else matmul_time.ms)
        for entry, (ms, cpu_ms, _) in zip(found.values(), times, strict=True):
            entry["ms"], entry["cpu_ms"] = ms, cpu_ms
            entry["of_matmul"] = entry["gflop"] / (cpu_ms if on_cpu else ms) / reference
            if entry["recorded_ms"]:
                entry["ratio"] = entry["recorded_ms"] / ms
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "inputs": {name: list(leaf.shape) for name, leaf in inputs.items()},
        "matmul_gflops": matmul_gflops,
        "passes": found,
    }


def _matmul(dtype: Any) -> tuple[int, Callable[[], Any]]:
    """A square product large enough to run at full speed: its side, and the call."""
    side = 1536 if jax.default_backend() == "cpu" else 8192
    square = jax.random.normal(jax.random.key(0), (side, side), dtype)
    return side, partial(jax.jit(jnp.matmul), square, square)


def draw(shapes: Any, seed: int = 0) -> Any:
    """Small normal values of the given shapes; on a GPU products of zeros would be too fast."""
    rng = np.random.default_rng(seed)

    def one(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        return jnp.asarray(0.02 * rng.standard_normal(leaf.shape, np.float32), leaf.dtype)

    return jax.tree.map(one, shapes)
