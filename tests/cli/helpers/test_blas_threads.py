"""`mirage` leaves the cores to XLA: NumPy multiplies on one of them, unless told otherwise."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
import mirage_jax.cli.main
from mirage_jax.cli.helpers.blas_threads import one_blas_thread
assert "numpy" not in sys.modules, "it has read its settings before"
one_blas_thread()
import numpy as np
np.ones((500, 500)) @ np.ones((500, 500))
print(len(os.listdir("/proc/self/task")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core, one thread")
@pytest.mark.parametrize(("chosen", "threads"), [(None, 1), ("2", 2)])
def test_one_thread_unless_the_user_has_chosen(chosen, threads):
    environment = {k: v for k, v in os.environ.items() if k != "OPENBLAS_NUM_THREADS"}
    if chosen is not None:
        environment["OPENBLAS_NUM_THREADS"] = chosen
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) == threads
