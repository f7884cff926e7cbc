"""What a memory holds, for people to look at: from above, and as a picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from mirage_jax import memory
from mirage_jax.geometry import Camera
from mirage_jax.memory import LatentMemory
from mirage_jax.memory.movers import CONFIRMED, MoverOptions, Movers
from mirage_jax.origin import Origin
from mirage_jax.world.colours import token_colours
from mirage_jax.world.conditioners import Surfels
from mirage_jax.world.conditioners.base import View
from mirage_jax.world.latent_encoder import LatentEncoder, to_uint8
from mirage_jax.world.model import WorldModel


@dataclasses.dataclass(frozen=True)
class Plan:
    """The elements of a memory and the camera among them; arrays of numpy.

    Attributes:
      xyz: float64 [n, 3], positions in the coordinates the world comes from, metres.
      colour: uint8 [n, 3], about how they look.
      age: float32 [n], frames since they were seen as they are.
      confidence: float32 [n], in [0, 1].
      pinned: bool [n], whether they stay whatever is written.
      size: float32 [n], metres that they span, 0 = unknown.
      slot: int64 [n], their slots in the memory, for masks of edits.
      capacity: elements that the memory can hold.
      up: float64 [3], the direction away from the floor, across which the plan is to be drawn.
      pose: float64 [4, 4], cam2world.
      frustum: float64 [5, 3], the camera's centre and what is `reach` metres ahead at the corners
        of its picture: top left, top right, bottom right, bottom left.
      entities: bodies that are known to move, each with its `name` and `track` [m, 3], which ends
        where it is taken to be; so far it is that place alone.
    """

    xyz: Float[np.ndarray, "n 3"]
    colour: UInt8[np.ndarray, "n 3"]
    age: Float[np.ndarray, " n"]
    confidence: Float[np.ndarray, " n"]
    pinned: np.ndarray
    size: Float[np.ndarray, " n"]
    slot: np.ndarray
    capacity: int
    up: Float[np.ndarray, "3"]
    pose: Float[np.ndarray, "4 4"]
    frustum: Float[np.ndarray, "5 3"]
    entities: tuple[Any, ...] = ()


def corners(camera: Camera, reach: float = 1.0) -> Float[np.ndarray, "5 3"]:
    """The `Plan.frustum` of one camera, in its own coordinates, float64."""
    height, width = camera.size
    fx, fy, cx, cy = np.asarray(camera.intrinsics, np.float64)
    pose = np.asarray(camera.cam2world, np.float64)
    pixels = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    rays = np.concatenate([(pixels - [cx, cy]) / [fx, fy], np.ones((4, 1))], axis=1)
    return np.concatenate([pose[None, :3, 3], pose[:3, 3] + reach * rays @ pose[:3, :3].T])


def of_memory(
    bank: LatentMemory,
    origin: Origin,
    camera: Camera,
    colours: Callable[[np.ndarray], UInt8[np.ndarray, "n 3"]],
    up: Float[np.ndarray, "3"],
    movers: Movers | None = None,
) -> Plan:
    """The plan of a memory.

    Args:
      bank: the memory.
      origin: what it is relative to.
      camera: one, in its coordinates.
      colours: of tokens.
      up: away from the floor.
      movers: bodies that move, if they are kept.
    """
    bank, camera, movers = jax.device_get((bank, camera, movers))
    slot = np.flatnonzero(bank.valid)
    when = bank.time[slot]
    return Plan(
        xyz=origin.points(bank.xyz[slot]),
        colour=colours(bank.tokens[slot]),
        age=np.max(when, initial=0.0) - when,
        confidence=bank.confidence[slot],
        pinned=bank.pinned[slot],
        size=bank.size[slot],
        slot=slot,
        capacity=len(bank.valid),
        up=up,
        pose=origin.absolute(camera.cam2world),
        frustum=origin.points(corners(camera)),
        entities=() if movers is None else _entities(movers, origin),
    )


def _entities(movers: Movers, origin: Origin) -> tuple[dict[str, Any], ...]:
    return tuple(
        {"name": f"body {movers.id[k]}", "track": origin.points(movers.position[k][None])}
        for k in np.flatnonzero(movers.status == CONFIRMED)
    )


def counts(bank: LatentMemory) -> dict[str, int]:
    """Elements that a memory holds, and what became of others; "bytes" are those of elements."""
    valid, pinned = jax.device_get((bank.valid, bank.pinned))
    return {
        "elements": int(valid.sum()),
        "capacity": len(valid),
        "bytes": memory.nbytes(bank),
        "pinned": int(pinned.sum()),
        "evicted": int(bank.evicted),
        "dropped": int(bank.dropped),
    }


class TokenColours:
    """A linear map from tokens to colours, fitted to cells of frames and how they were decoded.

    Cheap enough to go on while someone walks: sums of products are all that is kept. XLA makes
    them, as the threads of NumPy's would go on spinning beside the next chunk.
    """

    def __init__(self, channels: int) -> None:
        """Knows nothing yet."""
        self._products = np.zeros((channels + 1, channels + 1))
        self._colours = np.zeros((channels + 1, 3))

    def add(
        self,
        tokens: Float[Array | np.ndarray, "h w c"],
        picture: UInt8[np.ndarray, "height width 3"],
    ) -> None:
        """Takes the cells of a frame into account, whose pixels are a multiple of them."""
        products, colours = _colour_products(tokens, picture)
        self._products += np.asarray(products)
        self._colours += np.asarray(colours)

    def __call__(self, tokens: np.ndarray) -> UInt8[np.ndarray, "n 3"]:
        """Colours of tokens [n, c]; their principal components before any frame was added."""
        if tokens.dtype == np.uint8 or not self._products.any():
            return token_colours(tokens)
        # Directions in which no frame differed say nothing: they are kept small.
        ridge = 1e-3 * np.trace(self._products) / len(self._products) * np.eye(len(self._products))
        linear = np.linalg.solve(self._products + ridge, self._colours)
        values = tokens.astype(np.float64) @ linear[:-1] + linear[-1]
        return np.clip(np.round(values), 0, 255).astype(np.uint8)


@jax.jit
def _colour_products(
    tokens: Float[Array | np.ndarray, "h w c"], picture: UInt8[Array | np.ndarray, "height width 3"]
) -> tuple[Float[Array, "k k"], Float[Array, "k 3"]]:
    """Sums over cells of products of the token, with a one behind it, and of it and the colour."""
    h, w, channels = tokens.shape
    height, width = picture.shape[0] // h, picture.shape[1] // w
    cells = jnp.asarray(picture, jnp.float32).reshape(h, height, w, width, 3)
    inputs = jnp.concatenate([tokens.reshape(-1, channels), jnp.ones((h * w, 1))], axis=1)
    both = jnp.concatenate([inputs, cells.mean((1, 3)).reshape(-1, 3)], axis=1)
    sums = jnp.matmul(inputs.T, both, precision=jax.lax.Precision.HIGHEST)
    return sums[:, : channels + 1], sums[:, channels + 1 :]


@jax.jit
def _read_out(
    model: WorldModel, bank: LatentMemory, camera: Camera, movers: Movers | None
) -> tuple[Float[Array, "height width 3"], Float[Array, "height width"]]:
    kind, grid = model.conditioner, model.grid
    if kind.stores == "nothing":
        return jnp.zeros((*model.size, 3)), jnp.zeros(model.size)
    if isinstance(kind, Surfels):
        options = model.movers or MoverOptions()
        video, depth = kind.draw(bank, View(camera[None], None, model.encoder, movers, options))
        return video[0], (depth[0] > 0).astype(jnp.float32)
    if kind.stores == "colours":
        shown = memory.rgb_cloud.read(bank, camera, model.size)
        return shown.tokens, shown.visible
    shown = memory.read(bank, camera, grid, cells=kind.cells)
    picture = model.encoder.decode(shown.tokens.astype(jnp.float32)[None, None])[0, 0]
    return picture, _at_pixels(shown.visible, model.size)


def _at_pixels(cells: Float[Array, "h w"], size: tuple[int, int]) -> Float[Array, "height width"]:
    """Values of cells, repeated for each of their pixels."""
    for axis in (0, 1):
        cells = jnp.repeat(cells, size[axis] // cells.shape[axis], axis=axis)
    return cells


def read_out(
    model: WorldModel, bank: LatentMemory, camera: Camera, movers: Movers | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """What the memory alone shows at one camera, decoded; black where it holds nothing.

    Bodies are shown, where they are given, by conditioners that draw them at the pixels.
    """
    picture, visible = _read_out(model, bank, camera, movers)
    return to_uint8(picture) * (np.asarray(visible) > 0).astype(np.uint8)[..., None]


@jax.jit
def decode_frame(
    encoder: LatentEncoder, latent: Float[Array, "h w c"]
) -> Float[Array, "height width 3"]:
    """One frame of its latent alone, not clipped."""
    return encoder.decode(latent[None, None])[0, 0]


@jax.jit
def shown_elements(model: WorldModel, bank: LatentMemory, camera: Camera) -> Bool[Array, " n"]:
    """Which slots hold an element that the memory shows at one camera."""
    kind = model.conditioner
    if kind.stores == "nothing":
        return jnp.zeros(bank.capacity, bool)
    grid = model.size if kind.stores == "colours" else model.grid
    source = memory.read(bank, camera, grid, cells=kind.cells).source.reshape(-1)
    slot = jnp.where(source >= 0, source, bank.capacity)
    return jnp.zeros(bank.capacity, bool).at[slot].set(True, mode="drop")
