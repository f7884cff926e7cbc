"""Draws a map without a screen, by `moderngl` on EGL: pictures, and z-depth at pixel centres."""

import contextlib
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from data_pipelines.sources.offscreen import one_thread
from data_pipelines.sources.openarena.surfaces import CORNER, Surfaces

NEAR, FAR = 0.1, 400.0  # metres
LIGHT = 4.0  # how much brighter the baked light is shown
SKY = (0.45, 0.55, 0.7)

_VERTEX = """#version 330
uniform mat4 camera;
in vec3 place; in vec2 picture; in vec2 light; in vec3 colour; in float texture_; in float lightmap;
out vec2 at; out vec2 lit; out vec3 own; flat out float which; flat out float map;
void main() {
  gl_Position = camera * vec4(place, 1);
  at = picture; lit = light; own = colour; which = texture_; map = lightmap;
}"""
_FRAGMENT = """#version 330
uniform sampler2DArray pictures; uniform sampler2DArray lightmaps;
uniform float gain; uniform vec3 sky;
in vec2 at; in vec2 lit; in vec3 own; flat in float which; flat in float map;
layout(location = 0) out vec4 shown; layout(location = 1) out float depth;
void main() {
  if (which < 0.) { shown = vec4(sky, 1); depth = 0.; return; }
  vec4 painted = texture(pictures, vec3(at, which));
  if (painted.a < .5) discard;
  vec3 light = (map >= 0. ? texture(lightmaps, vec3(lit, map)).rgb : own) * gain;
  light /= max(1., max(light.r, max(light.g, light.b)));
  shown = vec4(painted.rgb * light, 1);
  depth = 1. / gl_FragCoord.w;
}"""


def open_context() -> Any:
    """An OpenGL context without a screen; RuntimeError, with the reason, where there is none."""
    one_thread()
    import moderngl

    chosen: dict[str, Any] = {"backend": "egl"}  # the stub takes each setting for a dict
    try:
        return moderngl.create_context(standalone=True, **chosen)
    except Exception as error:  # whatever the driver says
        raise RuntimeError(f"no offscreen OpenGL by EGL ({error}); install libegl1") from error


class Renderer:
    """A map on the graphics device; a context manager that frees it."""

    def __init__(
        self, surfaces: Surfaces, lightmaps: UInt8[np.ndarray, "n h w 3"], sizes: tuple[int, ...]
    ) -> None:
        """Uploads it. sizes: of the square pictures that `draw` is asked for."""
        import moderngl

        self.stack = contextlib.ExitStack()
        self.context = open_context()
        self.stack.callback(self.context.release)
        self.context.enable(moderngl.DEPTH_TEST)
        self.program = self.context.program(vertex_shader=_VERTEX, fragment_shader=_FRAGMENT)
        self.program["gain"].value, self.program["sky"].value = LIGHT, SKY
        corners = self.context.buffer(surfaces.corners.tobytes())
        names = [name if name != "texture" else "texture_" for name in CORNER.names or ()]
        self.triangles = self.context.vertex_array(
            self.program, [(corners, "3f 2f 2f 3f 1f 1f", *names)]
        )
        grey = np.full((1, 1, 1, 3), 128, np.uint8)
        pictures = self._array(surfaces.pictures, 0, "pictures")
        pictures.build_mipmaps()
        pictures.filter = (moderngl.LINEAR_MIPMAP_LINEAR, moderngl.LINEAR)
        shades = self._array(lightmaps if len(lightmaps) else grey, 1, "lightmaps")
        shades.repeat_x = shades.repeat_y = False
        self.buffers = {size: self._buffer(size) for size in sizes}

    def __enter__(self) -> "Renderer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def _array(self, pictures: np.ndarray, unit: int, name: str) -> Any:
        count, height, width, channels = pictures.shape
        data = np.ascontiguousarray(pictures).tobytes()
        texture = self.context.texture_array((width, height, count), channels, data, alignment=1)
        texture.use(unit)
        self.program[name].value = unit
        return texture

    def _buffer(self, size: int) -> Any:
        shown = self.context.texture((size, size), 4)
        depth = self.context.texture((size, size), 1, dtype="f4")
        hidden = self.context.depth_renderbuffer((size, size))
        return self.context.framebuffer([shown, depth], hidden)

    def draw(
        self, cam2world: Float[np.ndarray, "4 4"], intrinsics: Float[np.ndarray, "4"], size: int
    ) -> tuple[UInt8[np.ndarray, "h w 3"], Float[np.ndarray, "h w"]]:
        """Picture and z-depth (inf = sky) of a pinhole, `intrinsics` in pixels of this size."""
        import moderngl

        projection = _projection(intrinsics, size) @ np.linalg.inv(cam2world)
        self.program["camera"].write(np.ascontiguousarray(projection.T, np.float32).tobytes())
        buffer = self.buffers[size]
        buffer.use()
        buffer.clear(*SKY, 1.0)
        buffer.color_attachments[1].write(np.zeros((size, size), np.float32).tobytes())
        self.triangles.render(moderngl.TRIANGLES)
        shown = np.frombuffer(buffer.read(components=3, alignment=1), np.uint8)
        depth = np.frombuffer(buffer.read(components=1, attachment=1, dtype="f4"), np.float32)
        # OpenGL counts rows from below.
        metres = depth.reshape(size, size)[::-1]
        return shown.reshape(size, size, 3)[::-1], np.where(metres > 0, metres, np.inf)


def _projection(intrinsics: np.ndarray, size: int) -> np.ndarray:
    """From OpenCV's camera axes to clip space, whose rows count from below as OpenGL's do."""
    fx, fy, cx, cy = intrinsics
    a, b = (FAR + NEAR) / (FAR - NEAR), -2 * FAR * NEAR / (FAR - NEAR)
    return np.array(
        [
            [2 * fx / size, 0.0, 2 * cx / size - 1, 0.0],
            [0.0, -2 * fy / size, 1 - 2 * cy / size, 0.0],
            [0.0, 0.0, a, b],
            [0.0, 0.0, 1.0, 0.0],
        ]
    )
