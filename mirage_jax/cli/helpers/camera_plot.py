"""Drawings of a camera path: a PNG from above and from the side, and a page to turn it in."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mirage_jax.io.atomic import replacing, write_atomically
from mirage_jax.io.camera_files import CameraRecord

_SIDE, _MARGIN, _TEXT = 520, 60, 90
_FIRST, _LAST = (38, 70, 160), (214, 69, 38)


def marker_size(record: CameraRecord) -> float:
    """Length of the lines that show where cameras look, in the path's units."""
    centres = record.cam2world[:, :3, 3]
    extent = float(np.ptp(centres, axis=0).max())
    return 0.08 * extent if extent > 1e-9 else 1.0


def draw_png(path: Path, record: CameraRecord, title: str) -> None:
    """Two views of the path, in the axes of its first camera: from above and from the right."""
    poses = np.linalg.inv(record.cam2world[0]) @ record.cam2world
    length = marker_size(record)
    image = Image.new("RGB", (2 * _SIDE, _SIDE + _TEXT), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(14)
    draw.text((12, 8), title, "black", font)
    draw.text((12, 28), f"{len(record)} frames, blue to red", "black", font)
    views = (
        ("from above: right, forward", (0, 2), (1, 1)),
        ("from the right: forward, up", (2, 1), (1, -1)),
    )
    ends = poses[:, :3, 3] + length * poses[:, :3, 2]
    both = np.concatenate([poses[:, :3, 3], ends])
    half = max(float(np.ptp(both, axis=0).max()) / 2, 1e-6)
    middle = (both.max(0) + both.min(0)) / 2
    scale = (_SIDE / 2 - _MARGIN) / half
    for i, (name, axes, sign) in enumerate(views):
        left = i * _SIDE

        def at(points: np.ndarray, axes=axes, sign=sign, left=left) -> list[tuple[float, float]]:
            flat = (points[:, axes] - middle[list(axes)]) * sign * scale
            return [(left + _SIDE / 2 + x, _TEXT + _SIDE / 2 - y) for x, y in flat]

        draw.rectangle(
            [left + 8, _TEXT, left + _SIDE - 8, _TEXT + _SIDE - 8], outline=(200, 200, 200)
        )
        draw.text((left + 16, _TEXT + 6), name, (90, 90, 90), font)
        _scale_bar(draw, left, half, scale, font)
        centres, looks = at(poses[:, :3, 3]), at(ends)
        for t in range(len(poses)):
            colour = _colour(t, len(poses))
            if t:
                draw.line([centres[t - 1], centres[t]], colour, 2)
            draw.line([centres[t], looks[t]], (*colour, 120), 1)
        for t in (0, len(poses) - 1):
            x, y = centres[t]
            draw.ellipse([x - 4, y - 4, x + 4, y + 4], fill=_colour(t, len(poses)))
    with replacing(path) as partial:
        image.save(partial, format="PNG")


def _scale_bar(draw: ImageDraw.ImageDraw, left: int, half: float, scale: float, font) -> None:
    unit = 10.0 ** np.floor(np.log10(half))
    x, y = left + 20, _TEXT + _SIDE - 24
    draw.line([(x, y), (x + unit * scale, y)], "black", 2)
    draw.text((x, y - 18), f"{unit:g}", "black", font)


def _colour(t: int, count: int) -> tuple[int, int, int]:
    share = t / max(count - 1, 1)
    r, g, b = (round(a + share * (z - a)) for a, z in zip(_FIRST, _LAST, strict=True))
    return r, g, b


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>TITLE</title>
<style>body{font:14px sans-serif;margin:16px;color:#222}canvas{border:1px solid #ccc;width:100%;
max-width:900px;touch-action:none;cursor:grab}label{margin-right:16px}pre{background:#f5f5f5;
padding:8px;white-space:pre-wrap}</style>
<h1>TITLE</h1>
<p>Drag to turn, scroll to zoom. Axes of the first camera: x right (red), y down (green), z forward
(blue).</p>
<canvas id="view" width="900" height="600"></canvas>
<p><label>Frame <input id="frame" type="range" min="0" value="0" step="1"></label>
<span id="said"></span></p>
<h2>What was read</h2><pre>NOTES</pre>
<script>
const data = DATA;
const canvas = document.getElementById("view"), ctx = canvas.getContext("2d");
const slider = document.getElementById("frame"), said = document.getElementById("said");
slider.max = data.poses.length - 1;
let yaw = -0.6, pitch = 0.5, zoom = 1;
const W = canvas.width, H = canvas.height;
function place(p) {
  const x = p[0] - data.middle[0], y = p[1] - data.middle[1], z = p[2] - data.middle[2];
  const cx = Math.cos(yaw), sx = Math.sin(yaw), cp = Math.cos(pitch), sp = Math.sin(pitch);
  const x1 = cx * x + sx * z, z1 = -sx * x + cx * z;
  const y1 = cp * y - sp * z1;
  const s = zoom * 0.42 * Math.min(W, H) / data.half;
  return [W / 2 + s * x1, H / 2 + s * y1];
}
function line(a, b, colour, width) {
  ctx.strokeStyle = colour; ctx.lineWidth = width; ctx.beginPath();
  ctx.moveTo(...place(a)); ctx.lineTo(...place(b)); ctx.stroke();
}
function point(m, v) {
  return [0, 1, 2].map(i => m[i][0] * v[0] + m[i][1] * v[1] + m[i][2] * v[2] + m[i][3]);
}
function colour(t) {
  const u = t / Math.max(data.poses.length - 1, 1);
  return `rgb(${38 + u * 176},${70 - u},${160 - u * 122})`;
}
function pyramid(m, size, tint, width) {
  const k = data.half_view, corners = [[-1,-1],[1,-1],[1,1],[-1,1]].map(
    c => point(m, [c[0] * k[0] * size, c[1] * k[1] * size, size]));
  const centre = point(m, [0, 0, 0]);
  corners.forEach((c, i) => {
    line(centre, c, tint, width); line(c, corners[(i + 1) % 4], tint, width);
  });
}
function draw() {
  ctx.clearRect(0, 0, W, H);
  const o = [0, 0, 0], a = data.marker * 2;
  line(o, [a, 0, 0], "#d33", 2); line(o, [0, a, 0], "#393", 2); line(o, [0, 0, a], "#33d", 2);
  const centres = data.poses.map(m => point(m, o));
  for (let t = 1; t < centres.length; t++) line(centres[t - 1], centres[t], colour(t), 2);
  const every = Math.max(1, Math.floor(data.poses.length / 16));
  for (let t = 0; t < data.poses.length; t += every)
    pyramid(data.poses[t], data.marker, colour(t), 0.6);
  const t = +slider.value;
  pyramid(data.poses[t], data.marker * 1.6, "#000", 2);
  const name = data.names ? " " + data.names[t] : "";
  const time = data.times ? ", " + data.times[t].toFixed(3) + " s" : "";
  said.textContent = `${t}${name}${time}, at ${centres[t].map(v => v.toFixed(3)).join(", ")}`;
}
slider.oninput = draw;
canvas.onpointerdown = e => canvas.setPointerCapture(e.pointerId);
canvas.onpointermove = e => {
  if (!e.buttons) return;
  yaw += e.movementX * 0.01;
  pitch = Math.max(-1.57, Math.min(1.57, pitch + e.movementY * 0.01));
  draw();
};
canvas.onwheel = e => { e.preventDefault(); zoom *= Math.exp(-e.deltaY * 0.001); draw(); };
draw();
</script></html>
"""


def write_page(path: Path, record: CameraRecord, title: str) -> None:
    """One HTML file with the path to turn, and what was read; it fetches nothing."""
    poses = np.linalg.inv(record.cam2world[0]) @ record.cam2world
    centres = poses[:, :3, 3]
    half_view = [0.5, 0.375]
    if record.intrinsics is not None and (record.normalised or record.size):
        lens = record.pixel_intrinsics((1, 1))[0]
        half_view = [0.5 / lens[0], 0.5 / lens[1]]
    data = {
        "poses": poses.round(9).tolist(),
        "middle": ((centres.max(0) + centres.min(0)) / 2).tolist(),
        "half": max(float(np.ptp(centres, axis=0).max()) / 2, 1.5 * marker_size(record)),
        "marker": marker_size(record),
        "half_view": half_view,
        "names": record.names,
        "times": None if record.timestamps is None else record.timestamps.tolist(),
    }
    shown = {
        "TITLE": html.escape(title),
        "NOTES": html.escape("\n".join(record.notes)),
        # A name may hold "</script>".
        "DATA": json.dumps(data).replace("<", "\\u003c"),
    }
    page = re.sub("|".join(shown), lambda word: shown[word[0]], _PAGE)
    write_atomically(path, page)
