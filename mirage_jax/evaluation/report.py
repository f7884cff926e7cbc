"""The report: one self-contained page made of `results.json`, videos and pictures.

No external address, no library: style, script, sheets of frames and pictures are all inside.
"""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mirage_jax.evaluation import charts
from mirage_jax.evaluation.image_metrics import PSNR_CAP
from mirage_jax.evaluation.report_bodies import bodies_table
from mirage_jax.evaluation.report_format import (
    describe,
    duration,
    in_words,
    is_number,
    lower_first,
    minus,
    of_which_world,
    prose,
    table,
    tables,
    total_seconds,
    world_label,
)
from mirage_jax.evaluation.report_quality import retention, revisit_quality, targets
from mirage_jax.evaluation.report_style import SCRIPT, STYLE
from mirage_jax.evaluation.results import METHODS, lookup
from mirage_jax.io.atomic import write_atomically
from mirage_jax.io.pictures import factor_for

# Panels are shown at most about 280 px wide; larger ones only make the page heavy.
_PANEL_PIXELS = 320
# Frames of up to this many pixels are stored without loss.
_LOSSLESS_PIXELS = 96 * 96
# WebP pictures have at most 16,383 pixels a side.
_SHEET_PIXELS = 16_000

_SECTIONS = (
    ("videos", "Videos"),
    ("bodies", "Bodies that come back"),
    ("targets", "Targets"),
    ("revisit", "Revisit quality"),
    ("retention", "Memory retention"),
    ("pictures", "Memory and contact sheets"),
    ("efficiency", "Efficiency"),
    ("timings", "Timings"),
    ("limits", "Limits"),
    ("config", "Config"),
)


