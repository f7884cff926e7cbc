"""Large pages for XLA's buffers on the CPU.

On two cores a denoiser step of the quickstart takes 0.44 s with them and 0.63 s without.
"""

from __future__ import annotations

import os
import sys

_VARIABLE = "GLIBC_TUNABLES"

# Freed buffers are kept and reused (mmap_max, trim_threshold) and lie in large pages (hugetlb),
# so that a step does not fault in its hundreds of megabytes 4 KiB at a time.
_SETTINGS = ":".join(
    (
        "glibc.malloc.hugetlb=1",
        "glibc.malloc.mmap_max=0",
        f"glibc.malloc.trim_threshold={1 << 40}",
    )
)


def restart_with_large_pages() -> None:
    """Starts this program once more with glibc's allocator set up, before anything is loaded.

    glibc reads these settings only when a process starts. Does nothing where they would mean
    nothing (not Linux) or the user has chosen (`GLIBC_TUNABLES`, be it empty, in the environment).
    """
    if sys.platform == "linux" and _VARIABLE not in os.environ:
        os.environ[_VARIABLE] = _SETTINGS
        os.execv(sys.executable, sys.orig_argv)
