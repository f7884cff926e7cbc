// The page: one WebSocket, and what its messages change. docs/explore.md describes the messages.

import { Controls } from "./controls.js";
import { PlanView } from "./plan.js";
import { Screen } from "./screen.js";

const $ = id => document.getElementById(id);
const query = new URLSearchParams(location.search);
const token = query.get("token") ?? "";
const STAGES = { input: "input", read: "read", denoise: "denoise", decode: "decode", geometry_write: "geometry, write",
  encode: "encode", send: "send", draw: "draw" };
const FINAL = { 1008: "The server refused what this page sent.", 1011: "The server made an error; its output says which.",
  1013: "There is no room:", 4001: "Stopped here:" };
const EMPTIED = "emptied";
const PICTURE_SIDE = 2048; // pixels that a dropped picture is made smaller to

const state = { seq: 0, sent: "", socket: null, hello: null, pose: null, memory: true, elements: 0, frames: 0,
  messages: 0, blocked: false, moving: false, retry: 500, ready: false };
const controls = new Controls(time => held(time));
const screen = new Screen($("picture"), (frame, draw, send) => say("ready", { frame, draw: rounded(draw), send: rounded(send) }));
const plan = new PlanView($("plan"), (operation, from, to) =>
  say("edit", { operation, x: from[0], z: from[1], to_x: to[0], to_z: to[1], radius: plan.radius }));

// -- the socket ----------------------------------------------------------------------------------

function connect() {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const walker = sessionStorage.getItem("walker") ?? "";
  const socket = new WebSocket(`${scheme}://${location.host}/socket?${new URLSearchParams({ token, walker })}`);
  socket.binaryType = "arraybuffer";
  state.socket = socket;
  socket.onmessage = event => {
    state.messages += 1;
    if (typeof event.data === "string") receive(JSON.parse(event.data), []);
    else receive(...unpack(event.data));
  };
  socket.onclose = event => closed(event);
}

function closed(event) {
  state.ready = false;
  controls.release();
  if (event.code in FINAL) {
    veil(`${FINAL[event.code]} ${event.reason}`, null, true);
    connection("gone", "closed");
    return;
  }
  connection("gone", "server gone");
  veil("The server is gone; trying to reach it again. If it was started anew, open the address that it printed.", null, true);
  setTimeout(() => { if (state.socket?.readyState === WebSocket.CLOSED) connect(); }, state.retry);
  state.retry = Math.min(8000, 1.6 * state.retry);
}

function unpack(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  let start = 4 + length;
  const blobs = header.sizes.map(size => new Blob([new Uint8Array(buffer, (start += size) - size, size)]));
  return [header, blobs];
}

function say(type, fields = {}) {
  if (state.socket?.readyState === WebSocket.OPEN) state.socket.send(JSON.stringify({ type, ...fields }));
}

// Sends what is held if it is another state than before.
function held(time) {
  if (!state.ready) return;
  const now = controls.state(), text = JSON.stringify(now);
  if (text === state.sent) return;
  state.sent = text;
  state.seq += 1;
  say("controls", { seq: state.seq, ...now });
  const moving = Object.values(now).some(Boolean);
  if (moving && !state.moving) screen.begin();
  state.moving = moving;
  if (moving) {
    screen.expect(state.seq, time);
    $("hint").classList.add("gone");
  }
}

// -- what the server says ------------------------------------------------------------------------

const RECEIVERS = { status, hello, frames, view, lists, error: m => note(m.text, true), note: m => note(m.text),
  saved: () => note("Saved."), download };

function receive(message, blobs) { RECEIVERS[message.type]?.(message, blobs); }

function status({ state: kind, text, share }) {
  if (kind === "ready") {
    connection("ready", "connected");
    veil("Looking around …");
    return;
  }
  connection("", kind);
  veil(kind === "failed" ? text : kind === "compiling" ? `Compiling, once: ${text}` : `Starting: ${text}`, kind === "failed" ? null : share);
}

function hello(message) {
  state.hello = message;
  state.retry = 500;
  state.ready = true;
  state.sent = "";
  sessionStorage.setItem("walker", message.walker);
  pace(message);
  document.documentElement.style.setProperty("--ratio", message.size[1] / message.size[0]);
  $("stage").style.setProperty("--ratio", message.size[1] / message.size[0]);
  buttons($("starts"), message.starts.map((name, picture) => [name, () => say("start", { picture })]));
  if (!$("layers").childElementCount) {
    segments($("layers"), "layer", message.layers, layer => say("plan", { layer }));
    segments($("tools"), "tool", ["look", "delete", "move", "swap"], tool => plan.choose(tool));
  }
  kinds(message.kinds);
  $("prompt").hidden = !message.prompts;
  $("prompts").replaceChildren(...(message.prompts ?? []).map(value => Object.assign(element("option"), { value })));
  connection("ready", "connected");
  veil("");
}

