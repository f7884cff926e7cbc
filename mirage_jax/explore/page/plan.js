// The plan: what the memory holds from above, with the walk, the camera and the tools drawn over it.

const INK = "#ffc66b", LEAD = "#7ddcc9", FAINT = "#99a1b0";

export class PlanView {
  // edit(operation, from, to): called with places [x, z] in metres when a tool was used.
  constructor(canvas, edit) {
    this.canvas = canvas;
    this.edit = edit;
    this.tool = "look";
    this.radius = 0.5;
    this.data = null;
    this.image = null;
    this.view = null; // {x, z, scale}: the middle in metres, pixels a metre; null shows all
    this.from = this.to = this.cross = null;
    this.pointers = new Map();
    canvas.addEventListener("pointerdown", e => this.down(e));
    canvas.addEventListener("pointermove", e => this.moved(e));
    canvas.addEventListener("pointerup", e => this.up(e));
    canvas.addEventListener("pointercancel", e => this.forget(e));
    canvas.addEventListener("pointerleave", () => { if (!this.pointers.size) { this.cross = null; this.draw(); } });
    canvas.addEventListener("wheel", e => { e.preventDefault(); this.zoom(Math.exp(-e.deltaY / 400), this.at(e)); }, { passive: false });
    canvas.addEventListener("keydown", e => this.key(e));
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  show(data, image) {
    this.image?.close();
    this.data = data;
    this.image = image;
    this.draw();
  }

  choose(tool) {
    this.tool = tool;
    this.from = this.to = null;
    this.canvas.classList.toggle("editing", tool !== "look");
    this.draw();
  }

  fit() { this.view = null; this.draw(); }

  zoom(factor, at) {
    const view = this.window();
    if (!view) return;
    const [x, z] = at ? this.place(at) : [view.x, view.z];
    const scale = Math.min(2000, Math.max(0.5, view.scale * factor)), share = view.scale / scale;
    this.view = { scale, x: x + (view.x - x) * share, z: z + (view.z - z) * share };
    this.draw();
  }

  // The window shown: by default all that is held, and the walk.
  window() {
    if (!this.data) return null;
    if (this.view) return this.view;
    const d = this.data, width = this.image.width * d.pixel, height = this.image.height * d.pixel;
    const { clientWidth: w, clientHeight: h } = this.canvas;
    return { x: d.left + width / 2, z: d.top - height / 2, scale: 0.94 * Math.min(w / width, h / height, 400) };
  }

  pixel([x, z]) {
    const v = this.window();
    return [this.canvas.clientWidth / 2 + (x - v.x) * v.scale, this.canvas.clientHeight / 2 - (z - v.z) * v.scale];
  }

  place([px, py]) {
    const v = this.window();
    return [v.x + (px - this.canvas.clientWidth / 2) / v.scale, v.z - (py - this.canvas.clientHeight / 2) / v.scale];
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  down(event) {
    if (!this.data) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, this.at(event));
    if (this.tool !== "look") this.from = this.to = this.place(this.at(event));
    this.draw();
  }

  moved(event) {
    if (!this.data) return;
    const at = this.at(event), before = this.pointers.get(event.pointerId);
    this.cross = this.place(at);
    if (before && this.tool === "look") this.drag(event.pointerId, before, at);
    else if (before) this.to = this.place(at);
    if (before) this.pointers.set(event.pointerId, at);
    this.draw();
  }

  drag(id, before, at) {
    const other = [...this.pointers].find(([key]) => key !== id)?.[1];
    if (other) {
      const length = p => Math.hypot(p[0] - other[0], p[1] - other[1]) || 1;
      this.zoom(length(at) / length(before), other);
      return;
    }
    const view = this.window();
    this.view = { ...view, x: view.x - (at[0] - before[0]) / view.scale, z: view.z + (at[1] - before[1]) / view.scale };
  }

  up(event) {
    if (!this.pointers.delete(event.pointerId) || !this.from) return;
    this.apply(this.from, this.to);
  }

  forget(event) {
    this.pointers.delete(event.pointerId);
    this.from = this.to = null;
    this.draw();
  }

  apply(from, to) {
    const far = Math.hypot(to[0] - from[0], to[1] - from[1]) > 0.2 * this.radius;
    if (this.tool === "delete") this.edit("delete", to, to);
    else if (far) this.edit(this.tool, from, to);
    this.from = this.to = null;
    this.draw();
  }

  // The cross by arrow keys; Enter takes it: once for what, once more for where to.
  key(event) {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!this.data || !(step || event.key === "Enter" || event.key === "Escape")) return;
    event.preventDefault();
    event.stopPropagation();
    const here = this.cross || this.data.camera;
    if (step) this.cross = here.map((v, i) => v + step[i] * 12 / this.window().scale);
    else if (event.key === "Escape") this.from = this.to = null;
    else if (this.tool === "delete") this.apply(here, here);
    else if (this.tool !== "look" && this.from) this.apply(this.from, here);
    else if (this.tool !== "look") this.from = this.to = here;
    if (this.from && step) this.to = this.cross;
    this.draw();
  }

