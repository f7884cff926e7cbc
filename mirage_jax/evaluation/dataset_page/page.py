"""The page itself: one HTML file that needs nothing else, neither scripts nor the network."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines import clip_format
from data_pipelines.card import CARD, read_card
from data_pipelines.clip import Clip
from data_pipelines.clip_measures import Measures, measure
from data_pipelines.filters import AT_LEAST, UNITS, Filters
from data_pipelines.recording import read_records
from mirage_jax.evaluation.dataset_page import pictures
from mirage_jax.evaluation.report_style import STYLE
from mirage_jax.io.outputs import FileKind
from mirage_jax.settings import from_mapping

_GENERATOR = '<meta name="generator" content="mirage_jax dataset page">'
DATASET_PAGE = FileKind(
    "page of a dataset", lambda path: _GENERATOR in path.read_text(errors="replace")[:500]
)

_CSS = """
main{max-width:86rem}
.clip{background:var(--card);border:1px solid var(--line);border-radius:12px;
padding:.9rem 1rem 1rem;margin:1rem 0}
.clip.fails{border-left:4px solid var(--bad)}
.clip h3{margin:0;overflow-wrap:anywhere}
.clip .meta{font-size:.9rem;margin-bottom:.6rem}
.clip img{display:block;max-width:100%;height:auto;border-radius:6px}
.sides{display:grid;grid-template-columns:minmax(0,1fr) 18rem;gap:1rem;margin-top:.8rem}
.sides figure{margin:0 0 .8rem}.sides figcaption{font-size:.86rem;margin-top:.3rem}
.numbers{display:flex;flex-wrap:wrap;gap:.3rem .5rem;margin:.7rem 0 0;padding:0;list-style:none;
font-size:.86rem;font-variant-numeric:tabular-nums}
.numbers li{margin:0;border:1px solid var(--line);border-radius:999px;padding:.1rem .7rem}
.numbers li.bad{border-color:var(--bad);font-weight:650}
@media (max-width:52rem){.sides{grid-template-columns:minmax(0,1fr)}}
"""

MEANINGS = {
    "black": "black frames, as a share",
    "blur": "0 sharp to 1 blurred",
    "cut": "how far a change stands out",
    "motion": "in the picture, of its width",
    "parallax": "of that, what is no turn",
    "overlay": "captions, logos, bars",
    "warp_gain": "what depth and poses bring",
    "warp_psnr": "of warped frames",
    "seen_through": "points that other frames deny",
    "epipolar": "points beside where poses allow",
}


def dataset_page(directory: Path, *, clips: int = 24, splits: tuple[str, ...] = ()) -> str:
    """A page about a recorded dataset.

    Args:
      directory: with its dataset.json.
      clips: shown of each split, evenly spread over all.
      splits: that are shown; () for all.

    Returns:
      HTML, all in one.

    Raises:
      ValueError: naming the folder or the file, for what is no dataset, damaged, or has no such
        split.
    """
    card = read_card(directory)
    if not card["splits"]:
        raise ValueError(f"{directory}: found no {CARD}, expected a folder that was recorded")
    for split in splits:
        if split not in card["splits"]:
            known = ", ".join(card["splits"])
            raise ValueError(f"{directory}: found no split {split!r}, expected one of {known}")
    title = f"{directory.resolve().name}: a recorded dataset"
    body = [f"<h1>{escape(title)}</h1>"]
    for split in splits or card["splits"]:
        body.append(_split(directory, split, card["splits"][split], clips))
    head = (
        f'<meta charset="utf-8">{_GENERATOR}<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}{_CSS}</style>"
    )
    return (
        f'<!doctype html><html lang="en"><head>{head}</head>'
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def some_clips(directory: Path, entry: Mapping[str, Any], count: int) -> Iterator[Clip]:
    """At most `count` clips of a split, evenly spread, in order."""
    shards = [(directory / file, part["clips"]) for file, part in sorted(entry["shards"].items())]
    ends = np.cumsum([clips for _, clips in shards])
    total = int(ends[-1]) if len(ends) else 0
    if not total:
        return
    for number in np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int)):
        shard = int(np.searchsorted(ends, number, side="right"))
        path, clips = shards[shard]
        first = int(number) - (int(ends[shard]) - clips)
        for record in itertools.islice(read_records(path, first), 1):
            yield clip_format.from_bytes(record)


def _split(directory: Path, split: str, entry: Mapping[str, Any], count: int) -> str:
    filters = from_mapping(Filters, entry.get("filters") or {}, f"{directory / CARD}: filters")
    found, parts = list[Measures](), list[tuple[int, str]]()
    for clip in some_clips(directory, entry, count):  # one in memory at a time
        found.append(measure(clip))
        parts.append((len(filters.failed(found[-1])), _clip(clip, found[-1], filters)))
    parts.sort(key=lambda part: -part[0])  # what is doubtful first
    shown = "".join(text for _, text in parts)
    doubtful = sum(fails > 0 for fails, _ in parts)
    return (
        f"<h2>{escape(split)}</h2>{_cards(entry)}{_left_out(entry)}{_ranges(found, entry, filters)}"
        f"<h3>{len(found)} of {entry.get('clips', 0):,} clips; {doubtful} of them fail a filter"
        f"{', these first' if doubtful else ''}</h3>{shown}"
    )


def _cards(entry: Mapping[str, Any]) -> str:
    size = f"{entry.get('height', '?')}x{entry.get('width', '?')}"
    facts = {
        "clips": f"{entry.get('clips', 0):,}",
        "of video": _duration(3600 * entry.get("hours", 0)),
        f"pictures, {entry.get('frames', '?')} at {entry.get('fps', 0):g} a second": size,
        "left out": f"{entry.get('rejected', 0):,}",
        "on disk": _bytes(entry.get("bytes", 0)),
    }
    cards = "".join(
        f'<div class="card"><h3>{escape(name)}</h3><b>{escape(value)}</b></div>'
        for name, value in facts.items()
    )
    licences = ", ".join(f"{name} ({n})" for name, n in entry.get("licences", {}).items())
    return f'<div class="cards">{cards}</div><p class="meta">Licences: {escape(licences)}</p>'


def _duration(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.2g} s"


def _bytes(count: int) -> str:
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1000:.3g} kB"


def _left_out(entry: Mapping[str, Any]) -> str:
    if not entry.get("reasons"):
        return ""
    reasons = ", ".join(f"{name} {n:,}" for name, n in entry["reasons"].items())
    lines = "".join(f"<li>{escape(line)}</li>" for line in entry.get("examples", []))
    return f"<details><summary>Left out: {escape(reasons)}</summary><ul>{lines}</ul></details>"


def _ranges(found: list[Measures], entry: Mapping[str, Any], filters: Filters) -> str:
    """The least, mean and most of each measure: of all clips where the card has it."""
    rows = []
    for name, meaning in MEANINGS.items():
        known = entry.get("measures", {}).get(name) or _range_of(found, name)
        unit = UNITS.get(name, " dB" if name == "warp_psnr" else "")
        cells = (
            "<td></td>" * 3
            if known is None
            else "".join(
                f'<td class="number">{known[key]:.3g}{unit}</td>'
                for key in ("least", "mean", "most")
            )
        )
        clips = 0 if known is None else known["clips"]
        bound = ""
        if name in UNITS:
            bound = f"{'≥' if name in AT_LEAST else '≤'} {getattr(filters, name):g}{unit}"
        rows.append(
            f"<tr><th>{name}<small>{escape(meaning)}</small></th>{cells}"
            f'<td class="number">{clips:,}</td><td class="number">{bound}</td></tr>'
        )
    return (
        '<div class="scroll"><table><thead><tr><th>measure</th><th class="number">least</th>'
        '<th class="number">mean</th><th class="number">most</th>'
        '<th class="number">clips measured</th><th class="number">filter</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _range_of(found: list[Measures], name: str) -> dict[str, Any] | None:
    values = [value for m in found if (value := getattr(m, name)) is not None]
    if not values:
        return None
    mean = sum(values) / len(values)
    return {"clips": len(values), "least": min(values), "mean": mean, "most": max(values)}


def _clip(clip: Clip, measures: Measures, filters: Filters) -> str:
    failed = filters.failed(measures)
    numbers = "".join(
        f'<li{_bad(name in failed)} title="{escape(failed.get(name, MEANINGS[name]))}">{name} '
        f"{value:.3g}{UNITS.get(name, ' dB' if name == 'warp_psnr' else '')}</li>"
        for name, value in dataclasses.asdict(measures).items()
        if value is not None
    )
    checks = [pictures.warp_check(clip), pictures.point_check(clip)]
    figures = "".join(_figure(*check) for check in checks if check is not None)
    if not figures:
        figures = '<p class="soft">Too little to check the geometry by.</p>'
    said = f"{clip.frames} frames at {clip.fps:g} a second, {clip.world}, {clip.trajectory}"
    caption = f"<p>{escape(clip.caption)}</p>" if clip.caption else ""
    above = _figure(pictures.from_above(clip), "From above; the path goes from amber to blue.")
    provenance = escape(json.dumps(dict(clip.provenance or {}), indent=1, ensure_ascii=False))
    return (
        f'<section class="clip{" fails" if failed else ""}"><h3>{escape(clip.name)}</h3>'
        f'<p class="meta">{escape(said)}</p>{caption}{_image(pictures.frames(clip), "frames")}'
        f'<ul class="numbers">{numbers}</ul>'
        f'<div class="sides"><div>{figures}</div><div>{above}</div></div>'
        f"<details><summary>Where it comes from</summary><pre>{provenance}</pre></details>"
        "</section>"
    )


def _bad(fails: bool) -> str:
    return ' class="bad"' if fails else ""


def _figure(picture: pictures.Picture, caption: str) -> str:
    image = _image(picture, caption)
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def _image(picture: pictures.Picture, alt: str) -> str:
    return f'<img src="{pictures.data_uri(picture)}" alt="{escape(alt)}">'
