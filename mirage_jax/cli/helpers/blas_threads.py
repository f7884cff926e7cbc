"""One thread for the linear algebra of NumPy and SciPy."""

from __future__ import annotations

import os


def one_blas_thread() -> None:
    """To be called before NumPy is imported; does nothing where the user has chosen.

    After a product the threads of OpenBLAS wait for the next without sleeping, for a tenth of a
    second: on two cores a chunk of `mirage explore` took 63 ms in place of 39, as XLA had to share
    them. What is large is computed by XLA, which has threads of its own.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
