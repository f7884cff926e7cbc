"""Pictures for people: contact sheets, the memory from above."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

INK = (232, 234, 238)
PAPER = (22, 24, 29)
FAINT = (120, 126, 138)
PATH_START = (255, 196, 61)
PATH_END = (64, 196, 255)

Picture = UInt8[np.ndarray, "height width 3"]
Video = UInt8[np.ndarray, "T H W 3"]


def enlarge(pictures: UInt8[np.ndarray, "*b H W 3"], factor: int) -> UInt8[np.ndarray, "*b h w 3"]:
    """Repeats every pixel `factor` times in height and width."""
    return pictures.repeat(factor, axis=-3).repeat(factor, axis=-2)


def factor_for(shape: Sequence[int], at_least: int = 192) -> int:
    """Whole factor that brings the smaller side of `[..., H, W, 3]` to `at_least` pixels."""
    return max(1, -(-at_least // min(shape[-3:-1])))


# -- contact sheets ------------------------------------------------------------------------------


def contact_sheet(
    rows: Mapping[str, Video],
    *,
    frames: Sequence[int] | None = None,
    columns: int = 9,
    cell: int = 96,
) -> Picture:
    """A sheet with one row per video and one column per frame, labelled.

    Args:
      rows: label -> video; all of the same size and length.
      frames: which frames to show; by default `columns` evenly spaced ones, first and last among
        them.
      cell: pictures are enlarged by a whole factor to at least this many pixels.
    Raises:
      ValueError: if there are no rows, or they differ in shape (naming the row).
    """
    length, height, width = _common_shape(rows)
    if frames is None:
        frames = sorted({round(f) for f in np.linspace(0, length - 1, min(columns, length))})
    frames = [int(f) for f in frames]
    if not frames or min(frames) < -length or max(frames) >= length:
        raise ValueError(f"frames: found {frames}, expected indices below {length}")
    factor = factor_for((height, width, 3), cell)
    height, width = height * factor, width * factor
    font = _font(14)
    left = 16 + max(int(font.getlength(label)) for label in rows)
    gap, top = 4, 26
    size = (left + len(frames) * (width + gap), top + len(rows) * (height + gap))
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, frame in enumerate(frames):
        x = left + column * (width + gap) + width // 2
        name = f"frame {frame}" if column == 0 else str(frame)
        draw.text((x, top // 2), name, FAINT, font=_font(12), anchor="mm")
    for row, (label, video) in enumerate(rows.items()):
        y = top + row * (height + gap)
        draw.text((8, y + height // 2), label, INK, font=font, anchor="lm")
        for column, frame in enumerate(frames):
            picture = Image.fromarray(np.ascontiguousarray(enlarge(video[frame], factor)))
            sheet.paste(picture, (left + column * (width + gap), y))
    return np.asarray(sheet)


def _common_shape(videos: Mapping[str, np.ndarray]) -> tuple[int, int, int]:
    if not videos:
        raise ValueError("videos: found none, expected at least one")
    first_label, first = next(iter(videos.items()))
    for label, video in videos.items():
        if video.shape != first.shape:
            raise ValueError(
                f"video {label!r}: found shape {video.shape}, expected {first.shape} "
                f"as {first_label!r} has"
            )
    return first.shape[0], first.shape[1], first.shape[2]


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


# -- the memory from above -----------------------------------------------------------------------


def memory_from_above(
    points: Float[np.ndarray, "n 3"],
    cam2world: Float[np.ndarray, "frames 4 4"],
    *,
    colours: UInt8[np.ndarray, "n 3"] | None = None,
    valid: Bool[np.ndarray, " n"] | None = None,
    history: int | None = None,
    size: int = 640,
    headroom: float | int = 0.5,
    noun: str = "elements",
) -> Picture:
    """What is in memory seen from above, with the camera path on top.

    Down is the mean of the cameras' y axes, so that any world frame will do; the first camera looks
    up in the picture.

    Args:
      points: world positions of the elements, metres.
      cam2world: the path; drawn from amber (start) to blue (end), a tick shows where it looks.
      colours: of the elements; by default their height, dark blue low and pale high.
      valid: which elements to show, all by default.
      history: frames that were given; their part of the path is drawn dashed, if known.
      size: longer side of the picture, pixels.
      headroom: elements this far (metres) above the highest camera are left out, so that ceilings
        do not hide the rooms.
      noun: what the points are called.
    """
    axes = _level_axes(cam2world)
    centres, looks = cam2world[:, :3, 3] @ axes, cam2world[:, :3, 2] @ axes
    points = points @ axes
    shown = np.isfinite(points).all(axis=1)
    if valid is not None:
        shown &= valid
    shown &= points[:, 1] >= centres[:, 1].min() - headroom
    kept = points[shown]
    to_pixel, metres_per_pixel, shape = _map_frame(kept, centres, size)

    canvas = np.full((*shape, 3), PAPER, np.uint8)
    if len(kept):
        tint = _height_tint(kept[:, 1]) if colours is None else colours[shown]
        # Few elements are drawn larger, or they would be lost on the page.
        radius = int(np.clip(size / (12 * math.sqrt(len(kept))), max(1, size // 320), size // 120))
        _splat(canvas, to_pixel(kept), kept[:, 1], tint, radius=radius)
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    _draw_path(draw, to_pixel(centres), looks[:, [0, 2]], history, tick=size / 22)
    _draw_scale_bar(draw, metres_per_pixel, shape)
    label = f"{len(kept):,} {noun}"
    draw.text((shape[1] - 12, shape[0] - 14), label, INK, font=_font(13), anchor="rm")
    return np.asarray(picture)


def _level_axes(cam2world: np.ndarray) -> np.ndarray:
    """Columns right, down, ahead: down as the cameras agree, ahead as the first one looks."""
    down = cam2world[:, :3, 1].mean(axis=0)
    down = down / np.linalg.norm(down)
    # The axis that is least along `down` keeps the frame defined for a camera that looks down.
    candidates = cam2world[0, :3, [2, 1, 0]]
    flat = candidates - (candidates @ down)[:, None] * down
    length = np.linalg.norm(flat, axis=1)
    best = 0 if length[0] > 0.1 else int(length.argmax())
    ahead = flat[best] / length[best]
    return np.stack([np.cross(down, ahead), down, ahead], axis=1)


ToPixel = Callable[[np.ndarray], np.ndarray]


def _map_frame(
    points: np.ndarray, centres: np.ndarray, size: int
) -> tuple[ToPixel, float, tuple[int, int]]:
    """Map from world x, z to pixels (z up), its metres per pixel, and the picture's (H, W).

    A few far elements are allowed to fall outside: they would shrink the rest.
    """
    path = centres[:, [0, 2]]
    plane = np.concatenate([points[:, [0, 2]], path])
    cut = 1 if len(points) > 100 else 0
    low = np.minimum(np.percentile(plane, cut, axis=0), path.min(axis=0))
    high = np.maximum(np.percentile(plane, 100 - cut, axis=0), path.max(axis=0))
    middle = (low + high) / 2
    extent = np.maximum(high - low, 1.0) * 1.12
    # The shorter side is at most halved, so that a corridor still leaves room for the legend.
    extent = np.maximum(extent, extent.max() / 2)
    scale = size / float(extent.max())
    width, height = (round(float(e) * scale) for e in extent)

    def to_pixel(world: np.ndarray) -> np.ndarray:
        x = (world[:, 0] - middle[0]) * scale + width / 2
        y = height / 2 - (world[:, 2] - middle[1]) * scale
        return np.stack([x, y], axis=1)

    return to_pixel, 1.0 / scale, (height, width)


# Floors to ceilings.
_HEIGHT_STOPS = np.array([[38, 52, 96], [52, 120, 148], [128, 190, 160], [240, 232, 190]], float)


def _height_tint(down: np.ndarray) -> np.ndarray:
    low, high = np.percentile(down, [2, 98])
    share = np.clip((high - down) / max(high - low, 1e-6), 0, 1)
    return _along(_HEIGHT_STOPS, share).round().astype(np.uint8)


def _along(stops: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Colours at `share` (0..1) of the way along a list of colours, linear in between."""
    position = share * (len(stops) - 1)
    low = np.minimum(position.astype(int), len(stops) - 2)
    part = (position - low)[..., None]
    return stops[low] * (1 - part) + stops[low + 1] * part


