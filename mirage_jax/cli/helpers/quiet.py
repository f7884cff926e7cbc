"""Keeps off the terminal what nobody wants to read: logs of C++ libraries, and tracebacks of help
that is read in part."""

from __future__ import annotations

import glob
import os
import sys

TPU_DEVICES = ("/dev/accel*", "/dev/vfio/[0-9]*")
"""Where TPUs are seen, as patterns of files."""


def silence_libraries() -> None:
    """Sets environment variables before JAX is imported; what is set already stays."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if not any(glob.glob(device) for device in TPU_DEVICES):
        # Where it is installed, libtpu asks for these two, and tells a page if nobody answers.
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-1")


def show(text: str) -> None:
    """Prints help; who has read enough may close the pipe, as `head` does."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python would try once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
