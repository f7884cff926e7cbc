"""Fast compilation, for runs and tests that compile longer than they compute."""

from __future__ import annotations

import os


def compile_fast() -> None:
    """Programs compile two to three times as fast on a CPU from here on, and run slower.

    To be called before JAX has devices; processes begun later do the same.
    """
    import jax

    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    jax.config.update("jax_disable_most_optimizations", True)
    # The default emitters go through MLIR. A flag that XLA does not know would end the process.
    flag = "--xla_cpu_use_fusion_emitters"
    flags = os.environ.get("XLA_FLAGS", "")
    if jax.__version__.startswith("0.10.") and flag not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {flag}=false".strip()
