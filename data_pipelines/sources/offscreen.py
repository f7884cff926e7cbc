"""Rendering without a screen: what OpenGL works here, for each of the engines that need it."""

import functools
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

GL_BACKENDS = ("egl", "osmesa")

_MUJOCO = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco/>")
context = mujoco.GLContext(8, 8)
context.make_current()
renderer = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
renderer.free()
context.free()
"""


_MINIWORLD = """
import pyglet
pyglet.options["headless"] = True
from miniworld.opengl import FrameBuffer
pyglet.window.Window(width=1, height=1, visible=False)
FrameBuffer(8, 8)
"""

_MODERNGL = """
import moderngl
moderngl.create_context(standalone=True, backend="egl").release()
"""


def _why_not(script: str, environment: Mapping[str, str] | None = None) -> str:
    """Empty where a Python script runs on this machine, else the last line of what it says."""
    # In a process of its own: an engine binds to the first backend that it meets, and a faulty GL
    # library ends the process instead of raising.
    try:
        result = subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | dict(environment or {}),
            capture_output=True,
            text=True,
            timeout=120,
        )
    except subprocess.TimeoutExpired:
        return "no answer within 120 s"
    if result.returncode == 0:
        return ""
    return (result.stderr.strip().splitlines() or [f"exit status {result.returncode}"])[-1]


@functools.cache
def _probe(backend: str) -> str:
    """Empty where MuJoCo renders a picture with this backend, else why not."""
    reason = _why_not(_MUJOCO, {"MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend})
    return f"{backend}: {reason}" if reason else ""


@functools.cache
def why_no_miniworld() -> str:
    """Empty where MiniWorld renders without a screen, by EGL, else why it does not."""
    return _why_not(_MINIWORLD)


@functools.cache
def why_no_moderngl() -> str:
    """Empty where `moderngl` opens a context without a screen, by EGL, else why it does not."""
    return _why_not(_MODERNGL)


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


def one_thread() -> None:
    """Keeps Mesa from starting a thread pool; to be called before an engine is imported.

    Recording runs one process per core, in which such a pool only gets in the way.
    """
    os.environ.setdefault("LP_NUM_THREADS", "0")


def import_mujoco() -> Any:
    """Returns MuJoCo, bound to a backend that works; it reads the environment when first imported.

    RuntimeError, with the reasons, where none does.
    """
    one_thread()
    if "mujoco" not in sys.modules:
        backend, reason = gl_backend()
        if backend is None:
            raise RuntimeError(f"MuJoCo cannot render here: no offscreen OpenGL ({reason})")
        os.environ["MUJOCO_GL"] = os.environ["PYOPENGL_PLATFORM"] = backend
    import mujoco

    return mujoco
