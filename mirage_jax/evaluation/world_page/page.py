"""The page itself: one HTML file that needs nothing else, neither scripts nor the network."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from mirage_jax.evaluation.charts import ticks
from mirage_jax.evaluation.report_style import STYLE
from mirage_jax.evaluation.world_page import maps
from mirage_jax.evaluation.world_page.numbers import world_numbers
from mirage_jax.io.outputs import FileKind
from mirage_jax.world.colours import token_colours
from mirage_jax.world.world_file import WorldFile

_GENERATOR = '<meta name="generator" content="mirage_jax world page">'
WORLD_PAGE = FileKind(
    "page of a world", lambda path: _GENERATOR in path.read_text(errors="replace")[:500]
)

_CARDS = ("elements", "megabytes of elements", "frames written", "mean confidence")
_CSS = """
.choose{display:none}
.choices{display:flex;flex-wrap:wrap;gap:.5rem;margin:1rem 0 .4rem}
.choices label{border:1px solid var(--line);border-radius:999px;padding:.2rem .9rem;cursor:pointer;
background:var(--card);font-size:.92rem}
.maps{display:grid;grid-template-columns:repeat(auto-fit,minmax(24rem,1fr));gap:1rem;align-items:start}
.maps figure:first-child{grid-column:1/-1}
.maps figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:12px;
padding:.8rem 1rem}
.maps figcaption{margin-bottom:.4rem}
.map{position:relative}.map svg{display:block;width:100%;height:auto;max-height:34rem}
.map image{image-rendering:pixelated}
.shown{display:none}
.walk{fill:none;stroke:#e4572e;vector-effect:non-scaling-stroke;stroke-width:2}
.begin{fill:#fff;stroke:#e4572e;vector-effect:non-scaling-stroke;stroke-width:2}
.end{fill:#e4572e}
.track{fill:none;stroke:#d02090;vector-effect:non-scaling-stroke;stroke-width:1.5;
stroke-dasharray:4 3}
.entity{fill:#d02090}
.ruler{stroke:var(--soft);vector-effect:non-scaling-stroke;stroke-width:2}
svg text{fill:var(--ink);font-family:inherit}
.scale{display:flex;align-items:center;gap:.6rem;font-size:.88rem;color:var(--soft);
margin:.3rem 0 .9rem}
.bar{flex:0 1 16rem;height:.7rem;border-radius:4px}
"""


@dataclasses.dataclass(frozen=True)
class Colouring:
    """A way to colour the maps.

    Attributes:
      name: what it is called.
      meaning: one sentence.
      pictures: of each view.
      low, high: what the ends of the scale are; None without one.
    """

    name: str
    meaning: str
    pictures: list[UInt8[np.ndarray, "_ _ 4"]]
    low: str | None = None
    high: str | None = None


def world_page(
    file: WorldFile,
    title: str,
    *,
    up: str = "-y",
    slab: float = 0.0,
    colours: UInt8[np.ndarray, "n 3"] | None = None,
) -> str:
    """A page about a world.

    Args:
      file: what is shown.
      title: of the page.
      up: direction away from the floor, one of `origin.UPS`.
      slab: thickness of the sections, metres; 0: a fifth of the extent.
      colours: of all slots of the memory; by default the principal components of its tokens.

    Returns:
      HTML, all in one.
    """
    numbers = world_numbers(file)
    body = [f"<h1>{escape(title)}</h1>", _cards(numbers["memory"])]
    if numbers["memory"]["elements"]:
        body.append(_maps(file, up, slab, colours))
    else:
        body.append("<p>The memory is empty.</p>")
    body.append("<h2>Numbers</h2>")
    body += [_table(name, entries) for name, entries in numbers.items()]
    if file.provenance:
        text = escape(json.dumps(file.provenance, indent=1))
        body.append(f"<details><summary>Where it comes from</summary><pre>{text}</pre></details>")
    head = (
        f'<meta charset="utf-8">{_GENERATOR}<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}{_CSS}</style>"
    )
    return (
        f'<!doctype html><html lang="en"><head>{head}</head>'
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def colourings(
    file: WorldFile, views: list[maps.View], colours: UInt8[np.ndarray, "n 3"] | None
) -> list[Colouring]:
    """All ways to colour the maps of a memory that is not empty.

    Args:
      file: the world.
      views: of its memory.
      colours: of all slots; by default the principal components of the tokens.
    """
    mem = file.world.bank
    valid = np.asarray(mem.valid)
    xyz = np.asarray(mem.xyz)[valid]
    binned = [maps.bins(view, xyz) for view in views]
    tokens = np.asarray(mem.tokens)[valid]
    shown = token_colours(tokens) if colours is None else colours[valid]
    alone = [
        _opaque(maps.mean_picture(view, number, shown.astype(float)))
        for view, number in zip(views, binned, strict=True)
    ]
    what = "tokens, by their three principal components" if colours is None else "decoded tokens"
    found = [Colouring("appearance", f"The colours of the {what}.", alone)]
    frame = np.asarray(mem.frame)[valid]
    counts = [maps.distinct_picture(v, n, frame) for v, n in zip(views, binned, strict=True)]
    meaning = "How many different frames the elements of a pixel come from."
    found.append(_scaled("coverage", meaning, counts))
    age = float(file.world.frames) - 1 - np.asarray(mem.time, np.float64)[valid]
    for name, values, meaning in (
        ("age", age, "Frames since the elements were seen."),
        ("confidence", np.asarray(mem.confidence)[valid], "Mean confidence, from 0 to 1."),
        ("source frame", frame, "Number of the written frame, on average."),
        ("times seen", np.asarray(mem.seen)[valid], "Written frames that agree, on average."),
    ):
        column = np.asarray(values, np.float64)[:, None]
        pictures = [
            maps.mean_picture(view, number, column)[..., 0]
            for view, number in zip(views, binned, strict=True)
        ]
        found.append(_scaled(name, meaning, pictures))
    return found


def _scaled(name: str, meaning: str, pictures: list[np.ndarray]) -> Colouring:
    known = np.concatenate([picture[np.isfinite(picture)] for picture in pictures])
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
    drawn = [maps.coloured(picture, low, high) for picture in pictures]
    return Colouring(name, meaning, drawn, f"{low:.4g}", f"{high:.4g}")


def _opaque(means: Float[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 4"]:
    known = np.isfinite(means[..., :1])
    rgb = np.where(known, means, 0.0)
    return np.concatenate([np.round(rgb), 255 * known], axis=-1).astype(np.uint8)


def _maps(file: WorldFile, up: str, slab: float, colours: UInt8[np.ndarray, "n 3"] | None) -> str:
    world = file.world
    poses = np.asarray(world.cam2world, np.float64)[None]
    if file.camera_path is not None:
        poses = np.asarray(file.camera_path.cam2world, np.float64)
    centres = poses[:, :3, 3]
    xyz = np.asarray(world.bank.xyz, np.float64)[np.asarray(world.bank.valid)]
    views = maps.views(xyz, centres, up, slab)
    every = colourings(file, views, colours)
    inputs, labels, rules = [], [], []
    for n, one in enumerate(every):
        checked = " checked" if n == 0 else ""
        inputs.append(f'<input class="choose" type="radio" name="colour" id="c{n}"{checked}>')
        labels.append(f'<label for="c{n}">{escape(one.name)}</label>')
        rules.append(
            f"#c{n}:checked~.choices label[for=c{n}]{{background:var(--ink);color:var(--bg)}}"
            f"#c{n}:checked~* .s{n}{{display:inline}}#c{n}:checked~.legends .s{n}{{display:block}}"
        )
    legends = "".join(
        f'<div class="shown s{n}"><p>{escape(one.meaning)}</p>{_scale(one)}</div>'
        for n, one in enumerate(every)
    )
    figures = [
        _figure(view, [one.pictures[n] for one in every], poses, file.entities)
        for n, view in enumerate(views)
    ]
    note = (
        "Orange: the camera path, from the ring to the arrow. Magenta: entities and their tracks. "
        "Sections lie through the middle of the path."
    )
    return (
        f"<style>{''.join(rules)}</style><section>{''.join(inputs)}"
        f'<div class="choices">{"".join(labels)}</div><div class="legends">{legends}</div>'
        f'<div class="maps">{"".join(figures)}</div><p class="note">{note}</p></section>'
    )


def _scale(one: Colouring) -> str:
    if one.low is None:
        return ""
    return (
        f'<div class="scale"><span>{one.low}</span>'
        f'<span class="bar" style="background:{maps.scale_css()}"></span>'
        f"<span>{one.high}</span></div>"
    )


def _figure(
    view: maps.View,
    pictures: list[UInt8[np.ndarray, "_ _ 4"]],
    poses: Float[np.ndarray, "f 4 4"],
    entities: Mapping[str, Any] | None,
) -> str:
    """A map in metres, y downwards in SVG, with what is drawn over it."""
    width, height = (float(value) for value in view.high - view.low)
    rows, columns = view.pixels
    drawn = [
        f'<image class="shown s{n}" x="0" y="{_n(height - rows * view.pixel)}" '
        f'width="{_n(columns * view.pixel)}" height="{_n(rows * view.pixel)}" '
        f'preserveAspectRatio="none" href="{maps.data_uri(picture)}"/>'
        for n, picture in enumerate(pictures)
    ]
    unit = max(width, height) / (200 if view.slab is None else 100)  # the plan is shown larger

    def place(points: np.ndarray) -> np.ndarray:
        flat = view.flat(points) - view.low
        return np.stack([flat[:, 0], height - flat[:, 1]], axis=1)

    if entities is not None:
        drawn += _entities(place, entities, unit)
    walk = place(poses[:, :3, 3])
    drawn.append(f'<polyline class="walk" points="{_points(walk)}"/>')
    x, y = walk[0]
    drawn.append(f'<circle class="begin" cx="{_n(x)}" cy="{_n(y)}" r="{_n(unit)}"/>')
    drawn.append(_arrow(walk[-1], place(poses[-1:, :3, 3] + poses[-1:, :3, 2])[0], unit))
    step = ticks(0, width / 3, 1)[-1] or width / 4
    edge = height - unit
    drawn.append(f'<path class="ruler" d="M{_n(unit)} {_n(edge)}h{_n(step)}"/>')
    drawn.append(
        f'<text x="{_n(unit)}" y="{_n(edge - unit)}" font-size="{_n(4 * unit)}">{step:g} m</text>'
    )
    thick = "" if view.slab is None else f", {view.slab[1] - view.slab[0]:.3g} m thick"
    return (
        f"<figure><figcaption>{escape(view.name)}{thick}</figcaption>"
        f'<div class="map"><svg viewBox="0 0 {_n(width)} {_n(height)}" role="img" '
        f'aria-label="{escape(view.name)}">{"".join(drawn)}</svg></div></figure>'
    )


def _entities(place: Any, entities: Mapping[str, Any], unit: float) -> list[str]:
    drawn = []
    owners = np.asarray(entities["track_id"])
    for owner in np.unique(owners):
        track = place(np.asarray(entities["track_position"], np.float64)[owners == owner])
        drawn.append(f'<polyline class="track" points="{_points(track)}"/>')
    ids = np.asarray(entities["id"])
    positions = place(np.asarray(entities["position"], np.float64))
    for number, (x, y) in zip(ids, positions, strict=True):
        if number >= 0:
            drawn.append(
                f'<circle class="entity" cx="{_n(x)}" cy="{_n(y)}" r="{_n(1.2 * unit)}">'
                f"<title>entity {number}</title></circle>"
            )
    return drawn


def _arrow(tip: np.ndarray, towards: np.ndarray, unit: float) -> str:
    """A triangle along where a camera looks; a dot where that is towards the viewer or away."""
    along = towards - tip
    length = float(np.hypot(*along))
    if length < 0.2:
        return f'<circle class="end" cx="{_n(tip[0])}" cy="{_n(tip[1])}" r="{_n(unit)}"/>'
    along = along / length * unit
    side = np.array([-along[1], along[0]])
    corners = np.stack([tip + 3 * along, tip + side - along, tip - side - along])
    return f'<polygon class="end" points="{_points(corners)}"/>'


def _points(points: np.ndarray) -> str:
    return " ".join(f"{_n(x)},{_n(y)}" for x, y in points)


def _n(value: float) -> str:
    return f"{value:.5g}"


def _cards(entries: Mapping[str, Any]) -> str:
    cards = [
        f'<div class="card"><h3>{name}</h3><b>{escape(_text(entries[name]))}</b></div>'
        for name in _CARDS
        if name in entries
    ]
    return f'<div class="cards">{"".join(cards)}</div>'


def _table(name: str, entries: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><th>{escape(label)}</th><td class="number">{escape(_text(value))}</td></tr>'
        for label, value in entries.items()
    )
    return f'<h3>{escape(name)}</h3><div class="scroll"><table><tbody>{rows}</tbody></table></div>'


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(f"{number:g}" for number in value)
    return f"{value:,}" if isinstance(value, int) else str(value)
