"""The dataset card of a recorded folder: `dataset.json` for programs, a sheet for people."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from data_pipelines.clip import Clip
from mirage_jax.io.atomic import write_atomically
from mirage_jax.io.strict_json import read_object
from mirage_jax.io.workdir import CARD as CARD

FORMAT = "mirage-dataset-1"
_LABEL_HEIGHT = 14


def read_card(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the card of `directory`, or an empty one if nothing was recorded there yet.

    Raises:
      ValueError: the file is there and is not a dataset card.
    """
    path = Path(directory) / CARD
    if not path.exists():
        return {"format": FORMAT, "splits": {}}
    card = read_object(path)
    if card.get("format") != FORMAT:
        raise ValueError(f"{path}: found format {card.get('format')!r}, expected {FORMAT!r}")
    splits = card.get("splits")
    if not isinstance(splits, dict) or not all(isinstance(s, dict) for s in splits.values()):
        raise ValueError(f"{path}: splits: found {splits!r}, expected named splits, each of fields")
    for name, split in splits.items():
        plan = split.get("plan", {"sha256": "", "worlds": {}})  # of finite sources, not older ones
        if not _is_plan(plan):
            raise ValueError(
                f"{path}: splits.{name}.plan: found {plan!r}, expected a sha256 and the number of "
                "clips of named worlds"
            )
        shards = split.get("shards", {})
        if not isinstance(shards, dict) or not all(isinstance(s, dict) for s in shards.values()):
            raise ValueError(
                f"{path}: splits.{name}.shards: found {shards!r}, expected fields of named files"
            )
    return card


def _is_plan(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("sha256"), str):
        return False
    worlds = value.get("worlds")
    return isinstance(worlds, dict) and all(type(count) is int for count in worlds.values())


def write_card(directory: str | os.PathLike[str], card: dict[str, Any]) -> None:
    """Replaces the card of `directory` in one step, so that a reader never sees half of it."""
    path = Path(directory) / CARD
    write_atomically(path, json.dumps(card, indent=1, ensure_ascii=False))


def contact_sheet(clips: Iterable[Clip], columns: int = 8, cell: int = 96) -> Image.Image:
    """Returns a picture with two rows per clip: its frames, and their depth with movers in red.

    Depth is drawn as nearness (white = near, black = sky), unknown or absent depth in blue; where
    it is not known what moves, nothing is red. One clip after the other is drawn.
    """
    strips = [_strip(clip, columns, cell) for clip in clips]
    block = _LABEL_HEIGHT + 2 * cell
    sheet = Image.new("RGB", (columns * cell, len(strips) * block), "white")
    for row, strip in enumerate(strips):
        sheet.paste(strip, (0, row * block))
    return sheet


def _strip(clip: Clip, columns: int, cell: int) -> Image.Image:
    strip = Image.new("RGB", (columns * cell, _LABEL_HEIGHT + 2 * cell), "white")
    label = f"{clip.name}   {clip.world}   {clip.trajectory}   {clip.frames} frames"
    ImageDraw.Draw(strip).text((3, 1), label, fill="black")
    for column, frame in enumerate(np.linspace(0, clip.frames - 1, columns).round()):
        nearness = _nearness(clip, int(frame))
        for line, picture in enumerate((clip.video[int(frame)], nearness)):
            tile = Image.fromarray(picture).resize((cell, cell), Image.Resampling.BILINEAR)
            strip.paste(tile, (column * cell, _LABEL_HEIGHT + line * cell))
    return strip


def _nearness(clip: Clip, frame: int) -> np.ndarray:
    depth = np.zeros(clip.size) if clip.depth is None else clip.depth[frame]
    known = depth > 0
    value = np.where(known, 255.0 / np.maximum(1.0, np.where(known, depth, 1.0)) ** 0.7, 0)
    picture = np.repeat(value.astype(np.uint8)[..., None], 3, -1)
    if clip.mover_ids is not None:
        picture[clip.mover_ids[frame] > 0, 1:] //= 3
    picture[~known] = 40, 60, 160
    return picture
