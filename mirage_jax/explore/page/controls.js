// What is held: keys, the mouse, a thumb. One state of five numbers in [-1, 1], not events.

const MOVES = { KeyW: ["forward", 1], KeyS: ["forward", -1], KeyD: ["right", 1], KeyA: ["right", -1],
  KeyE: ["up", 1], KeyQ: ["up", -1], ArrowRight: ["yaw", 1], ArrowLeft: ["yaw", -1],
  ArrowUp: ["pitch", 1], ArrowDown: ["pitch", -1] };
const NAMES = ["forward", "right", "up", "yaw", "pitch"];
const TYPING = "input, select, textarea, dialog, #plan";
const PICTURE_DEGREES = 90; // that a drag across the picture turns by

export class Controls {
  // changed(time): called when the state may be another, with the time of the event.
  constructor(changed) {
    this.changed = changed;
    this.keys = new Set();
    this.stick = { forward: 0, right: 0 };
    this.lift = 0;
    this.turn = { yaw: 0, pitch: 0 }; // degrees dragged that no chunk has turned by yet
    this.degrees = 20; // that a chunk turns by at most
    addEventListener("keydown", e => this.key(e, true));
    addEventListener("keyup", e => this.key(e, false));
    addEventListener("blur", () => this.release());
    document.addEventListener("visibilitychange", () => this.release());
  }

  key(event, down) {
    if (!(event.code in MOVES) || (down && (event.ctrlKey || event.metaKey || event.altKey))) return;
    if (down && event.target.closest?.(TYPING)) return;
    if (down) event.preventDefault();
    if (down === this.keys.has(event.code)) return;
    this.keys[down ? "add" : "delete"](event.code);
    this.changed(event.timeStamp);
  }

  release() {
    this.keys.clear();
    this.stick = { forward: 0, right: 0 };
    this.lift = 0;
    this.turn = { yaw: 0, pitch: 0 };
    this.changed(performance.now());
  }

  state() {
    const held = { forward: this.stick.forward, right: this.stick.right, up: this.lift, yaw: 0, pitch: 0 };
    for (const code of this.keys) held[MOVES[code][0]] += MOVES[code][1];
    for (const name of ["yaw", "pitch"]) held[name] += this.turn[name] / this.degrees;
    for (const name of NAMES) held[name] = Math.round(1000 * Math.max(-1, Math.min(1, held[name]))) / 1000;
    return held;
  }

  // Takes from what was dragged what a chunk has turned by.
  turned(applied) {
    for (const name of ["yaw", "pitch"]) {
      const left = this.turn[name], by = applied[name] * this.degrees;
      this.turn[name] = Math.sign(left) === Math.sign(by) ? Math.sign(left) * Math.max(0, Math.abs(left) - Math.abs(by)) : left;
      if (Math.abs(this.turn[name]) < 0.05) this.turn[name] = 0;
    }
  }

  // Dragging on the picture looks around; with a finger, too.
  dragOn(element) {
    let last = null;
    element.addEventListener("pointerdown", e => {
      element.setPointerCapture(e.pointerId);
      element.focus();
      last = { id: e.pointerId, x: e.clientX, y: e.clientY };
    });
    element.addEventListener("pointermove", e => {
      if (last?.id !== e.pointerId) return;
      const scale = PICTURE_DEGREES / element.clientWidth;
      this.turn.yaw -= (e.clientX - last.x) * scale;
      this.turn.pitch += (e.clientY - last.y) * scale;
      last = { id: e.pointerId, x: e.clientX, y: e.clientY };
      this.changed(e.timeStamp);
    });
    for (const end of ["pointerup", "pointercancel"]) element.addEventListener(end, () => { last = null; });
  }

  stickOn(element) {
    const knob = element.querySelector("i");
    const set = (x, y, time) => {
      knob.style.transform = `translate(${30 * x}px, ${-30 * y}px)`;
      this.stick = { forward: y, right: x };
      this.changed(time);
    };
    const move = e => {
      const box = element.getBoundingClientRect(), reach = box.width / 2;
      let x = (e.clientX - box.left - reach) / reach, y = -(e.clientY - box.top - reach) / reach;
      const length = Math.hypot(x, y);
      if (length > 1) { x /= length; y /= length; }
      set(Math.abs(x) < 0.15 ? 0 : x, Math.abs(y) < 0.15 ? 0 : y, e.timeStamp);
    };
    element.addEventListener("pointerdown", e => { element.setPointerCapture(e.pointerId); move(e); });
    element.addEventListener("pointermove", e => { if (element.hasPointerCapture(e.pointerId)) move(e); });
    for (const end of ["pointerup", "pointercancel"]) element.addEventListener(end, e => set(0, 0, e.timeStamp));
  }

  liftOn(button, direction) {
    button.addEventListener("pointerdown", e => { button.setPointerCapture(e.pointerId); this.lift = direction; this.changed(e.timeStamp); });
    for (const end of ["pointerup", "pointercancel"]) button.addEventListener(end, e => { this.lift = 0; this.changed(e.timeStamp); });
  }
}
