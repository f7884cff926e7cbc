"""Rendering without a screen: which of MuJoCo's OpenGL backends works here."""

import functools
import os
import subprocess
import sys
from typing import Any

GL_BACKENDS = ("egl", "osmesa")

_PROBE = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco/>")
context = mujoco.GLContext(8, 8)
context.make_current()
renderer = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
renderer.free()
context.free()
"""


@functools.cache
def _probe(backend: str) -> str:
    """Empty where a picture can be rendered with this backend, else why not."""
    # In a process of its own: MuJoCo binds to the first backend imported, and a faulty GL
    # library ends the process instead of raising.
    environment = os.environ | {"MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend}
    try:
        result = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
    except subprocess.TimeoutExpired:
        return f"{backend}: no answer within 120 s"
    if result.returncode == 0:
        return ""
    lines = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
    return f"{backend}: {lines[-1]}"


def gl_backend() -> tuple[str | None, str]:
    """The offscreen backend that works here, or None and the reasons why none does.

    Only the one that the environment variable MUJOCO_GL names is tried where it is set.
    """
    chosen = os.environ.get("MUJOCO_GL", "").lower()
    reasons = []
    for backend in (chosen,) if chosen else GL_BACKENDS:
        reason = _probe(backend)
        if not reason:
            return backend, ""
        reasons.append(reason)
    return None, "; ".join(reasons)


def import_mujoco() -> Any:
    """Returns MuJoCo, bound to a backend that works; it reads the environment when first imported.

    RuntimeError, with the reasons, where none does.
    """
    # Recording runs one process per core: a thread pool in each Mesa would only get in the way.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    if "mujoco" not in sys.modules:
        backend, reason = gl_backend()
        if backend is None:
            raise RuntimeError(f"MuJoCo cannot render here: no offscreen OpenGL ({reason})")
        os.environ["MUJOCO_GL"] = os.environ["PYOPENGL_PLATFORM"] = backend
    import mujoco

    return mujoco