def _splat(
    canvas: np.ndarray, pixels: np.ndarray, down: np.ndarray, tint: np.ndarray, radius: int
) -> None:
    """Paints square dots, highest last."""
    height, width = canvas.shape[:2]
    order = np.argsort(-down, kind="stable")
    cells = np.floor(pixels[order]).astype(int)
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            x, y = cells[:, 0] + dx, cells[:, 1] + dy
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            canvas[y[inside], x[inside]] = tint[order][inside]


def _draw_path(
    draw: ImageDraw.ImageDraw,
    pixels: np.ndarray,
    looks: np.ndarray,
    history: int | None,
    *,
    tick: float,
) -> None:
    frames = len(pixels)
    colours = [
        tuple(
            round(a + (b - a) * i / max(frames - 1, 1))
            for a, b in zip(PATH_START, PATH_END, strict=True)
        )
        for i in range(frames)
    ]
    for i, ((x, y), (right, ahead)) in enumerate(zip(pixels, looks, strict=True)):
        norm = math.hypot(right, ahead) or 1.0
        tip = (x + right / norm * tick, y - ahead / norm * tick)
        draw.line([(x, y), tip], fill=colours[i], width=1)
    for i in range(1, frames):
        dashed = history is not None and i < history and i % 2 == 0
        if not dashed:
            draw.line([tuple(pixels[i - 1]), tuple(pixels[i])], fill=colours[i], width=3)
    for i, radius in ((frames - 1, 5), (0, 5)):
        x, y = pixels[i]
        box = [x - radius, y - radius, x + radius, y + radius]
        draw.ellipse(box, fill=colours[i], outline=PAPER, width=1)


def _draw_scale_bar(
    draw: ImageDraw.ImageDraw, metres_per_pixel: float, shape: tuple[int, int]
) -> None:
    wanted = metres_per_pixel * shape[1] / 5
    base = 10 ** math.floor(math.log10(wanted))
    metres = max(step * base for step in (1, 2, 5) if step * base <= wanted)
    x, y, width = 12, shape[0] - 14, metres / metres_per_pixel
    draw.line([(x, y), (x + width, y)], fill=INK, width=2)
    for end in (x, x + width):
        draw.line([(end, y - 4), (end, y + 4)], fill=INK, width=2)
    draw.text((x + width + 8, y), f"{metres:g} m", INK, font=_font(13), anchor="lm")
