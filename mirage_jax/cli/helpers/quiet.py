"""Keeps logs of C++ libraries off the terminal; to be called before JAX is imported."""

from __future__ import annotations

import glob
import os

TPU_DEVICES = ("/dev/accel*", "/dev/vfio/[0-9]*")
"""Where TPUs are seen, as patterns of files."""


def silence_libraries() -> None:
    """Sets environment variables; what is set already stays."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if not any(glob.glob(device) for device in TPU_DEVICES):
        # Where it is installed, libtpu asks for these two, and tells a page if nobody answers.
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-1")
