"""The triangles of a map that are drawn, with what is painted on them."""

import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from data_pipelines.sources.openarena import bsp as maps
from data_pipelines.sources.openarena.bsp import METRES, Bsp
from data_pipelines.sources.openarena.files import GameFiles
from data_pipelines.sources.openarena.shaders import Shader

PATCH_STEPS = 6  # straight pieces of a curve between two of its ends
TEXTURE = 256  # pixels along a side; pictures are resized to it
CORNER = np.dtype(
    [
        ("place", "<f4", 3),  # metres
        ("picture", "<f4", 2),
        ("light", "<f4", 2),
        ("colour", "<f4", 3),  # light where there is no lightmap, 0..1
        ("texture", "<f4"),  # number in `Surfaces.pictures`, -1 = sky
        ("lightmap", "<f4"),  # number of a lightmap, negative = none
    ]
)


@dataclass(frozen=True)
class Surfaces:
    """Attributes: corners (three for each triangle), pictures (RGBA), missing (names of textures
    that no file has, drawn grey).
    """

    corners: np.ndarray
    pictures: UInt8[np.ndarray, "n h w 4"]
    missing: tuple[str, ...]


def read_surfaces(level: Bsp, shaders: dict[str, Shader], files: GameFiles) -> Surfaces:
    """Everything solid of the world that stands still, and its sky."""
    world = level.models[0]
    pieces: list[tuple[int, int, np.ndarray]] = []
    for face in level.faces[world["face"] : world["face"] + world["faces"]]:
        texture = int(face["texture"])
        if _is_drawn(level, texture, shaders):
            pieces.append((texture, int(face["lightmap"]), triangles(level, face)))
    used = sorted({texture for texture, _, _ in pieces if not _is_sky(level, texture)})
    numbers = {texture: number for number, texture in enumerate(used)}
    corners = np.zeros(sum(len(vertices) for _, _, vertices in pieces), CORNER)
    begin = 0
    for texture, lightmap, vertices in pieces:
        part = corners[begin : begin + len(vertices)]
        part["place"], part["picture"] = vertices["place"] * METRES, vertices["picture"]
        part["light"], part["colour"] = vertices["light"], vertices["colour"][:, :3] / 255.0
        part["texture"] = numbers.get(texture, -1)
        part["lightmap"] = lightmap if lightmap < len(level.lightmaps) else -1
        begin += len(vertices)
    names = [level.texture_name(texture) for texture in used]
    painted = {name: _picture(files, name, shaders.get(name, Shader())) for name in names}
    grey = np.full((TEXTURE, TEXTURE, 4), (128, 128, 128, 255), np.uint8)
    pictures = [grey if (own := painted[name]) is None else own for name in names]
    missing = tuple(name for name in names if painted[name] is None)
    return Surfaces(corners, np.stack(pictures) if pictures else grey[None], missing)


def _is_drawn(level: Bsp, texture: int, shaders: dict[str, Shader]) -> bool:
    """Whether a texture shows a surface or the sky: no clip, fog or glow."""
    flags, contents = (int(level.textures[field][texture]) for field in ("flags", "contents"))
    shader = shaders.get(level.texture_name(texture), Shader())
    return not (flags & maps.NODRAW or contents & maps.FOG or shader.glow)


def _is_sky(level: Bsp, texture: int) -> bool:
    return bool(level.textures["flags"][texture] & maps.SKY)


def triangles(level: Bsp, face: np.void, steps: int = PATCH_STEPS) -> np.ndarray:
    """Vertices of a face's triangles, three for each; none of a kind that is not drawn.

    steps: pieces of a curve; of polygons and meshes nothing depends on it.
    """
    vertices = level.vertices[face["vertex"] : face["vertex"] + face["vertices"]]
    if face["kind"] in (maps.POLYGON, maps.MESH):
        corners = level.corners[face["corner"] : face["corner"] + face["corners"]]
        corners = corners[: len(corners) // 3 * 3].reshape(-1, 3)
        whole = np.all((corners >= 0) & (corners < len(vertices)), 1)
        return vertices[corners[whole].ravel()]
    width, height = (int(count) for count in face["grid"])
    if face["kind"] != maps.PATCH or width * height != len(vertices) or min(width, height) < 3:
        return vertices[:0]
    grid = _curved(vertices.reshape(height, width), steps)
    a, b, c, d = grid[:-1, :-1], grid[:-1, 1:], grid[1:, :-1], grid[1:, 1:]
    return np.stack([a, b, c, b, d, c], -1).ravel()


def _curved(control: np.ndarray, steps: int) -> np.ndarray:
    """Points of quadratic Bezier patches, every 3 x 3 control points of which share their rims."""
    for _ in range(2):  # along the rows, then along the columns
        control = _along(control, steps).T
    return control


def _along(control: np.ndarray, steps: int) -> np.ndarray:
    share = np.linspace(0.0, 1.0, steps, endpoint=False)
    weights = np.stack([(1 - share) ** 2, 2 * share * (1 - share), share**2])
    ends = range(0, control.shape[1] - 2, 2)
    curved = np.empty((control.shape[0], steps * len(ends) + 1), control.dtype)
    for field in control.dtype.names or ():
        values = control[field].astype(np.float64)
        values = values.reshape(*control.shape, -1)
        parts = [np.einsum("ks,hkc->hsc", weights, values[:, end : end + 3]) for end in ends]
        parts.append(values[:, 2 * len(ends)][:, None])
        curved[field] = np.concatenate(parts, 1).reshape(curved[field].shape)
    return curved


def _picture(files: GameFiles, name: str, shader: Shader) -> np.ndarray | None:
    """RGBA of a texture, opaque where the shader has no holes; None where no file has it."""
    from PIL import Image

    for candidate in filter(None, (shader.picture, name)):
        file = files.picture(candidate)
        if file is None:
            continue
        raw = files.read(file)
        try:
            with Image.open(io.BytesIO(raw)) as image:
                small = image.convert("RGBA").resize((TEXTURE, TEXTURE), Image.Resampling.BOX)
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(
                f"{files.where(file)}: found {raw[:8]!r}..., expected a whole picture "
                f"({type(error).__name__})"
            ) from None
        pixels = np.array(small)
        if not shader.holes:
            pixels[..., 3] = 255
        return pixels
    return None


def curved_points(level: Bsp) -> Float[np.ndarray, "n 3"]:
    """Points, map units, along every solid curved surface: those have no brushes."""
    world = level.models[0]
    faces = level.faces[world["face"] : world["face"] + world["faces"]]
    solid = level.textures["contents"][faces["texture"]] & (maps.SOLID | maps.PLAYER_CLIP)
    patches = faces[(faces["kind"] == maps.PATCH) & (solid != 0)]
    found = [triangles(level, face, 4 * PATCH_STEPS)["place"] for face in patches]
    return np.concatenate([np.zeros((0, 3), np.float32), *found])