function frames(message, blobs) {
  const moving = "seq" in message;
  if (moving) pace(message);
  screen.play(message, blobs, moving);
  if (moving) {
    controls.turned(message.applied);
    held(performance.now());
    slow(message.ledger);
    ledger(message.ledger);
    state.report = message.report;
  } else numbers(message);
  state.pose = message.pose;
  state.blocked = Boolean(message.blocked);
  $("wall").hidden = !state.blocked;
}

function numbers(message) {
  state.elements = message.elements;
  state.frames = message.frames;
  state.memory = message.memory_on;
  state.kind = message.memory_kind;
  const chosen = message.memory_on ? message.memory_kind : EMPTIED;
  for (const input of $("kinds").querySelectorAll("input")) input.checked = input.value === chosen;
  if (message.prompt !== state.prompt || message.guidance !== state.guidance) told(message);
  $("undo").disabled = !message.undoable;
  $("redo").disabled = !message.redoable;
  $("memory").setAttribute("aria-checked", message.memory_on);
  $("memory").querySelector("b").textContent = message.memory_on ? "on" : "emptied";
  $("held").textContent = `${(100 * message.elements / message.capacity).toFixed(0)} %`;
  $("held").title = `${message.elements.toLocaleString()} of ${message.capacity.toLocaleString()} elements, ${(message.bytes / 1e6).toFixed(0)} MB`;
}

// Where there are several kinds of memory one of them, or none, is chosen in place of the switch.
function kinds(names) {
  $("kinds").hidden = !names.length;
  $("memory").hidden = Boolean(names.length);
  segments($("kinds"), "kind", names.length ? [...names, EMPTIED] : [], value => {
    if (value !== EMPTIED && value !== state.kind) note("Walking the same way with this memory …");
    say("memory", value === EMPTIED ? { on: false } : { on: true, kind: value });
  });
}

// Frames a second of the walk, which the server may choose anew after a chunk.
function pace({ fps, degrees }) {
  screen.fps = fps;
  controls.degrees = degrees;
  $("pace").textContent = ` of ${Math.round(fps)}`;
  $("pace").title = `The walk's pace${state.hello.adapts ? ", chosen by how long its chunks take" : ""}`;
}

// What the model was told; what is being typed stays until that changes.
function told({ prompt, guidance }) {
  Object.assign(state, { prompt, guidance });
  $("prompt-text").value = prompt;
  $("guidance").value = guidance;
  $("guidance").oninput();
}

async function view(message, [above, shown]) {
  const [picture, readout] = await Promise.all([createImageBitmap(above), createImageBitmap(shown)]);
  plan.show(message, picture);
  numbers(message);
  const canvas = $("readout");
  canvas.width = readout.width;
  canvas.height = readout.height;
  canvas.getContext("2d").drawImage(readout, 0, 0);
  readout.close();
  const { written, fused } = state.report ?? {};
  $("plan-note").textContent = `${message.elements.toLocaleString()} elements${written === undefined ? "" : `; last chunk ${written} new, ${fused} known`}`;
  $("scale").hidden = message.layer === "colour";
  $("scale-high").textContent = message.high.toPrecision(3);
}

function lists({ branches, walkers, worlds }) {
  strip($("branches"), branches.map((b, branch) => [b.picture, b.name, () => say("go", { branch })]));
  strip($("worlds"), worlds.map(w => [w.picture, new Date(w.written).toLocaleString([], { dateStyle: "short", timeStyle: "short" }), () => say("load", { world: w.id })]));
  $("walkers").replaceChildren(...walkers.map(w => {
    const item = element("li", w.here ? "here" : w.together ? "together" : ""), text = element("span");
    text.textContent = w.here ? `Walker ${w.number}, you` : `Walker ${w.number}${w.together ? ", in the same memory" : ""}${w.connected ? "" : ", away"}`;
    item.append(element("i"), text);
    if (w.here && walkers.some(o => o.together && !o.here)) item.append(button("Go on alone", () => say("leave")));
    if (!w.here) item.append(button("Walk along", () => say("join", { walker: w.number, share: true })), button("Copy", () => say("join", { walker: w.number, share: false })));
    return item;
  }));
}