  draw() {
    const { canvas } = this, ratio = devicePixelRatio || 1, w = canvas.clientWidth, h = canvas.clientHeight;
    if (!w || !h) return;
    if (canvas.width !== Math.round(w * ratio) || canvas.height !== Math.round(h * ratio)) {
      canvas.width = Math.round(w * ratio);
      canvas.height = Math.round(h * ratio);
    }
    const c = canvas.getContext("2d");
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.clearRect(0, 0, w, h);
    if (!this.data) return;
    const d = this.data, view = this.window();
    const [left, top] = this.pixel([d.left, d.top]);
    c.imageSmoothingEnabled = false;
    c.drawImage(this.image, left, top, this.image.width * d.pixel * view.scale, this.image.height * d.pixel * view.scale);
    this.metre(c, w, h, view.scale);
    this.line(c, d.track, INK, 2);
    for (const entity of d.entities) this.entity(c, entity);
    this.camera(c, d);
    if (this.tool !== "look") this.selection(c);
  }

  line(c, places, colour, width) {
    c.beginPath();
    places.forEach((p, i) => c[i ? "lineTo" : "moveTo"](...this.pixel(p)));
    c.lineWidth = width;
    c.lineJoin = "round";
    c.strokeStyle = colour + "cc";
    c.stroke();
  }

  dot(c, place, colour) {
    c.beginPath();
    c.arc(...this.pixel(place), 4, 0, 7);
    c.fillStyle = colour;
    c.fill();
  }

  entity(c, entity) {
    this.line(c, entity.track, LEAD, 1.5);
    const last = entity.track.at(-1);
    if (!last) return;
    this.dot(c, last, LEAD);
    const [x, y] = this.pixel(last);
    c.font = "11px system-ui";
    c.fillText(entity.name, x + 7, y + 4);
  }

  camera(c, d) {
    const [x, y] = this.pixel(d.camera), far = 46;
    c.beginPath();
    c.moveTo(x, y);
    for (const side of d.frustum) {
      const length = Math.hypot(...side) || 1;
      c.lineTo(x + far * side[0] / length, y - far * side[1] / length);
    }
    c.closePath();
    c.fillStyle = INK + "38";
    c.fill();
    c.lineWidth = 1.2;
    c.strokeStyle = INK;
    c.stroke();
    c.beginPath();
    c.arc(x, y, 5, 0, 7);
    c.fillStyle = INK;
    c.fill();
    c.lineWidth = 2;
    c.strokeStyle = "#0a0c0f";
    c.stroke();
  }

  metre(c, w, h, scale) {
    const length = [100, 50, 20, 10, 5, 2, 1, 0.5, 0.2, 0.1].find(m => m * scale < 90) ?? 0.1;
    c.fillStyle = c.strokeStyle = FAINT;
    c.lineWidth = 2;
    c.beginPath();
    c.moveTo(12, h - 12);
    c.lineTo(12 + length * scale, h - 12);
    c.stroke();
    c.font = "11px system-ui";
    c.fillText(`${length} m`, 12, h - 18);
  }

  selection(c) {
    const squares = this.from ? [this.from, this.to] : [this.cross].filter(Boolean);
    const side = 2 * this.radius * this.window().scale;
    c.setLineDash([5, 4]);
    c.lineWidth = 1.5;
    c.strokeStyle = this.tool === "delete" ? "#ff8a7a" : LEAD;
    for (const square of squares) {
      const [x, y] = this.pixel(square);
      c.strokeRect(x - side / 2, y - side / 2, side, side);
    }
    if (this.from) {
      c.beginPath();
      c.moveTo(...this.pixel(this.from));
      c.lineTo(...this.pixel(this.to));
      c.stroke();
    }
    c.setLineDash([]);
  }
}
