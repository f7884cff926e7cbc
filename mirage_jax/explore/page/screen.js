// The picture: plays the frames of a chunk, and says when the next chunk should be made.

const MARGIN = 10; // milliseconds that the next chunk should come early
const REFRESH = 17; // milliseconds between two refreshes of most screens

export class Screen {
  // ready(frame, draw, send): called when the server may make the next chunk; milliseconds.
  constructor(canvas, ready) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.ready = ready;
    this.fps = 16;
    this.queue = []; // {image, at, seq, moving}
    this.decoding = 0; // chunks
    this.end = 0;
    this.turnaround = 50; // milliseconds from `ready` to the pictures that it brings
    this.send = 0;
    this.asked = 0;
    this.shown = []; // times at which frames of the last two seconds were drawn
    this.count = 0;
    this.waiting = []; // {seq, time}: changes of what is held that no picture shows yet
    this.latencies = [];
    this.drawn = 0;
    this.playing = false; // whether a frame is asked for at the next refresh
  }

  // A change of what is held, of which the first picture that shows it is awaited.
  expect(seq, time) {
    this.waiting.push({ seq, time });
    if (this.waiting.length > 100) this.waiting.shift();
  }

  // One walks on after a pause, which is no time of the walk.
  begin() { this.shown = []; }

  async play(header, blobs, moving) {
    const begun = performance.now();
    let send = 0;
    if (this.asked && moving) {
      const { input, ...work } = header.ledger;
      send = Math.max(0.01, begun - this.asked - Object.values(work).reduce((sum, ms) => sum + ms, 0));
      this.send += 0.2 * (send - this.send);
      this.turnaround += 0.3 * (begun - this.asked - this.turnaround);
    }
    this.asked = 0;
    let images;
    this.decoding += 1;
    try {
      images = await Promise.all(blobs.map(blob => createImageBitmap(blob)));
    } catch {
      images = []; // a picture that cannot be decoded is left out; the next will come
    }
    this.decoding -= 1;
    const now = performance.now(), interval = 1000 / this.fps;
    let at = Math.max(now, this.end);
    for (const image of images) {
      this.queue.push({ image, at, seq: header.seq, moving });
      at += moving ? interval : 0;
    }
    this.end = at;
    this.wake();
    const early = moving ? this.end - now - this.turnaround - MARGIN : 0;
    const ask = () => {
      this.asked = performance.now();
      this.ready(header.frame, this.drawn + now - begun, send);
    };
    if (early > 4) setTimeout(ask, early); else ask();
  }

  // Asks for the refresh at which the next frame is due; each costs a pass over the whole page.
  wake() {
    if (this.playing || !this.queue.length) return;
    this.playing = true;
    const refresh = () => requestAnimationFrame(() => this.tick()), early = this.queue[0].at - performance.now() - REFRESH;
    if (early > 0) setTimeout(refresh, early); else refresh();
  }

  tick() {
    const now = performance.now();
    this.playing = false;
    let due = null;
    while (this.queue.length && this.queue[0].at <= now + 2) {
      if (due) due.image.close();
      due = this.queue.shift();
    }
    if (due) this.draw(due, now);
    this.wake();
  }

  draw({ image, seq, moving }, now) {
    const { canvas } = this;
    if (canvas.width !== image.width || canvas.height !== image.height) {
      canvas.width = image.width;
      canvas.height = image.height;
    }
    this.context.drawImage(image, 0, 0);
    image.close();
    const done = performance.now();
    this.drawn = done - now;
    if (!moving) return;
    this.count += 1;
    this.shown = [...this.shown.filter(t => t > done - 2000), done];
    while (this.waiting.length && this.waiting[0].seq <= seq) this.latencies.push(done - this.waiting.shift().time);
    if (this.latencies.length > 500) this.latencies.shift();
  }

  // Whether all that came is drawn.
  get still() { return !this.decoding && !this.queue.length; }

  // Distinct frames a second, of the last two seconds of the walk.
  rate() {
    const recent = this.shown.filter(t => t > performance.now() - 2000);
    return recent.length > 4 ? (recent.length - 1) * 1000 / (recent.at(-1) - recent[0]) : 0;
  }

  percentile(share) {
    const sorted = [...this.latencies].sort((a, b) => a - b);
    return sorted.length ? sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] : null;
  }
}
