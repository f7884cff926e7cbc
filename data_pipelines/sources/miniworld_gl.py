"""OpenGL for MiniWorld, by the library that it draws with (`pyglet`): pictures and exact depth.

MiniWorld's own frame buffers keep depth in 16 bits, and average it along edges.
"""

import ctypes
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from data_pipelines.sources.offscreen import one_thread

NEAR, FAR = 0.04, 100.0  # metres, fixed by MiniWorld


def import_pyglet() -> Any:
    """Returns pyglet, which draws without a screen; to be imported before MiniWorld."""
    one_thread()
    import pyglet

    pyglet.options["headless"] = True
    return pyglet


def smooth_texture(width: int, height: int, pixels: bytes) -> Any:
    """A texture of RGBA pixels, the lowest row first, with averaged smaller copies."""
    pyglet = import_pyglet()
    from pyglet import gl

    texture = pyglet.image.ImageData(width, height, "RGBA", pixels).get_texture()
    gl.glBindTexture(texture.target, texture.id)
    gl.glGenerateMipmap(texture.target)
    gl.glTexParameteri(texture.target, gl.GL_TEXTURE_MAG_FILTER, gl.GL_LINEAR)
    gl.glTexParameteri(texture.target, gl.GL_TEXTURE_MIN_FILTER, gl.GL_LINEAR_MIPMAP_LINEAR)
    gl.glBindTexture(texture.target, 0)
    return texture


class FrameBuffer:
    """Where MiniWorld draws; has the attributes and methods that its `render_obs` uses.

    Made, used and freed while MiniWorld's own window is current.
    """

    def __init__(self, size: int) -> None:
        from pyglet import gl

        self.gl, self.width, self.height = gl, size, size
        self._name, *self._buffers = (gl.GLuint() for _ in range(3))
        gl.glGenFramebuffers(1, ctypes.byref(self._name))
        self.bind()
        for buffer, form, place in zip(
            self._buffers,
            (gl.GL_RGBA8, gl.GL_DEPTH_COMPONENT32F),
            (gl.GL_COLOR_ATTACHMENT0, gl.GL_DEPTH_ATTACHMENT),
            strict=True,
        ):
            gl.glGenRenderbuffers(1, ctypes.byref(buffer))
            gl.glBindRenderbuffer(gl.GL_RENDERBUFFER, buffer)
            gl.glRenderbufferStorage(gl.GL_RENDERBUFFER, form, size, size)
            gl.glFramebufferRenderbuffer(gl.GL_FRAMEBUFFER, place, gl.GL_RENDERBUFFER, buffer)
        status = gl.glCheckFramebufferStatus(gl.GL_FRAMEBUFFER)
        if status != gl.GL_FRAMEBUFFER_COMPLETE:
            raise RuntimeError(f"OpenGL: found frame buffer status {status}, expected a whole one")

    def bind(self) -> None:
        """Makes it the one that is drawn into."""
        self.gl.glBindFramebuffer(self.gl.GL_FRAMEBUFFER, self._name)
        self.gl.glViewport(0, 0, self.width, self.height)

    def resolve(self) -> UInt8[np.ndarray, "h w 3"]:
        """The picture last drawn."""
        gl = self.gl
        return self._read(gl.GL_RGB, gl.GL_UNSIGNED_BYTE, np.empty((*self._shape, 3), np.uint8))

    def depth(self) -> Float[np.ndarray, "h w"]:
        """Z-depth of the picture last drawn, metres; inf where nothing was."""
        gl = self.gl
        buffer = np.empty(self._shape, np.float32)
        share = self._read(gl.GL_DEPTH_COMPONENT, gl.GL_FLOAT, buffer).astype(np.float64)
        metres = NEAR * FAR / (FAR - share * (FAR - NEAR))
        return np.where(share < 1.0, metres, np.inf).astype(np.float32)

    def free(self) -> None:
        """Gives its memory back."""
        self.gl.glDeleteFramebuffers(1, ctypes.byref(self._name))
        for buffer in self._buffers:
            self.gl.glDeleteRenderbuffers(1, ctypes.byref(buffer))

    @property
    def _shape(self) -> tuple[int, int]:
        return self.height, self.width

    def _read(self, channels: int, kind: int, into: np.ndarray) -> np.ndarray:
        self.bind()
        self.gl.glPixelStorei(self.gl.GL_PACK_ALIGNMENT, 1)
        address = into.ctypes.data_as(ctypes.c_void_p)
        self.gl.glReadPixels(0, 0, self.width, self.height, channels, kind, address)
        return np.ascontiguousarray(into[::-1])  # OpenGL counts rows from below