def write_report(
    path: str | os.PathLike,
    results: Mapping[str, Any],
    videos: Sequence[Mapping[str, Any]],
    pictures: Mapping[str, tuple[UInt8[np.ndarray, "_ _ 3"], str]],
    config_text: str,
    films: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Writes the page, through a temporary file so that an old one is never half replaced.

    Args:
      path: where to; its folder must exist.
      results: what `results.json` holds (`results.build`). Missing parts are left out or said.
      videos: each with `title`, `panels` (label -> uint8 `[T, H, W, 3]`, all of one length), `fps`,
        and optionally `note`, `history` (number of leading frames that were given) and `revisit`
        (number of last frames at which quality was measured).
      pictures: title -> (picture, caption).
      config_text: the config, as text.
      films: as `videos`, of bodies that were out of sight.
    Raises:
      ValueError: naming the video, if its panels are empty or differ in length.
    """
    sections = {
        "videos": "".join(_player(video) for video in videos),
        "bodies": "".join(map(_player, films)) + bodies_table(results),
        "targets": targets(results),
        "revisit": revisit_quality(results),
        "retention": retention(results),
        "pictures": _pictures(pictures),
        "efficiency": "".join(tables(results.get("efficiency") or {})),
        "timings": _timings(results.get("seconds") or {}),
        "limits": _limits(results),
        "config": f"<details><summary>Show the whole config</summary>"
        f"<pre>{escape(config_text)}</pre></details>",
    }
    filled = [(key, title) for key, title in _SECTIONS if sections[key]]
    links = "".join(f'<a href="#{key}">{title}</a>' for key, title in filled)
    body = "".join(
        f'<section id="{key}"><h2>{title}</h2>{_lead(key)}{sections[key]}</section>'
        for key, title in filled
    )
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>A world that remembers</title><style>{STYLE}</style></head><body><main>"
        f"{_header(results)}<nav>{links}</nav>{_headline(results)}{body}"
        f"</main><script>{SCRIPT}</script></body></html>\n"
    )
    path = Path(path)
    write_atomically(path, page)
    return path


_LEADS = {
    "videos": "The camera leaves and comes back, in a world never trained on. What is “given” is "
    "true video, the rest is generated. Compare the last frames with the first.",
    "bodies": "Bodies walk on while a wall hides them, or while nobody looks. What is “given” is "
    "true video; its depth, what moves in it, memory and every other frame are the model’s own. "
    "Present: the picture is nearer to a rendering with the body, somewhere, than to one without; "
    "who: to its own look than to those of look-alikes; state error: 0 where it is, 1 as far off "
    "as where it was last seen.",
    "targets": "Bounds set before training. ✓ holds, ✗ does not, – not measured in this run.",
    "revisit": "How alike generated and true pictures are where the camera has come back, mean and "
    "standard error over held-out clips. An easy return repeats an earlier view, so a copy can "
    "serve; a return with parallax stands at least 0.6 m or 15° from every earlier view.",
    "retention": "Normalised memory retention: how much more alike a revisit and the earlier view "
    "are than two unrelated frames, where adjacent frames would score 1. A fast camera drives even "
    "the truth away from 1, so the value is also given relative to the encoder’s reconstruction.",
    "efficiency": "Medians of repeated warm calls, all in one run.",
}


def _lead(key: str) -> str:
    return f'<p class="soft">{_LEADS[key]}</p>' if key in _LEADS else ""


# -- header and headline -------------------------------------------------------------------------


def _header(results: Mapping[str, Any]) -> str:
    entries = []
    worlds = results.get("worlds") or {}
    for name, of_world in worlds.items():
        entries.append(f"{world_label(name)}, {of_world.get('clips', '?')} held-out clips")
    entries.append(f"seed {results.get('seed', '?')}")
    entries.append(f"{results.get('sampling_steps', '?')} sampling steps")
    total = total_seconds(results.get("seconds") or {})
    if total:
        entries.append(f"{duration(total)} in all")
    entries += [str(results[key]) for key in ("device", "revision") if results.get(key)]
    text = " · ".join(escape(entry) for entry in entries)
    return f'<header><h1>A world that remembers</h1><p class="meta">{text}</p></header>'


def _headline(results: Mapping[str, Any]) -> str:
    world = str(results.get("world", ""))
    of_world = (results.get("worlds") or {}).get(world) or results
    label = escape(world_label(world))
    cards = []
    memory = lookup(of_world, "revisit", "memory", "psnr", "mean")
    if memory is not None:
        ceiling = lookup(of_world, "revisit", "vae_reconstruction", "psnr", "mean")
        bound = f" The encoder alone would reach {ceiling:.1f}." if ceiling is not None else ""
        cards.append(
            _card(
                f"Revisit PSNR, {label}",
                f"{memory:.1f}",
                "dB",
                "How close generated pictures are to the truth once the camera is back, from a "
                f"memory of latent tokens.{bound}",
            )
        )
    for method, words in (
        ("memory_zeroed", "the same weights with the memory emptied"),
        ("no_memory", "a model trained without memory on the same budget"),
    ):
        gain = lookup(of_world, "gains", f"over_{method}")
        if gain and gain.get("mean") is not None:
            error = f" ± {gain['stderr']:.2f}" if gain.get("stderr") is not None else ""
            positive = gain.get("share_positive")
            share = f", positive on {100 * positive:.0f} % of clips" if positive is not None else ""
            cards.append(
                _card(
                    f"Gain over {lower_first(METHODS[method].label)}",
                    minus(f"{gain['mean']:+.1f}"),
                    "dB",
                    f"What remembering is worth against {words}{error and f' ({error[1:]} dB)'}"
                    f"{share}.",
                )
            )
            break
    nmr = lookup(of_world, "nmr", "psnr", "memory", "relative")
    if nmr is not None:
        zeroed = lookup(of_world, "nmr", "psnr", "memory_zeroed", "relative")
        beside = f" Emptied: {zeroed:.2f}." if zeroed is not None else ""
        cards.append(
            _card(
                "Memory retained",
                f"{nmr:.2f}",
                "of 1",
                "Share of what the encoder itself can keep between leaving a place and coming "
                f"back (NMR, PSNR).{beside}",
            )
        )
    rows = results.get("must") or []
    judged = [row for row in rows if row.get("passed") is not None]
    if judged:
        held = sum(bool(row["passed"]) for row in judged)
        waiting = len(rows) - len(judged)
        beside = f" {waiting} more need controls not run yet." if waiting else ""
        cards.append(
            _card(
                "Targets held",
                f"{held}",
                f"of {len(judged)}",
                f"Bounds fixed before training, over all worlds.{beside}",
            )
        )
    return f'<div class="cards">{"".join(cards)}</div>' if cards else ""


def _card(title: str, value: str, unit: str, meaning: str) -> str:
    return (
        f'<div class="card"><h3>{title}</h3><b>{value}<small>{unit}</small></b>'
        f"<p>{meaning}</p></div>"
    )


# -- videos and pictures -------------------------------------------------------------------------


def _player(video: Mapping[str, Any]) -> str:
    title, panels = str(video["title"]), video["panels"]
    lengths = {label: len(frames) for label, frames in panels.items()}
    if not lengths or len(set(lengths.values())) > 1 or 0 in lengths.values():
        raise ValueError(
            f"video {title!r}: found panels of {lengths or 'no'} frames, expected equal lengths"
        )
    frames = next(iter(lengths.values()))
    history = int(video.get("history") or 0)
    revisit = frames - int(video.get("revisit") or 0)
    figures = "".join(_panel(str(label), pictures) for label, pictures in panels.items())
    note = f'<p class="note">{escape(str(video["note"]))}</p>' if video.get("note") else ""
    return (
        f'<div class="player" data-frames="{frames}" data-fps="{float(video["fps"]):g}" '
        f'data-history="{history}" data-revisit="{revisit if revisit < frames else 0}">'
        f'<h3>{escape(title)}</h3>{note}<div class="panels">{figures}</div>'
        '<div class="controls"><button type="button" aria-label="pause">▶</button>'
        f'<div class="track">{_phases(frames, history, revisit)}'
        f'<input type="range" min="0" max="{frames - 1}" value="0" aria-label="frame"></div>'
        "<output></output></div></div>"
    )


def _phases(frames: int, history: int, revisit: int) -> str:
    """The bar above the slider: given, generated, revisit."""
    if not history:
        return ""
    bounds = (("given", history), ("generated", revisit), ("revisit", frames))
    parts, start = [], 0
    for name, end in bounds:
        if end > start:
            parts.append(f'<i class="{name}" style="flex:{end - start}" title="{name}"></i>')
        start = max(start, end)
    return f'<div class="phases">{"".join(parts)}</div>'


def _panel(label: str, frames: np.ndarray) -> str:
    frames = _shrunk(frames)
    height, width = frames.shape[1:3]
    sheet, columns = frame_sheet(frames)
    pixelated = ' class="pixelated"' if width < 192 else ""
    return (
        f"<figure><figcaption>{escape(label)}</figcaption>"
        f'<canvas width="{width}" height="{height}"{pixelated} data-columns="{columns}" '
        f'role="img" aria-label="{escape(label, quote=True)}" '
        f'data-sheet="{_webp(sheet, lossless=height * width <= _LOSSLESS_PIXELS)}"></canvas>'
        "</figure>"
    )


def frame_sheet(
    frames: UInt8[np.ndarray, "T H W 3"],
) -> tuple[UInt8[np.ndarray, "height width 3"], int]:
    """All frames of a video as one picture, row by row, and its number of columns.

    Raises:
      ValueError: if they do not fit a picture of 16,000 x 16,000.
    """
    length, height, width = frames.shape[:3]
    columns = max(1, min(_SHEET_PIXELS // width, math.ceil(math.sqrt(length * height / width))))
    rows = -(-length // columns)
    if rows * height > _SHEET_PIXELS:
        raise ValueError(f"video: found {length} frames of {width}x{height}, too many for one page")
    blank = np.zeros((rows * columns - length, height, width, 3), np.uint8)
    grid = np.concatenate([frames, blank]).reshape(rows, columns, height, width, 3)
    return grid.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, 3), columns


def _shrunk(frames: np.ndarray) -> np.ndarray:
    height, width = frames.shape[1:3]
    scale = _PANEL_PIXELS / max(height, width)
    if scale >= 1:
        return frames
    size = (round(width * scale), round(height * scale))
    resized = [Image.fromarray(f).resize(size, Image.Resampling.LANCZOS) for f in frames]
    return np.stack([np.asarray(picture) for picture in resized])


def _pictures(pictures: Mapping[str, tuple[np.ndarray, str]]) -> str:
    figures = []
    for title, (picture, caption) in pictures.items():
        height, width = picture.shape[:2]
        factor = factor_for(picture.shape)
        lossless = height * width <= 1 << 20
        crisp = ' class="pixelated"' if factor > 1 else ""
        # A sheet too wide for half the page takes all of it, and scrolls on a phone.
        kind = "wide" if width * factor > 640 else "fits"
        figures.append(
            f'<figure class="{kind}"><b>{escape(title)}</b><div class="frame"><img{crisp} '
            f'src="{_webp(picture, lossless=lossless)}" width="{width * factor}" '
            f'height="{height * factor}" alt="{escape(title, quote=True)}"></div>'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )
    return f'<div class="pictures">{"".join(figures)}</div>' if figures else ""


def _webp(picture: np.ndarray, *, lossless: bool) -> str:
    buffer = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(picture))
    image.save(buffer, "WEBP", lossless=lossless, quality=80 if lossless else 90, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


# -- timings and limits ----------------------------------------------------------------------------


def _timings(seconds: Mapping[str, Any]) -> str:
    stages = [
        (str(k), float(v)) for k, v in seconds.items() if is_number(v) and v > 0 and k != "total"
    ]
    if not stages:
        return ""
    total = sum(value for _, value in stages)
    bar = charts.stacked_bar(
        [(f"{in_words(name)}: {duration(value)}", value) for name, value in stages],
        label=f"wall time by stage, {duration(total)} in all",
    )
    body = [
        f'<tr><th><svg class="swatch" aria-hidden="true"><rect class="part-{i % 8}" width="100%" '
        f'height="100%"/></svg> {escape(in_words(name))}</th>'
        f'<td class="number">{duration(value)}</td>'
        f'<td class="number">{100 * value / max(total, 1e-9):.0f} %</td></tr>'
        for i, (name, value) in enumerate(stages)
    ]
    body.append(f'<tr><th>in all</th><td class="number">{duration(total)}</td><td></td></tr>')
    return f'<div class="plot">{bar}</div>' + table("", body)


def _limits(results: Mapping[str, Any]) -> str:
    worlds = results.get("worlds") or {}
    clips = ", ".join(f"{world_label(w)} {r.get('clips', '?')}" for w, r in worlds.items())
    points = [
        f"Means over {clips} clips and one training seed ({results.get('seed', '?')}); standard "
        "errors cover the choice of clips, not of the seed."
        if clips
        else "",
        "The history that is written into memory is true video with true poses. Nothing here tests "
        "poses estimated from video, or errors that build up over many chunks.",
        "PSNR prefers a blurred guess to a sharp wrong one; play the videos as well. It is capped "
        f"at {PSNR_CAP:.1f} dB, the error of rounding to 8 bits.",
        "On easy returns copying the nearest old view is a strong rival, since the answer is "
        "already in the history. Only returns with parallax separate remembering from copying.",
        "The encoder’s reconstruction bounds everything generated here: what lacks up to it is the "
        "denoiser’s share of the error, what lacks beyond it the encoder’s.",
        *(str(point) for point in results.get("limits") or []),
        *(
            f"{describe(str(entry['control'])).label}{of_which_world(entry)} is missing: "
            f"{entry['reason']}"
            for entry in results.get("missing") or []
        ),
    ]
    return f"<ul>{''.join(f'<li>{prose(point)}</li>' for point in points if point)}</ul>"
