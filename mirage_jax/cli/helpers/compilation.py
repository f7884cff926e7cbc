"""How programs are compiled on a CPU: to run fast, or to compile fast."""

from __future__ import annotations

import os

from jax.version import __version__ as _JAX


def use_own_kernels() -> None:
    """On a CPU XLA leaves reductions to its library (YNNPACK), and computes all else itself.

    By default it gives away chains of elementwise operations and matrix products too, which takes
    the video VAE 1.3 to 1.7 times as long (docs/performance.md). To be called before JAX has
    devices; processes begun later do the same.
    """
    _set_flag(
        "--xla_cpu_experimental_ynn_fusion_type", "LIBRARY_FUSION_TYPE_REDUCE", ("0.10.", "0.12.")
    )


def compile_fast() -> None:
    """Programs compile two to three times as fast on a CPU from here on, and run slower.

    To be called before JAX has devices; processes begun later do the same.
    """
    import jax

    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    jax.config.update("jax_disable_most_optimizations", True)
    # The default emitters go through MLIR.
    _set_flag("--xla_cpu_use_fusion_emitters", "false", ("0.10.",))
    # XLA checks its work after each pass, which is a fourteenth of what is left.
    _set_flag("--xla_disable_hlo_passes", "hlo-verifier", ("0.10.",))


def _set_flag(name: str, value: str, versions: tuple[str, ...]) -> None:
    """Sets a flag of XLA unless the user has, for versions of JAX whose XLA knows it.

    One that it does not know would end the process.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _JAX.startswith(versions) and name not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {name}={value}".strip()