function download({ id, name }) {
  const address = `download/${encodeURIComponent(id)}?${new URLSearchParams({ token })}`;
  if (state.playing && name.endsWith(".mp4")) {
    $("video").src = address;
    $("film").showModal();
    $("video").play().catch(() => note("This browser cannot play the film; export it instead.", true));
  } else {
    const link = element("a");
    link.href = address;
    link.download = name;
    link.click();
  }
  state.playing = false;
}

function rounded(number) { return Math.round(number * 100) / 100; }

// -- what is shown -------------------------------------------------------------------------------

function connection(kind, text) {
  if ($("connection").className === kind && $("connection").lastElementChild.textContent === text) return;
  $("connection").className = kind;
  $("connection").lastElementChild.textContent = text;
}

function slow(stages) {
  const { input, ...work } = stages, total = Object.values(work).reduce((sum, ms) => sum + ms, 0), chunk = 1000 * state.hello.frames / screen.fps;
  state.slow = 0.8 * (state.slow ?? 0) + 0.2 * (total > chunk);
  connection(state.slow > 0.6 ? "slow" : "ready", state.slow > 0.6 ? "slower than real time" : "connected");
}

function veil(text, share = null, again = false) {
  $("veil").hidden = !text;
  $("veil-text").textContent = text;
  $("veil-bar").hidden = share === null;
  $("veil-bar").value = share ?? 0;
  $("veil-again").hidden = !again;
}

const times = {};
function ledger(stages) {
  const all = { ...stages, send: screen.send, draw: screen.drawn };
  for (const [name, ms] of Object.entries(all)) times[name] = times[name] === undefined ? ms : 0.8 * times[name] + 0.2 * ms;
  state.timed = true;
}

function showLedger() {
  state.timed = false;
  const rows = Object.keys(STAGES).filter(name => name in times).flatMap(name => name === "denoise" ? [name, ...state.hello.denoise_steps.keys()] : [name]);
  const took = name => times[name] ?? state.hello.denoise_steps[name], most = Math.max(1, ...rows.map(took));
  const body = $("ledger").tBodies[0];
  if (body.rows.length !== rows.length) {
    body.replaceChildren(...rows.map(() => { const row = element("tr"); row.append(element("td"), element("td", "bar"), element("td")); row.cells[1].append(element("i")); return row; }));
  }
  rows.forEach((name, i) => {
    const [label, bar, value] = body.rows[i].cells;
    const step = !(name in STAGES);
    body.rows[i].className = step ? "step" : "";
    body.rows[i].title = step ? "Timed on its own before anyone walked" : "";
    label.textContent = step ? `step ${name + 1}` : STAGES[name];
    bar.firstElementChild.style.width = `${100 * took(name) / most}%`;
    value.textContent = took(name).toFixed(1);
  });
}

function note(text, bad = false) {
  const line = element("p", bad ? "error" : "");
  line.textContent = text;
  $("notes").append(line);
  while ($("notes").childElementCount > 4) $("notes").firstChild.remove();
  setTimeout(() => line.remove(), bad ? 8000 : 4000);
}

function element(name, kind = "") {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  return made;
}

function button(text, act) {
  const made = element("button");
  made.textContent = text;
  made.onclick = act;
  return made;
}

function buttons(where, entries) { where.replaceChildren(...(entries.length > 1 ? entries.map(e => button(...e)) : [])); }

function strip(where, entries) {
  where.replaceChildren(...entries.map(([picture, text, act]) => {
    const made = button("", act), image = element("img"), label = element("span");
    if (picture) image.src = picture;
    image.alt = "";
    label.textContent = text;
    made.append(image, label);
    made.title = text;
    made.setAttribute("role", "listitem");
    return made;
  }));
}

function segments(where, name, values, chosen) {
  where.replaceChildren(...values.map((value, i) => {
    const label = element("label"), input = element("input");
    Object.assign(input, { type: "radio", name, value, checked: i === 0 });
    input.onchange = () => chosen(value);
    label.append(input, value);
    return label;
  }));
}

// Texts change at a rate at which they can be read; each change lays the page out again.
setInterval(() => {
  if (state.timed) showLedger();
  const rate = screen.rate(), latency = screen.percentile(0.5);
  $("fps").textContent = rate ? rate.toFixed(0) : "–";
  $("latency").textContent = latency === null ? "–" : `${latency.toFixed(0)} ms`;
}, 500);

