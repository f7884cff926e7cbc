"""Fits the denoiser's memory prior (`nn.memory_prior`) in closed form: two ridge regressions.

The samples are those the denoiser will train on, noisy histories, dropped memories and all, so
that the prior promises no more than it will keep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mirage_jax.training.denoiser_task import DenoiserTask
from mirage_jax.world.latent_clip import from_fields

Pairs = Iterable[tuple[Array, Array]]

RIDGE = 1e-3
"""Penalty on squared weights, in units of the mean square of an input channel."""


def fit_memory_prior(
    task: DenoiserTask,
    source: Any,
    *,
    batches: int = 24,
    batch_size: int = 32,
    seed: int = 0,
    apart: Sequence[int] = (),
) -> dict[str, np.ndarray]:
    """Parameters of the prior of `task.denoiser` from the first batches of a shuffled source.

    Args:
      task: says how samples are made.
      source: cached clips by index, as `LatentSource`.
      batches, batch_size: clips used, none more than four times; each gives as many samples as its
        chunk has cells.
      seed: of the choice of clips and of the samples.
      apart: clips of each set that the source joins, where a batch is of one set, each in turn.

    Raises:
      ValueError: if there are fewer samples than channels of the memory context.
    """
    batches = min(batches, -(-4 * len(source) // batch_size))
    lengths, rng = apart or (len(source),), np.random.default_rng(seed)
    ends, of_set = np.cumsum(lengths), -(-batches // len(lengths)) * batch_size
    orders = [
        np.resize(end - length + rng.permutation(length), of_set).reshape(-1, batch_size)
        for end, length in zip(ends, lengths, strict=True)
    ]
    order = np.stack(orders, axis=1).reshape(-1, batch_size)[:batches]
    samples, key = jax.jit(task.sample), jax.random.key(seed)

    def draw() -> Iterator[tuple[Array, Array]]:
        for number, chosen in enumerate(order):
            records = [source[int(index)] for index in chosen]
            fields: dict[str, Any] = {n: np.stack([r[n] for r in records]) for n in records[0]}
            made = samples(from_fields(fields), jax.random.fold_in(key, number))
            # The first latent of a chunk is given.
            yield made.context[:, 1 : made.target.shape[1]], made.target[:, 1:]

    return fit_gaussian(draw)


def fit_gaussian(draw: Callable[[], Pairs]) -> dict[str, np.ndarray]:
    """Regression of y on x for the mean, of its squared residuals on x for the variance.

    Args:
      draw: gives the same pairs (x [..., m], y [..., c]) every time it is called.

    Returns:
      Kernels [m, c] and biases [c] under the names that `MemoryPrior` has for them.

    Raises:
      ValueError: if there are fewer samples than channels of x.
    """
    mean = _regress(draw())
    variance = _regress((x, jnp.square(y - _affine(x, mean))) for x, y in draw())
    parts = {"mean": mean, "variance": variance}
    kernels = {f"{name}_kernel": weights[:-1] for name, weights in parts.items()}
    return kernels | {f"{name}_bias": weights[-1] for name, weights in parts.items()}


def _affine(x: Float[Array, "*b m"], weights: Float[np.ndarray, "m1 c"]) -> Float[Array, "*b c"]:
    return x @ weights[:-1] + weights[-1]


@jax.jit
def _moments(x: Array, y: Array) -> tuple[Array, Array]:
    rows = x.reshape(-1, x.shape[-1])
    rows = jnp.concatenate([rows, jnp.ones((len(rows), 1), rows.dtype)], axis=-1)
    return rows.T @ rows, rows.T @ y.reshape(-1, y.shape[-1])


def _regress(pairs: Pairs) -> Float[np.ndarray, "m1 c"]:
    """Weights of y = [x, 1] W; the last row, the bias, is not penalised."""
    square, cross = np.zeros(()), np.zeros(())
    for x, y in pairs:
        batch = _moments(x, y)
        # Sums in float64: small differences of large ones decide here.
        square, cross = square + np.float64(batch[0]), cross + np.float64(batch[1])
    inputs = len(square) - 1 if square.ndim else 0
    count = int(square[-1, -1]) if square.ndim else 0
    if count <= inputs:
        raise ValueError(
            f"memory prior: found {count} samples for {inputs} channels of context, expected more"
        )
    penalty = np.full(inputs + 1, RIDGE * np.trace(square[:inputs, :inputs]) / inputs)
    penalty[-1] = 0.0
    return np.linalg.solve(square + np.diag(penalty), cross).astype(np.float32)