// -- what one does -------------------------------------------------------------------------------

async function sendPicture(file) {
  try {
    const whole = await createImageBitmap(file), scale = Math.min(1, PICTURE_SIDE / Math.max(whole.width, whole.height));
    const canvas = new OffscreenCanvas(Math.max(1, Math.round(whole.width * scale)), Math.max(1, Math.round(whole.height * scale)));
    canvas.getContext("2d").drawImage(whole, 0, 0, canvas.width, canvas.height);
    const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.95 });
    if (blob.size > state.hello.max_picture) throw new Error("too large");
    state.socket.send(await blob.arrayBuffer());
    note("Looking at the picture …");
  } catch {
    note("This picture cannot be read; expected JPEG, PNG or WebP.", true);
  }
}

const ACTIONS = {
  undo: () => say("undo"), redo: () => say("redo"), mark: () => say("mark"), keyframe: () => say("keyframe"),
  memory: () => say("memory", { on: !state.memory }), save: () => say("save"),
  play: () => { state.playing = true; say("export", { kind: "mp4" }); },
};
const SHORTCUTS = { z: "undo", y: "redo", b: "mark", k: "keyframe", m: "memory" };
for (const [id, act] of Object.entries(ACTIONS)) $(id).onclick = act;
$("export").onchange = event => { if (event.target.value) say("export", { kind: event.target.value }); event.target.value = ""; };
$("prompt").onsubmit = event => {
  event.preventDefault();
  say("prompt", { text: $("prompt-text").value, guidance: Number($("guidance").value) });
};
$("guidance").oninput = () => { $("guidance-out").textContent = $("guidance").value === "1" ? "none" : $("guidance").value; };
$("zoom-in").onclick = () => plan.zoom(1.4);
$("zoom-out").onclick = () => plan.zoom(1 / 1.4);
$("zoom-fit").onclick = () => plan.fit();
$("radius").oninput = event => {
  plan.radius = 10 ** Number(event.target.value);
  $("radius-out").textContent = `${plan.radius.toPrecision(2)} m`;
  plan.draw();
};
$("radius").oninput({ target: $("radius") });
$("help-open").onclick = () => $("help").showModal();
$("film").onclose = () => { $("video").removeAttribute("src"); $("video").load(); };
$("veil-again").onclick = () => { state.retry = 500; if (state.socket.readyState === WebSocket.CLOSED) connect(); };
$("file").onchange = event => { if (event.target.files[0]) sendPicture(event.target.files[0]); event.target.value = ""; };
$("drop").onkeydown = event => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); $("file").click(); } };
addEventListener("dragover", event => { event.preventDefault(); document.body.classList.add("dropping"); });
addEventListener("dragleave", event => { if (!event.relatedTarget) document.body.classList.remove("dropping"); });
addEventListener("drop", event => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  const file = event.dataTransfer.files[0];
  if (file) sendPicture(file);
});
addEventListener("paste", event => { const file = [...event.clipboardData.files][0]; if (file) sendPicture(file); });
addEventListener("keydown", event => {
  const id = SHORTCUTS[event.key.toLowerCase()];
  if (!id || event.repeat || event.altKey || event.target.closest?.("input, select, dialog")) return;
  if ((event.ctrlKey || event.metaKey) && id !== "undo" && id !== "redo") return;
  event.preventDefault();
  $(id).click();
});
addEventListener("pointerdown", event => { if (event.pointerType === "touch") document.body.classList.add("touch"); });
if (matchMedia("(pointer: coarse)").matches) document.body.classList.add("touch");
controls.dragOn($("picture"));
controls.stickOn($("stick"));
controls.liftOn($("lift-up"), 1);
controls.liftOn($("lift-down"), -1);

// For measurements: numbers of this page, in milliseconds and metres.
window.mirage = {
  numbers: () => ({ connected: state.ready, moving: !screen.still || Object.values(controls.state()).some(Boolean), pose: state.pose, elements: state.elements, frames: state.frames, blocked: state.blocked,
    memory: state.memory, drawn: screen.count, pace: screen.fps, rate: screen.rate(), median: screen.percentile(0.5), p95: screen.percentile(0.95),
    samples: screen.latencies.length, turnaround: screen.turnaround, messages: state.messages, ledger: { ...times } }),
  reset: () => { screen.latencies = []; screen.count = 0; },
};
connect();
