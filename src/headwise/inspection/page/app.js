/* What the attention page draws; page.py puts it into page.html, after the data. Sections stand in the order in which
   they are used: helpers, the data, the numbers, colours, state, then one section for each part of the page. */
"use strict";

/* ---- Small help. Text from the data goes in as text nodes or attributes, never as markup. ---- */

const $ = (id) => document.getElementById(id);
const clamp = (x, least, most) => Math.min(most, Math.max(least, x));
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const LITTLE = { previous_token: "prev", first_token: "sink", induction: "ind", duplicate_token: "dup", entropy: "H",
  mean_distance: "dist", mean_distance_without_first: "dist−1", ov_copying: "copy", importance: "imp", mean_ablation: "abl",
  logit_attribution: "logit" };
const NAMED = ["previous_token", "induction", "duplicate_token", "first_token"]; // shares of attention, badges from .3

function make(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.flat());
  return node;
}

/** A label without characters that would show nothing or turn the text around them. */
function visible(label) {
  const code = (c) => `<U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}>`;
  return label === "" ? "∅" : label.replace(/[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu, code);
}

const minus = (text) => text.replace("-", "−");
const fixed = (x, digits = 3) => (x === -Infinity ? "−∞" : minus(x.toFixed(digits)));
const signed = (x) => (x > 0 ? "+" : "") + fixed(x);
const short = (name) => LITTLE[name] ?? (name.length > 9 ? name.slice(0, 8) + "…" : name);
const words = (name) => name.replaceAll("_", " ");
const strong = (...inside) => make("b", {}, ...inside);
const code = (text) => make("code", {}, text);
const options = (names, first) => [...first, ...names.map((name) => [name, words(name)])].map(([value, text]) =>
  make("option", { value }, text));
const column = (name, marked) => make("th", { scope: "col", class: marked }, name);
const tokenName = (prompt, i) => make("span", { class: "tokenname" }, prompt.shown[i]);

function brief(x) {
  const digits = Math.abs(x) >= 100 ? x.toFixed(0) : Math.abs(x) >= 10 ? x.toFixed(1) : x.toFixed(2);
  if (x !== 0 && Math.abs(x) < 0.005) return minus(x.toExponential(0));
  return minus(digits.replace(/^(-?)0\./, "$1."));
}

function ordinal(n) {
  const ends = { 1: "st", 2: "nd", 3: "rd" };
  return n + (n % 100 > 10 && n % 100 < 14 ? "th" : ends[n % 10] ?? "th");
}

/* ---- The data: base64, deflated, steps as differences. ---- */

async function inflate(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

/** The view in a page's JSON: S steps, L layers, H heads, and prompts of T tokens and P = T(T+1)/2 visible pairs. */
async function open(text) {
  const data = JSON.parse(text);
  if (data.format !== 1) throw new Error("not a page of this format");
  const buffers = await Promise.all(data.blobs.map(inflate));
  const floats = (place) => new Float32Array(buffers[place]);
  const view = { ...data, S: data.steps.length, L: data.prompts[0].layers, H: data.prompts[0].heads };
  delete view.blobs;
  view.group = view.H / view.kv_heads;
  view.prompts = data.prompts.map((prompt) => {
    const T = prompt.labels.length, P = (T * (T + 1)) / 2, each = view.L * view.H * P;
    const bytes = new Uint8Array(buffers[prompt.patterns]).slice(), norms = floats(prompt.value_norms);
    if (bytes.length !== view.S * each || norms.length !== view.S * view.L * view.H * T)
      throw new Error("the data are cut short");
    for (let n = each; n < bytes.length; n++) bytes[n] += bytes[n - each]; // wraps at 256
    const vectors = new Map();
    for (const one of prompt.vectors) {
      const [q, k, v] = [one.q, one.k, one.v].map(floats);
      const [pattern, bias] = [one.pattern, one.bias].map((n) => (n === undefined ? null : square(floats(n), T)));
      vectors.set(`${one.layer}.${one.head}`, { T, D: one.width, q, k, v, pattern, bias });
    }
    const scores = Object.fromEntries(
      Object.entries(prompt.scores).map(([name, values]) => [name, values.map((x) => x ?? NaN)]));
    const greatest = norms.reduce((most, x) => Math.max(most, x), 1e-9);
    return { name: prompt.name, labels: prompt.labels, shown: prompt.labels.map(visible), T, P, bytes, norms, scores,
      vectors, greatest, fresh: prompt.new ?? T, note: prompt.note };
  });
  return view;
}

/** A lower triangle, row after row, as a whole matrix with zeros. */
function square(triangle, T) {
  const out = new Float32Array(T * T);
  for (let i = 0, n = 0; i < T; i++) for (let j = 0; j <= i; j++) out[i * T + j] = triangle[n++];
  return out;
}

/* ---- The numbers: weights, what is shown of them, one head's attention step by step. ---- */

const SQUARES = Float32Array.from({ length: 256 }, (_, byte) => (byte / 255) ** 2);
const at = (view, s, l, h) => (s * view.L + l) * view.H + h;
const stored = (view, p, s, l, h) => (s === view.S - 1 ? view.prompts[p].vectors.get(`${l}.${h}`) : undefined);

/** The weights of one head [T * T]: exact where its vectors are stored, else within .004. */
function weights(view, p, s, l, h) {
  const exact = stored(view, p, s, l, h);
  if (exact) return exact.pattern;
  const { bytes, P, T } = view.prompts[p], out = new Float32Array(T * T);
  for (let i = 0, n = at(view, s, l, h) * P; i < T; i++) for (let j = 0; j <= i; j++) out[i * T + j] = SQUARES[bytes[n++]];
  return out;
}

/** How query i of a stored head weighs its T keys, stage by stage. In double precision, from the stored float32. */
function weigh(vector, i, normalize) {
  const { q, k, T, D } = vector, dots = [], scaled = [], masked = [], raw = [];
  const bias = vector.bias && [...vector.bias.subarray(i * T, (i + 1) * T)]; // what the position adds, or null
  let most = -Infinity, total = 0;
  for (let j = 0; j < T; j++) {
    let dot = 0;
    for (let c = 0; c < D; c++) dot += q[i * D + c] * k[j * D + c];
    dots.push(dot);
    scaled.push(dot / Math.sqrt(D));
    masked.push(j <= i ? scaled[j] + (bias ? bias[j] : 0) : -Infinity);
    most = Math.max(most, masked[j]);
  }
  for (let j = 0; j < T; j++) {
    raw.push(normalize === "relu" ? Math.max(masked[j], 0) : Math.exp(masked[j] - most));
    total += raw[j];
  }
  const divisor = normalize === "relu" ? i + 1 : total;
  return { dots, scaled, bias, masked, most, raw, divisor, weights: raw.map((x) => x / divisor) };
}

/** The same, and what comes of it: the sum of the weighted values up to each key, and z, the whole of it. */
function walk(vector, i, normalize) {
  const seen = weigh(vector, i, normalize), { v, D } = vector, z = new Array(D).fill(0);
  const running = seen.weights.map((weight, j) => {
    for (let c = 0; c < D; c++) z[c] += weight * v[j * D + c];
    return [...z];
  });
  return { ...seen, running, z };
}

/** Everything of a stored head at once: scores [T * T], their greatest size, and the greatest difference between the
    page's own weights and the model's. */
function whole(vector, normalize) {
  if (vector.whole) return vector.whole;
  const { T, pattern } = vector, scores = new Float32Array(T * T);
  let most = 1e-9, difference = 0;
  for (let i = 0; i < T; i++) {
    const seen = weigh(vector, i, normalize);
    for (let j = 0; j <= i; j++) {
      scores[i * T + j] = seen.scaled[j];
      most = Math.max(most, Math.abs(seen.scaled[j]));
      difference = Math.max(difference, Math.abs(seen.weights[j] - pattern[i * T + j]));
    }
  }
  return (vector.whole = { scores, most, difference });
}

/** The greatest size of any score that can be shown for a prompt: one scale for all its heads. */
function loudest(view, prompt) {
  prompt.loudest ??= Math.max(1e-9, ...[...prompt.vectors.values()].map((one) => whole(one, view.normalize).most));
  return prompt.loudest;
}

/** What is shown of one head: values [T * T] and the value of the strongest colour; null where nothing can be.
    Columns before `first` are hidden. */
function picture(view, p, s, l, h, show = state.show, hide = state.hide) {
  const prompt = view.prompts[p], { T } = prompt, first = hide ? 1 : 0;
  if (show === "scores") {
    const vector = stored(view, p, s, l, h);
    if (!vector) return null;
    return { T, first, values: whole(vector, view.normalize).scores, most: loudest(view, prompt), signed: true };
  }
  const plain = weights(view, p, s, l, h), changed = hide || show === "value", norms = at(view, s, l, h) * T;
  const values = changed ? plain.slice() : plain;
  for (let i = 0; i < T && changed; i++) {
    let sum = 0;
    for (let j = first; j <= i; j++) sum += values[i * T + j];
    for (let j = 0; j <= i; j++) {
      if (hide) values[i * T + j] *= j && sum ? 1 / sum : 0;
      if (show === "value") values[i * T + j] *= prompt.norms[norms + j];
    }
  }
  return { T, first, values, most: show === "value" ? prompt.greatest : 1, signed: false };
}

/* ---- Colours: one hue for weights, two for signed values, monotone in lightness, on a square-root scale. ---- */

const HUES = {
  light: { plain: ["f8fafc", "c3d8ee", "6aa5d8", "1f62ad", "06204a"], less: "1b6f8a", none: "f4f4f5", more: "b4431f" },
  dark: { plain: ["151a22", "1c3a63", "2f6cb0", "78b4ea", "f4faff"], less: "5cc3dd", none: "1d2129", more: "ff9d5c" },
};
let theme;

function setTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches, hues = HUES[dark ? "dark" : "light"];
  const rgb = (hex) => [0, 2, 4].map((n) => parseInt(hex.slice(n, n + 2), 16));
  const between = (stops, x) => {
    const n = Math.min(Math.floor(x * (stops.length - 1)), stops.length - 2), part = x * (stops.length - 1) - n;
    return rgb(stops[n]).map((c, i) => Math.round(c + (rgb(stops[n + 1])[i] - c) * part));
  };
  const table = (stops, size) => Array.from({ length: size }, (_, n) => between(stops, n / (size - 1)));
  const css = getComputedStyle(document.documentElement), look = (name) => css.getPropertyValue("--" + name).trim();
  theme = { plain: table(hues.plain, 256), signed: table([hues.less, hues.none, hues.more], 511) };
  for (const name of ["paper", "ink", "soft", "line", "masked", "hatch", "accent", "mono"]) theme[name] = look(name);
  const pack = ([r, g, b]) => 0xff000000 | (b << 16) | (g << 8) | r;
  const masked = pack(rgb(theme.masked.slice(1)));
  theme.pixels = { plain: theme.plain.map(pack), signed: theme.signed.map(pack), masked };
}

/** The place of a value among the colours. */
function level(x, most, sign) {
  const size = Math.round(255 * Math.sqrt(Math.min(1, Math.abs(x) / most)));
  return sign ? 255 + (x < 0 ? -size : size) : size;
}

/** Background and readable ink for one value. */
function shade(x, { most, signed: sign }) {
  const [r, g, b] = (sign ? theme.signed : theme.plain)[level(x, most, sign)];
  return { background: `rgb(${r},${g},${b})`, ink: 0.3 * r + 0.59 * g + 0.11 * b > 140 ? "#10141a" : "#ffffff" };
}

/** Draw a picture, one pixel for each weight, or for the greatest of pool x pool weights. */
function paint(canvas, seen, pool = 1) {
  const { T, values, first, most, signed: sign } = seen, n = Math.ceil(T / pool);
  if (canvas.width !== n) canvas.width = canvas.height = n;
  const context = canvas.getContext("2d"), image = context.createImageData(n, n);
  const pixels = new Uint32Array(image.data.buffer).fill(theme.pixels.masked);
  const best = new Float32Array(n * n).fill(-1), colours = sign ? theme.pixels.signed : theme.pixels.plain;
  for (let i = first; i < T; i++) {
    for (let j = first; j <= i; j++) {
      const x = values[i * T + j], place = ((i / pool) | 0) * n + ((j / pool) | 0), size = x < 0 ? -x : x;
      if (size <= best[place]) continue;
      best[place] = size;
      pixels[place] = colours[level(x, most, sign)];
    }
  }
  context.putImageData(image, 0, 0);
}

/** A canvas of a size in CSS pixels, sharp on any screen; its context, cleared. */
function fitted(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.width = width + "px";
  canvas.style.height = height + "px";
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return context;
}

/* ---- State: what was chosen, what the pointer previews, and the URL's hash. ---- */

let view, other = null; // this page's run, and one loaded from a file to compare with
const state = { prompt: 0, step: 0, layer: 0, head: 0, query: Infinity, key: 0, headLocked: false, cellLocked: false,
  show: "weights", hide: false, sort: "layer", up: false, metric: "", least: 0, flip: "reads", tab: "walk", stage: 0,
  mode: "steps", withStep: 0, withLayer: 0, withHead: 0, ranked: false };
const hover = { layer: null, head: null, query: null, key: null };
const CHOICES = { show: ["weights", "value", "scores"], flip: ["reads", "read"], tab: ["walk", "compare", "table"],
  mode: ["steps", "heads", "runs"] };
const FLAGS = ["hide", "up", "ranked"];
const metrics = () => [...new Set(view.prompts.flatMap((prompt) => Object.keys(prompt.scores)))];
const promptNow = () => view.prompts[state.prompt];

/** The selection on the screen: the preview where there is one. */
function now() {
  const most = promptNow().T - 1;
  return { p: state.prompt, s: state.step, l: hover.layer ?? state.layer, h: hover.head ?? state.head,
    i: Math.min(hover.query ?? state.query, most), j: Math.min(hover.key ?? state.key, most) };
}

/** The stored step nearest to a number. */
function nearest(steps, step) {
  return steps.reduce((best, x, n) => (Math.abs(x - step) < Math.abs(steps[best] - step) ? n : best), 0);
}

/** Take from {name: text} what makes sense, and leave the rest. The names taken. */
function adopt(given) {
  const taken = new Set();
  const number = (name) => (/^\d{1,15}$/.test(given[name] ?? "") ? Number(given[name]) : null);
  const upTo = (name, most) => (number(name) !== null && number(name) <= most ? number(name) : null);
  const take = (name, value) => {
    if (value === null) return;
    state[name] = value;
    taken.add(name);
  };
  const named = view.prompts.findIndex((prompt) => prompt.name === given.prompt);
  take("prompt", named >= 0 ? named : upTo("prompt", view.prompts.length - 1));
  for (const name of ["step", "withStep"]) if (number(name) !== null) take(name, nearest(view.steps, number(name)));
  for (const name of ["layer", "withLayer"]) take(name, upTo(name, view.L - 1));
  for (const name of ["head", "withHead"]) take(name, upTo(name, view.H - 1));
  take("query", upTo("query", promptNow().T - 1));
  state.query = Math.min(state.query, promptNow().T - 1);
  take("key", upTo("key", state.query));
  state.key = Math.min(state.key, state.query);
  take("stage", upTo("stage", STAGES.length - 1));
  for (const [name, allowed] of Object.entries(CHOICES)) if (allowed.includes(given[name])) state[name] = given[name];
  for (const name of FLAGS) if (given[name] !== undefined) state[name] = /^(1|true)$/i.test(given[name]);
  if (["layer", ...metrics()].includes(given.sort)) state.sort = given.sort;
  if (["", ...metrics()].includes(given.metric)) state.metric = given.metric;
  if (given.least && Number.isFinite(Number(given.least))) state.least = Number(given.least);
  if (given.locked !== undefined) {
    state.headLocked = given.locked.includes("head");
    state.cellLocked = given.locked.includes("cell");
  }
  if (/^(1|true)$/i.test(given.walk ?? "")) state.tab = "walk";
  return taken;
}

function hash() {
  const text = { prompt: promptNow().name, layer: state.layer, head: state.head, query: state.query, key: state.key,
    show: state.show, tab: state.tab };
  if (state.step < view.S - 1) text.step = view.steps[state.step]; // who is at the newest step goes on to newer ones
  if (state.headLocked || state.cellLocked)
    text.locked = (state.headLocked ? "head" : "") + (state.cellLocked ? "cell" : "");
  for (const name of FLAGS) if (state[name]) text[name] = 1;
  if (state.sort !== "layer") text.sort = state.sort;
  if (state.metric) Object.assign(text, { metric: state.metric, least: state.least });
  if (state.flip !== "reads") text.flip = state.flip;
  if (state.stage) text.stage = state.stage;
  if (state.tab === "compare") {
    const { mode, withLayer, withHead } = state, withStep = view.steps[Math.min(state.withStep, view.S - 1)];
    Object.assign(text, { mode, withStep, withLayer, withHead });
  }
  return "#" + new URLSearchParams(text);
}

let hashTimer = 0;
function rememberInHash() {
  clearTimeout(hashTimer); // browsers allow few changes in a short time
  hashTimer = setTimeout(() => {
    try {
      if (location.hash !== hash()) history.replaceState(null, "", hash());
    } catch { /* a sandbox may forbid it */ }
  }, 200);
}

function readHash() {
  return adopt(Object.fromEntries(new URLSearchParams(location.hash.slice(1))));
}

/* ---- Drawing: each part says what it depends on, and is drawn in the next frame if that changed. ---- */

const parts = [];
let frame = 0;

function refresh() {
  if (!frame) frame = requestAnimationFrame(draw);
}

function draw() {
  frame = 0;
  for (const part of parts) {
    const key = JSON.stringify(part.key());
    if (key === part.last) continue;
    part.last = key;
    part.draw();
  }
  rememberInHash();
}

/** Change the state by hand: the preview ends. */
function set(changes) {
  Object.assign(state, changes);
  Object.assign(hover, { layer: null, head: null, query: null, key: null });
  refresh();
}

function preview(changes) {
  Object.assign(hover, changes);
  refresh();
}

function redrawAll() {
  setTheme();
  for (const part of parts) part.last = null;
  refresh();
}

/* ---- 1. The top: prompt, what is shown, the scale, steps with the loss behind them. ---- */

const SHOWS = {
  weights: "Weights: how much a token takes from itself and each token before it.",
  value: "Weights times |v W_O|, the norm of what each token adds: a token with a small value adds little, however " +
    "large its weight.",
  scores: "Scores q·k / √d: how well query and key match, before softmax makes weights of them.",
};

const holdsVectors = () => view.prompts.some((prompt) => prompt.vectors.size);

function whyNoScores() {
  const p = promptNow(), { l, h } = now();
  if (!holdsVectors()) return "Scores need q and k, which this page does not hold.";
  if (state.show !== "scores" || stored(view, state.prompt, state.step, l, h)) return "";
  if (state.step !== view.S - 1) return `Scores are kept for the last step only, ${view.steps.at(-1)}.`;
  const held = [...p.vectors.keys()].join(", ");
  return `No scores of head ${l}.${h}: its q and k are not in this page. It holds those of ${held}.`;
}

parts.push({
  key: () => [state.prompt, state.show, state.hide, whyNoScores()],
  draw() {
    $("prompt").value = state.prompt;
    const scores = document.querySelector("[name=show][value=scores]");
    scores.disabled = !holdsVectors();
    document.querySelector(`[name=show][value=${state.show}]`).checked = true;
    $("hide").checked = state.hide;
    $("why").textContent = `${SHOWS[state.show]} ${whyNoScores()}`;
    drawScale();
  },
});

/** The colour scale, with values written where they stand. */
function drawScale() {
  const sign = state.show === "scores", prompt = promptNow();
  const most = sign ? loudest(view, prompt) : state.show === "value" ? prompt.greatest : 1;
  const colours = sign ? theme.pixels.signed : theme.pixels.plain, canvas = $("scale").querySelector("canvas");
  const context = canvas.getContext("2d"), image = context.createImageData(220, 1);
  const ramp = Array.from({ length: 220 }, (_, x) => colours[Math.floor((x / 220) * colours.length)]);
  new Uint32Array(image.data.buffer).set(ramp);
  context.putImageData(image, 0, 0);
  const marks = sign ? [-1, -0.25, 0, 0.25, 1] : [0, 0.1, 0.25, 0.5, 1];
  const place = (x) => (sign ? 50 + 50 * Math.sign(x) * Math.sqrt(Math.abs(x)) : 100 * Math.sqrt(x));
  $("ticks").replaceChildren(...marks.map((x) => {
    const tick = make("span", {}, most === 1 ? minus(String(x)) : minus(String(Number((x * most).toPrecision(2)))));
    tick.style.left = place(x) + "%";
    return tick;
  }));
  const name = { weights: "weight", value: "weight × |v W_O|", scores: "score q·k/√d" }[state.show];
  $("scale").setAttribute("aria-label", `Colour scale of ${name}: square root, ${sign ? -most : 0} to ${most}`);
  $("scale").title = `${name}; square-root scale, the same at every step`;
}

/** Where a training step stands between the logged ones, 0 to 1; these are evenly spaced, as the slider's stops are. */
function placeOf(step) {
  const { steps, S } = view, after = steps.findIndex((x) => x >= step);
  if (after <= 0) return after < 0 ? null : step === steps[0] ? 0 : null;
  return (after - 1 + (step - steps[after - 1]) / (steps[after] - steps[after - 1])) / (S - 1);
}

parts.push({
  key: () => [state.step, $("time").clientWidth, playing],
  draw() {
    const step = view.steps[state.step], single = view.S === 1;
    $("step").value = state.step;
    $("step").setAttribute("aria-valuetext", `step ${step}`);
    for (const id of ["play", "loss", "step"]) $(id).hidden = single;
    $("play").setAttribute("aria-pressed", playing);
    $("play").textContent = playing ? "❚❚ Pause" : "▶ Play";
    const place = single ? " — the only one in this page" : ` · ${state.step + 1} of ${view.S}`;
    const losses = Object.keys(view.losses).map((name) => lossAt(name, step));
    $("when").replaceChildren(strong(`step ${step}`), place, ...losses);
    if (!single) drawLosses();
  },
});

/** The latest loss up to a step, in words. */
function lossAt(name, step) {
  const point = view.losses[name].filter(([s, y]) => s <= step && y !== null).at(-1);
  if (!point) return "";
  return ` · ${name} loss ${point[1].toFixed(3)}${point[0] === step ? "" : ` (step ${point[0]})`}`;
}

function drawLosses() {
  const canvas = $("loss"), names = Object.keys(view.losses), inset = 8; // half of the slider's thumb
  const width = canvas.parentElement.clientWidth, height = names.length ? 64 : 22;
  const context = fitted(canvas, width, height), x = (place) => inset + place * (width - 2 * inset);
  const curves = names.map((name) => view.losses[name].map(([s, y]) => [placeOf(s), y])
    .filter(([place, y]) => place !== null && y !== null));
  const all = curves.flat().map(([, y]) => y), low = Math.min(...all), high = Math.max(...all);
  const y = (loss) => 14 + (1 - (loss - low) / (high - low || 1)) * (height - 22);
  context.font = "11px system-ui, sans-serif";
  context.strokeStyle = theme.line;
  for (let n = 0; n < view.S; n++) line(context, x(n / (view.S - 1)), height - 5, x(n / (view.S - 1)), height);
  curves.forEach((points, n) => {
    context.strokeStyle = n ? theme.ink : theme.soft;
    context.setLineDash(n ? [5, 3] : []);
    context.beginPath();
    for (const [place, loss] of points) context.lineTo(x(place), y(loss));
    context.stroke();
  });
  context.setLineDash([]);
  context.strokeStyle = theme.accent;
  line(context, x(state.step / (view.S - 1)), 12, x(state.step / (view.S - 1)), height);
  context.fillStyle = theme.soft;
  const range = all.length ? `from ${high.toFixed(2)} down to ${low.toFixed(2)}` : "none in this page";
  const legend = names.map((name, n) => `${n ? "- - " : "— "}${name} loss`);
  const says = [...legend, `${all.length ? "" : "losses: "}${range}`].join("   ");
  context.fillText(context.measureText(says).width < width - inset ? says : legend.join("   "), inset, 10);
  canvas.setAttribute("aria-label", `Loss curves: ${range}`);
}

function line(context, x1, y1, x2, y2) {
  context.beginPath();
  context.moveTo(x1, y1);
  context.lineTo(x2, y2);
  context.stroke();
}

let playing = false, playTimer = 0;
function play(on = !playing) {
  clearTimeout(playTimer);
  playing = on && view.S > 1;
  if (playing && state.step === view.S - 1) state.step = 0;
  const next = () => {
    if (state.step === view.S - 1) return play(false);
    state.step++;
    refresh();
    playTimer = setTimeout(next, pace());
  };
  const pace = () => (calm.matches ? 1500 : 450);
  if (playing) playTimer = setTimeout(next, pace());
  refresh();
}

function buildTop() {
  const { title, L, H, S, kv_heads: shared, stored: kept } = view;
  const some = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;
  $("title").textContent = visible(title);
  const groups = shared < H ? `, ${view.group} of them share each of ${shared} key/value heads` : "";
  $("facts").textContent = `${some(L, "layer")} of ${some(H, "head")}${groups} · ${some(S, "step")}` +
    (view.normalize === "softmax" ? "" : ` · ${view.normalize} attention`);
  const out = [], [steps, allSteps] = kept.steps, [heads, allHeads] = kept.heads;
  if (steps < allSteps) out.push(`${allSteps - steps} of ${allSteps} steps between the first and the last`);
  if (heads < allHeads)
    out.push(`the q, k and v of ${allHeads - heads} of ${allHeads} heads (they cannot be stepped through)`);
  if (kept.loss_stride > 1) out.push(`of the losses all but every ${ordinal(kept.loss_stride)}`);
  const size = $("data").textContent.length, megabytes = (bytes) => `${(bytes / 1e6).toFixed(bytes < 1e5 ? 3 : 1)} MB`;
  const still = size > kept.budget ? ` It holds ${megabytes(size)} all the same.` : "";
  $("notice").hidden = !out.length && !still;
  const what = out.join("; ") || "nothing";
  $("notice").textContent = `Left out, to keep this page within ${megabytes(kept.budget)}: ${what}.${still}`;
  const inputs = view.prompts.map(({ name, T }, n) => [n, `${visible(name)} (${T} tokens)`]);
  $("prompt").replaceChildren(...options([], inputs));
  $("step").max = S - 1;
}

/* ---- 2. The grid of heads. ---- */

let cells = []; // one for each head: its button, canvas, badges

function buildGrid() {
  cells = Array.from({ length: view.L * view.H }, (_, n) => {
    const l = Math.floor(n / view.H), h = n % view.H, canvas = make("canvas", { "aria-hidden": "true" });
    const badges = make("span", { class: "badges" });
    const number = make("span", { class: "number" }, `${l}.${h}`);
    const button = make("button", { class: "head", id: `head-${l}-${h}`, "data-layer": l, "data-head": h,
      onpointerenter: (event) => event.pointerType !== "touch" && !state.headLocked && preview({ layer: l, head: h }),
      onpointerleave: () => preview({ layer: null, head: null }),
      onclick: () => chooseHead(l, h) }, number, canvas, badges);
    return { l, h, button, canvas, badges, number };
  });
  $("sort").replaceChildren(...options(metrics(), [["layer", "by layer"]]));
  $("metric").replaceChildren(...options(metrics(), [["", "all heads"]]));
}

function chooseHead(l, h) {
  const same = state.headLocked && state.layer === l && state.head === h; // a second click lets go
  set({ layer: l, head: h, headLocked: !same });
}

const scoreOf = (name, l, h) => promptNow().scores[name]?.[at(view, state.step, l, h)] ?? NaN;

/** The width of one map in the grid: as much as there is, within reason. */
function thumbSize() {
  return Math.floor(clamp(($("grid").clientWidth - 58 - 10 * view.kv_heads) / view.H - 10, 44, 128));
}

/** Range of a metric over everything in the page, for the threshold. */
function rangeOf(name) {
  const all = view.prompts.flatMap((prompt) => prompt.scores[name] ?? []).filter(Number.isFinite);
  return [all.reduce((a, b) => Math.min(a, b), 0), all.reduce((a, b) => Math.max(a, b), 0) || 1];
}

parts.push({
  key: () => [state.sort, state.up, state.metric, state.least, state.prompt, state.step, thumbSize()],
  draw() {
    const room = Math.max(1, Math.floor(thumbSize() / 46)); // badges that fit
    const kept = ({ l, h }) => !state.metric || scoreOf(state.metric, l, h) >= state.least;
    for (const cell of cells) {
      const sortBadge = state.sort === "layer" ? [] : [state.sort];
      const strong = NAMED.filter((name) => scoreOf(name, cell.l, cell.h) >= 0.3)
        .sort((a, b) => scoreOf(b, cell.l, cell.h) - scoreOf(a, cell.l, cell.h));
      const wanted = [...new Set([...sortBadge, ...(state.metric ? [state.metric] : []), ...strong, "entropy"])];
      const shown = wanted.filter((name) => Number.isFinite(scoreOf(name, cell.l, cell.h)));
      const text = shown.map((name) => `${short(name)} ${brief(scoreOf(name, cell.l, cell.h))}`);
      cell.badges.textContent = text.slice(0, room).join("  ");
      cell.badges.title = text.join("\n");
      cell.button.classList.toggle("out", !kept(cell));
      cell.button.setAttribute("aria-label", `Layer ${cell.l} head ${cell.h}: ` +
        shown.map((name) => `${words(name)} ${scoreOf(name, cell.l, cell.h).toFixed(2)}`).join(", "));
    }
    if (state.sort === "layer") placeByLayer(); else placeSorted();
    const left = cells.filter(kept).length;
    $("count").textContent = state.metric ? `${left} of ${cells.length} heads` : "";
    $("sort").value = state.sort;
    $("metric").value = state.metric;
    $("up").hidden = state.sort === "layer";
    $("up").textContent = state.up ? "↑ lowest first" : "↓ highest first";
    $("up").setAttribute("aria-pressed", state.up);
    $("least").parentElement.hidden = !state.metric;
    if (state.metric) {
      const [low, high] = rangeOf(state.metric);
      Object.assign($("least"), { min: low, max: high, step: (high - low) / 100 });
      $("least").value = state.least;
      $("least-value").textContent = brief(state.least);
    }
  },
});

/** Layers as rows; heads that share keys and values under one bracket. */
function placeByLayer() {
  if ($("grid").dataset.order === "layer") return;
  $("grid").dataset.order = "layer";
  $("grid").replaceChildren(...Array.from({ length: view.L }, (_, l) => {
    const groups = Array.from({ length: view.kv_heads }, (_, g) => {
      const shared = view.group > 1, from = l * view.H + g * view.group, title = "They share keys and values";
      return make("div", { class: shared ? "group shared" : "group" },
        shared ? make("span", { class: "kv", title }, `k,v ${g}`) : "",
        cells.slice(from, from + view.group).map((cell) => cell.button));
    });
    return make("div", { class: "layer", "data-layer": l }, make("span", { class: "name" }, `layer ${l}`), groups);
  }));
}

function placeSorted() {
  const value = ({ l, h }) => scoreOf(state.sort, l, h), worst = state.up ? Infinity : -Infinity;
  const rank = (cell) => (Number.isFinite(value(cell)) ? value(cell) : worst);
  const order = [...cells].sort((a, b) => (state.up ? rank(a) - rank(b) : rank(b) - rank(a)) || a.l - b.l || a.h - b.h);
  const key = order.map(({ l, h }) => `${l}.${h}`).join();
  if ($("grid").dataset.order === key) return;
  $("grid").dataset.order = key;
  $("grid").replaceChildren(make("div", { class: "sorted" }, order.map((cell) => cell.button)));
}

parts.push({ // the maps themselves
  key: () => [state.prompt, state.step, state.show, state.hide, state.metric, state.least, $("grid").clientWidth],
  draw() {
    const thumb = thumbSize(), pool = Math.max(1, Math.floor(promptNow().T / (thumb * (devicePixelRatio || 1))));
    $("grid").style.setProperty("--thumb", thumb + "px");
    for (const cell of cells) {
      if (cell.button.classList.contains("out")) continue;
      const seen = picture(view, state.prompt, state.step, cell.l, cell.h);
      paint(cell.canvas, seen ?? { T: 1, values: [0], first: 1, most: 1 }, pool);
      cell.canvas.style.imageRendering = cell.canvas.width < thumb ? "pixelated" : "auto";
      const none = make("i", { title: "q and k of this head are not in this page" }, "–");
      const shared = view.group > 1 && state.sort !== "layer" && thumb > 70;
      const group = shared ? make("i", {}, `k,v ${Math.floor(cell.h / view.group)}`) : "";
      cell.number.replaceChildren(`${cell.l}.${cell.h}`, seen ? group : none);
    }
  },
});

parts.push({ // which head is chosen
  key: () => [now().l, now().h, state.layer, state.head],
  draw() {
    const { l, h } = now();
    for (const cell of cells) {
      const chosen = cell.l === state.layer && cell.h === state.head;
      cell.button.setAttribute("aria-pressed", chosen);
      cell.button.tabIndex = chosen ? 0 : -1;
      cell.button.classList.toggle("preview", cell.l === l && cell.h === h && !chosen);
    }
    const focused = $("grid").contains(document.activeElement); // the focus goes with the choice
    if (focused) $(`head-${state.layer}-${state.head}`).focus({ preventScroll: true });
  },
});

/* ---- 3. The chosen map. ---- */

let frameOfMap; // where the map stands on its canvas, in CSS pixels
const mapKey = () => [state.prompt, state.step, now().l, now().h, state.show, state.hide];
let seenKey, seenPicture;

/** The picture of the head on the screen; null where there is none. */
function pictureNow() {
  const key = mapKey().join();
  if (key !== seenKey) {
    const { p, s, l, h } = now();
    [seenKey, seenPicture] = [key, picture(view, p, s, l, h)];
  }
  return seenPicture;
}

parts.push({
  key: () => [...mapKey(), $("mapbox").clientWidth],
  draw() {
    const { l, h } = now(), prompt = promptNow(), { T } = prompt, seen = pictureNow();
    const width = Math.max(120, $("mapbox").clientWidth); // a hidden page has none
    const longest = Math.max(...prompt.shown.map((label) => label.length));
    const margin = clamp(longest * 8 + 12, 28, Math.min(width * 0.24, 104));
    const fit = Math.min(width - margin - 4, 400) / T, cell = fit >= 3 ? Math.floor(Math.min(fit, 40)) : fit;
    const side = cell * T, top = margin;
    frameOfMap = { left: margin, top, cell, side, width, height: top + side + 4 };
    const context = fitted($("map"), width, frameOfMap.height), small = document.createElement("canvas");
    fitted($("over"), width, frameOfMap.height);
    if (seen) {
      paint(small, seen);
      context.imageSmoothingEnabled = false;
      context.drawImage(small, margin, top, side, side);
    }
    hatch(context, T, cell, margin, top, seen ? seen.first : T);
    context.strokeStyle = theme.line;
    context.strokeRect(margin - 0.5, top - 0.5, side + 1, side + 1);
    context.font = "12px system-ui, sans-serif";
    const every = Math.ceil(11 / cell);
    for (let n = 0; n < T; n += every) for (const axis of ["query", "key"]) axisLabel(context, axis, n, theme.ink);
    if (seen && side > 220) note(context, "masked: the future", margin + side * 0.7, top + side * 0.16);
    if (!seen) note(context, "no scores of this head here", margin + side * 0.5, top + side * 0.5);
    const shared = view.group > 1 ? `, keys and values ${Math.floor(h / view.group)}` : "";
    const place = `layer ${l}, head ${h}${shared}`;
    $("map-title").replaceChildren(`Head ${l}.${h} `, make("small", { class: "soft" }, place));
    const scores = Object.keys(prompt.scores).map((name) => [name, scoreOf(name, l, h)]);
    $("chips").replaceChildren(...scores.filter(([, x]) => Number.isFinite(x)).map(([name, x]) =>
      make("span", { "data-metric": name, title: x }, `${words(name)} `, strong(brief(x)))));
  },
});

/** Words on a piece of paper, centred at x, y. */
function note(context, text, x, y) {
  context.textAlign = "center";
  const half = context.measureText(text).width / 2 + 6;
  context.fillStyle = theme.paper;
  context.fillRect(x - half, y - 13, 2 * half, 19);
  context.fillStyle = theme.soft;
  context.fillText(text, x, y);
}

/** Hatch what may not be seen: the future, and what comes before column `first`. */
function hatch(context, T, cell, left, top, first) {
  const stripe = document.createElement("canvas");
  stripe.width = stripe.height = 6;
  const pen = stripe.getContext("2d");
  pen.fillStyle = theme.masked;
  pen.fillRect(0, 0, 6, 6);
  pen.strokeStyle = theme.hatch;
  for (const x of [-6, 0, 6]) line(pen, x, 6, x + 6, 0);
  context.fillStyle = context.createPattern(stripe, "repeat");
  context.beginPath();
  for (let i = 0; i < T; i++) context.rect(left + (i + 1) * cell, top + i * cell, (T - i - 1) * cell, cell);
  if (first >= T) for (let i = 0; i < T; i++) context.rect(left, top + i * cell, (i + 1) * cell, cell);
  else if (first) context.rect(left, top, cell, T * cell);
  context.fill();
}

/** A token beside its row or above its column, cut to the room there is. */
function axisLabel(context, axis, n, colour, paper = null) {
  const { left, top, cell } = frameOfMap, size = clamp(cell, 10, 12), room = left - 8, label = promptNow().shown[n];
  context.save();
  context.font = `${paper ? "bold " : ""}${size}px ${theme.mono}`;
  let text = label;
  while (text.length > 1 && context.measureText(text).width > room)
    text = [...text].slice(0, text === label ? -1 : -2).join("") + "…";
  const width = context.measureText(text).width, middle = (n + 0.5) * cell, upright = [...label].length === 1;
  if (axis === "query") context.translate(left - 5, top + middle);
  else context.translate(left + middle, top - (upright ? 11 : 5));
  if (axis === "key" && !upright) context.rotate(-Math.PI / 2);
  context.textAlign = axis === "query" ? "right" : upright ? "center" : "left";
  context.textBaseline = "middle";
  const start = axis === "query" ? -width : upright ? -width / 2 : 0;
  if (paper) { context.fillStyle = paper; context.fillRect(start - 3, -9, width + 6, 18); }
  context.fillStyle = colour;
  context.fillText(text, 0, 0.5);
  context.restore();
}

parts.push({ // the crosshair and the words about it
  key: () => [...mapKey(), now().i, now().j, state.headLocked, state.cellLocked, $("mapbox").clientWidth],
  draw() {
    const { i, j } = now(), prompt = promptNow(), { left, top, cell, side, width, height } = frameOfMap;
    const context = $("over").getContext("2d");
    context.clearRect(0, 0, width, height);
    context.strokeStyle = theme.accent;
    context.lineWidth = Math.min(1.5, cell / 3);
    context.globalAlpha = 0.55;
    context.strokeRect(left, top + i * cell, side, cell);
    context.strokeRect(left + j * cell, top, cell, side);
    context.globalAlpha = 1;
    context.lineWidth = state.cellLocked ? 3 : 2;
    context.strokeRect(left + j * cell, top + i * cell, cell, cell);
    axisLabel(context, "query", i, theme.accent, theme.paper);
    axisLabel(context, "key", j, theme.accent, theme.paper);
    const what = [state.headLocked && "head", state.cellLocked && "cell"].filter(Boolean).join(" and ");
    $("lock").textContent = what ? `Unlock ${what}` : "Lock";
    $("lock").setAttribute("aria-pressed", Boolean(what));
    const seen = pictureNow();
    $("readout").replaceChildren(...readout(seen, i, j));
    $("readout").dataset.value = seen && j <= i && j >= seen.first ? seen.values[i * prompt.T + j] : "";
    const says = `Attention map, ${$("readout").textContent} Arrow keys move; the same row stands below as a table.`;
    $("over").setAttribute("aria-label", says);
  },
});

/** What stands under the pointer, in words. */
function readout(seen, i, j) {
  const { p, s, l, h } = now(), prompt = promptNow(), { T } = prompt;
  const says = (number, ...small) => [
    make("p", {}, tokenName(prompt, i), ` (${i}) attends to `, tokenName(prompt, j), ` (${j}): `,
      make("b", { class: "big", id: "value" }, number)),
    make("p", { class: "soft small", id: "rank" }, small.join(" · "))];
  if (j > i) return says("masked", "It comes later: no token attends to later tokens.");
  if (!seen) return says("?", whyNoScores());
  if (j < seen.first) return says("hidden", "The first token is left out; the other weights of a row add up to 1.");
  const value = seen.values[i * T + j], row = seen.values.subarray(i * T + seen.first, i * T + i + 1);
  const rank = `${ordinal(row.filter((x) => x > value).length + 1)} of ${row.length} keys`;
  const weight = weights(view, p, s, l, h)[i * T + j], norm = prompt.norms[at(view, s, l, h) * T + j];
  if (state.show === "scores") return says(fixed(value), rank, `q·k / √d; the weight is ${fixed(weight)}`);
  const more = view.normalize === "relu" && weight === 1; // beyond the scale
  const rough = more ? "the weight is stored as 1, and may be more" : "weight stored in 8 bits, right to ±.004";
  const how = stored(view, p, s, l, h) ? "exact" : rough;
  return says(fixed(value), rank, ...(state.show === "value" ? [`a weight times |v W_O| = ${fixed(norm)}`] : []), how);
}

/** The cell under a pointer, in the map that fills `box` [left, top, cell] of an element; null beside it. */
function cellAt(event, left, top, cell) {
  const [i, j] = [event.offsetY - top, event.offsetX - left].map((x) => Math.floor(x / cell)), { T } = promptNow();
  return i >= 0 && j >= 0 && i < T && j < T ? { query: i, key: j } : null;
}

function listenToMap() {
  const under = (event) => cellAt(event, frameOfMap.left, frameOfMap.top, frameOfMap.cell);
  $("over").addEventListener("pointermove", (event) => {
    if (!state.cellLocked && event.pointerType !== "touch") preview(under(event) ?? { query: null, key: null });
  });
  $("over").addEventListener("pointerleave", () => preview({ query: null, key: null }));
  $("over").addEventListener("click", (event) => chooseCell(under(event)));
}

function chooseCell(cell) {
  if (!cell || cell.key > cell.query) return; // the future cannot be chosen
  const same = state.cellLocked && state.query === cell.query && state.key === cell.key;
  set({ ...cell, cellLocked: !same });
}

/* ---- 4. The text. ---- */

let tokens = [];

parts.push({
  key: () => [state.prompt],
  draw() {
    const prompt = promptNow();
    tokens = prompt.shown.map((label, n) => make("span", {
      class: n < prompt.fresh ? "token" : "token fresh", id: `token-${n}`, role: "button", "data-token": n,
      onpointerenter: (event) => event.pointerType !== "touch" && !state.cellLocked && preview(pointed(n)),
      onpointerleave: () => preview({ query: null, key: null }),
      onclick: () => chooseToken(n),
      onkeydown: (event) => event.key === " " && (event.preventDefault(), chooseToken(n)),
    }, label));
    const arcs = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    arcs.id = "arcs";
    arcs.setAttribute("aria-hidden", "true");
    const breaks = tokens.flatMap((token, n) => (prompt.labels[n].includes("⏎") ? [token, make("br")] : [token]));
    $("text").replaceChildren(...breaks, arcs);
    $("fresh").hidden = prompt.fresh === prompt.T;
    $("note").textContent = prompt.note;
  },
});

/** Pointing at a token points at its row, or at its column where the view is flipped; the other end stays visible. */
function pointed(n) {
  const { i, j } = now();
  return state.flip === "reads" ? { query: n, key: Math.min(j, n) } : { query: Math.max(i, n), key: n };
}

function chooseToken(n) {
  Object.assign(hover, { query: null, key: null });
  const cell = pointed(n), same = state.cellLocked && cell.query === state.query && cell.key === state.key;
  set({ ...cell, cellLocked: !same });
}

parts.push({
  key: () => [...mapKey(), now().i, now().j, state.flip, $("text").clientWidth],
  draw() {
    const { i, j } = now(), seen = pictureNow(), prompt = promptNow(), { T } = prompt, reads = state.flip === "reads";
    const from = reads ? i : j, allowed = (n) => (reads ? n <= from && n >= (seen?.first ?? 0) : n >= from);
    const value = (n) => (seen && allowed(n) ? seen.values[reads ? from * T + n : n * T + from] : NaN);
    document.querySelector(`[name=flip][value=${state.flip}]`).checked = true;
    tokens.forEach((token, n) => {
      const x = value(n), colours = Number.isFinite(x) ? shade(x, seen) : { background: "transparent", ink: "inherit" };
      token.style.background = colours.background;
      token.style.color = colours.ink;
      token.classList.toggle("far", !allowed(n));
      token.classList.toggle("from", n === from);
      token.tabIndex = n === from ? 0 : -1;
      token.title = Number.isFinite(x) ? `${n}: ${fixed(x)}` : `${n}`;
    });
    const best = [...tokens.keys()].filter((n) => value(n) >= 0.05 * seen?.most)
      .sort((a, b) => value(b) - value(a)).slice(0, 4);
    drawArcs(from, best.filter((n) => n !== from), (n) => value(n) / seen.most);
    $("top").replaceChildren(tokenName(prompt, from), reads ? " reads most from " : " is read most by ",
      ...best.flatMap((n, k) => [k ? " · " : "", tokenName(prompt, n), strong(` ${fixed(value(n), 2)}`)]),
      best.length ? "" : "no token in particular");
  },
});

/** Arcs from a token to those that matter most, above the line. */
function drawArcs(from, ends, strength) {
  const middle = (n) => [tokens[n].offsetLeft + tokens[n].offsetWidth / 2, tokens[n].offsetTop];
  const [x1, y1] = middle(from);
  $("arcs").replaceChildren(...ends.map((n) => {
    const [x2, y2] = middle(n), rise = clamp(Math.abs(x2 - x1) / 5, 8, 30);
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", `M ${x1} ${y1} C ${x1} ${y1 - rise}, ${x2} ${y2 - rise}, ${x2} ${y2}`);
    path.setAttribute("stroke-width", 1 + 3 * strength(n));
    path.setAttribute("stroke-opacity", 0.35 + 0.6 * strength(n));
    return path;
  }));
}

/* ---- 5. One head, step by step. Each stage adds columns to a table of the keys. ---- */

const SHOWN_KEYS = 40; // rows of the table; of more keys, those of the greatest weights
const STAGES = [ // the explanation of each stage for query i, key j, vectors of D numbers, and the walk w
  { name: "q and k", explain: ({ D }) => [`Every token has a query q and a key k of ${D} numbers each. The query is compared
    with the keys of all tokens up to its own. (Positions and norms, if there are any, are already applied.)`] },
  { name: "q·k", explain: ({ j, w, terms }) => [`Multiply the query by each key, number by number, and add: how well they
    match. Here `, code(`${terms} = ${fixed(w.dots[j], 4)}`)] },
  { name: "÷ √d", explain: ({ j, w, D }) => ["Divide by √d, so that the size does not depend on the width d. Here ",
    code(`${fixed(w.dots[j], 4)} / √${D} = ${fixed(w.scaled[j], 4)}`)] },
  { name: "mask", explain: ({ j, w }) => [...(w.bias ? ["First add the bias of the position, which depends on the distance. Here ",
    code(`${fixed(w.scaled[j], 4)} + ${fixed(w.bias[j], 4)} = ${fixed(w.masked[j], 4)}`), ". "] : []),
    "A token cannot attend to later tokens: their scores become −∞, their weights 0."] },
  { name: "softmax", explain: ({ j, w }) => [`Make weights of the scores: raise e to each (less the greatest, so that
    nothing overflows), then divide by the sum. They add up to 1. Here `,
    code(`exp(${fixed(w.masked[j], 4)} − ${fixed(w.most, 4)}) / ${fixed(w.divisor, 4)} = ${fixed(w.weights[j], 4)}`)] },
  { name: "× v", explain: ({ j, w, D }) => [`Every token has a value v, ${D} numbers: what queries that attend to it receive.
    Multiply each value by its weight, here by `, code(fixed(w.weights[j], 4)), "."] },
  { name: "sum: z", explain: () => [`Add them up, key after key. The last sum is z, the output of this head for the
    query. W_O maps it to what the head adds to the residual stream.`] },
];
const RELU = { name: "relu", explain: ({ i, j, w }) => [`Make weights of the scores: negative ones become 0, and all are
  divided by the number of visible keys. Here `,
  code(`max(${fixed(w.masked[j], 4)}, 0) / ${i + 1} = ${fixed(w.weights[j], 4)}`)] };
const stages = () => STAGES.map((stage) => (stage.name === "softmax" && view.normalize === "relu" ? RELU : stage));

parts.push({
  key: () => [state.tab, state.stage, ...(state.tab === "walk" ? [...mapKey().slice(0, 4), now().i, now().j] : [])],
  draw() {
    const panels = ["walk", "compare", "table"];
    for (const name of panels) {
      $(`panel-${name}`).hidden = name !== state.tab;
      $(`tab-${name}`).setAttribute("aria-selected", name === state.tab);
      $(`tab-${name}`).tabIndex = name === state.tab ? 0 : -1;
    }
    if (state.tab === "walk") drawWalk();
  },
});

function drawWalk() {
  const { p, s, l, h, i } = now(), prompt = promptNow(), vector = stored(view, p, s, l, h);
  $("walk").hidden = !vector;
  $("unwalkable").hidden = Boolean(vector);
  if (!vector) return $("unwalkable").replaceChildren(...whyNoWalk());
  const j = Math.min(now().j, i), w = walk(vector, i, view.normalize), { D } = vector, stage = stages()[state.stage];
  const term = (c) => `${fixed(vector.q[i * D + c], 2)}·${fixed(vector.k[j * D + c], 2)}`;
  const terms = [...Array(Math.min(D, 3)).keys()].map(term).join(" + ") + (D > 3 ? " + …" : "");
  $("walk-title").replaceChildren(`What head ${l}.${h} does for the query `, tokenName(prompt, i),
    ` (${i}). Examples are for the key `, tokenName(prompt, j), ` (${j}).`);
  const difference = whole(vector, view.normalize).difference.toExponential(1);
  $("check").textContent = `Self-check: this head's weights, computed here, differ from the model's by at most ` +
    `${difference}.`;
  $("previous").disabled = state.stage === 0;
  $("next").disabled = state.stage === STAGES.length - 1;
  $("stages").replaceChildren(...stages().map(({ name }, n) => make("button",
    { "data-stage": n, "aria-current": n === state.stage ? "step" : null, onclick: () => set({ stage: n }) },
    `${n + 1}  ${name}`)));
  $("explanation").replaceChildren(strong(`${state.stage + 1}. ${stage.name}. `), ...stage.explain({ i, j, w, D, terms }));
  drawKeys(vector, w, i, j);
  const table = $("keys"), box = table.parentElement, row = table.querySelector("tr.at");
  const fresh = [...table.querySelectorAll("th.now")].at(-1); // keep the new column and the example's row in sight
  box.scrollLeft = fresh.offsetLeft + fresh.offsetWidth - box.clientWidth;
  box.scrollTop = row ? row.offsetTop - box.clientHeight / 2 : 0;
  $("result").textContent = state.stage < 6 ? "" : `z = [${w.z.map((x) => fixed(x, 4)).join(", ")}]`;
}

function whyNoWalk() {
  const { l, h, s } = now(), held = [...promptNow().vectors.keys()], last = view.S - 1;
  const go = (key, text, changes) => [make("button", { "data-go": key, onclick: () => set(changes) }, text), " "];
  if (!held.length)
    return ["This page holds no queries, keys and values of this prompt, so no head can be stepped through."];
  if (s !== last && held.includes(`${l}.${h}`))
    return ["Queries, keys and values are kept for the last step only. ",
      ...go("last", `Go to step ${view.steps[last]}`, { step: last })];
  return [`Head ${l}.${h} cannot be stepped through: its q, k and v are not in this page. These heads can: `,
    ...held.flatMap((key) => {
      const [layer, head] = key.split(".").map(Number);
      return go(key, key, { layer, head, step: last });
    })];
}

/** The keys shown for query i: all, or those of the greatest weights, and the first few later ones. */
function keysOf(w, i, T) {
  const all = [...Array(T).keys()], seen = all.slice(0, i + 1), order = (a, b) => w.weights[b] - w.weights[a];
  const kept = seen.length <= SHOWN_KEYS ? seen : [...seen].sort(order).slice(0, SHOWN_KEYS).sort((a, b) => a - b);
  return { kept, later: all.slice(i + 1, i + 4), unseen: i + 1 - kept.length, more: Math.max(0, T - i - 4) };
}

/** The columns that a stage and those before it have added: how each shows key j. */
function columnsOf({ q, k, v, D }, w, stage) {
  const size = (x) => x.reduce((most, y) => Math.max(most, Math.abs(y)), 1e-9);
  const part = (x, j) => x.subarray(j * D, (j + 1) * D);
  const sizeK = Math.max(size(q), size(k)), sizeV = size(v), number = (name) => (j) => fixed(w[name][j], 4);
  const bar = (x) => Object.assign(make("span", { class: "bar" }), { style: `width: ${clamp(60 * x, 0, 60)}px` });
  const raw = view.normalize === "relu" ? "max(score, 0)" : "exp";
  const columns = [
    { from: 0, head: "k", cell: (j) => strip(part(k, j), sizeK) },
    { from: 1, head: "q·k", name: "dots", cell: number("dots") },
    { from: 2, head: "÷ √d", name: "scaled", cell: number("scaled") },
    ...(w.bias ? [{ from: 3, head: "bias", name: "bias", cell: number("bias") }] : []),
    { from: 3, head: "masked", name: "masked", cell: number("masked") },
    { from: 4, head: raw, name: "raw", cell: number("raw") },
    { from: 4, head: "weight", name: "weights", cell: (j) => [bar(w.weights[j]), fixed(w.weights[j], 4)] },
    { from: 5, head: "v", cell: (j) => strip(part(v, j), sizeV) },
    { from: 5, head: "weight × v", cell: (j) => strip(part(v, j).map((x) => x * w.weights[j]), sizeV) },
    { from: 6, head: "running sum", cell: (j) => strip(w.running[j], sizeV) },
  ];
  return { columns: columns.filter((one) => one.from <= stage), sizeK, sizeV };
}

/** The table of keys. */
function drawKeys(vector, w, i, chosen) {
  const { T, D, q } = vector, prompt = promptNow(), { stage } = state, { kept, later, unseen, more } = keysOf(w, i, T);
  const { columns, sizeK, sizeV } = columnsOf(vector, w, stage), mark = (one) => (one.from === stage ? "now" : null);
  const cell = (one, j) => make("td",
    { class: mark(one), "data-column": one.name, "data-value": one.name && w[one.name][j] }, one.cell(j));
  const row = (j) => make("tr", { "data-key": j, class: j > i ? "later" : j === chosen ? "at" : null },
    make("th", { scope: "row" }, `${j} `, tokenName(prompt, j)), columns.map((one) => cell(one, j)));
  const says = (text) => make("tr", { class: "later" },
    make("td", { colspan: columns.length + 1, style: "text-align: left" }, text));
  const z = () => make("tr", { class: "at" }, make("th", { scope: "row" }, "z"),
    make("td", { colspan: columns.length - 1 }), make("td", { class: "now" }, strip(w.z, sizeV)));
  $("legend").replaceChildren("q of ", tokenName(prompt, i), " ", strip(q.subarray(i * D, (i + 1) * D), sizeK),
    `  d = ${D}. Colours: `, strip([-1, -0.3, 0, 0.3, 1], 1), ` ±${sizeK.toFixed(1)} in q and k, ` +
    `±${sizeV.toFixed(1)} in v; point at a strip for its numbers.`);
  $("keys").replaceChildren(
    make("thead", {}, make("tr", {}, column("key", "left"), columns.map((one) => column(one.head, mark(one))))),
    make("tbody", {},
      unseen ? says(`The ${SHOWN_KEYS} keys of the greatest weights; the other ${unseen} count in every sum.`) : "",
      kept.map(row), later.map(row),
      more ? says(`and ${more} more later token${more > 1 ? "s" : ""}${stage >= 3 ? ", all −∞" : ""}`) : "", stage === 6 ? z() : ""));
}

/** Numbers as a row of coloured cells. */
function strip(numbers, most) {
  const title = [...numbers].map((x) => fixed(x)).join("  ");
  const canvas = make("canvas", { class: "strip", width: numbers.length, height: 1, title });
  canvas.style.width = clamp(numbers.length * 5, 24, 112) + "px";
  const context = canvas.getContext("2d"), image = context.createImageData(numbers.length, 1);
  new Uint32Array(image.data.buffer).set([...numbers].map((x) => theme.pixels.signed[level(x, most, true)]));
  context.putImageData(image, 0, 0);
  return canvas;
}

/* ---- 6. Compare: two steps, two heads or two runs, and their difference. ---- */

/** What A, the selection, is compared with: a view and places in it; null with the reason where there is nothing. */
function counterpart() {
  const { p, s, l, h } = now();
  const mine = Math.min(state.withStep, view.S - 1);
  if (state.mode === "steps") return { from: view, p, s: mine, l, h, name: `step ${view.steps[mine]}` };
  if (state.mode === "heads") {
    const { withLayer, withHead } = state;
    return { from: view, p, s, l: withLayer, h: withHead, name: `head ${withLayer}.${withHead}` };
  }
  if (!other) return { why: "Choose another run's view.html. It is read here and goes nowhere." };
  const same = other.prompts.findIndex((one) => one.labels.join("\u0000") === promptNow().labels.join("\u0000"));
  if (same < 0) return { why: "That page has no prompt of the same tokens as this one." };
  if (l >= other.L || h >= other.H) return { why: `That run has no head ${l}.${h}.` };
  const step = clamp(state.withStep, 0, other.S - 1);
  return { from: other, p: same, s: step, l, h, name: `${visible(other.title)}, step ${other.steps[step]}` };
}

parts.push({
  key: () => state.tab === "compare" && [...mapKey(), now().i, now().j, state.mode, state.withStep, state.withLayer,
    state.withHead, other?.loaded, $("panel-compare").clientWidth],
  draw() {
    if (state.tab !== "compare") return;
    const b = counterpart(), seenA = pictureNow(), seenB = b.why ? null : picture(b.from, b.p, b.s, b.l, b.h);
    drawCompareControls();
    document.querySelector(".maps").hidden = !seenA || !seenB;
    if (seenA && seenB) drawCompare(seenA, seenB, b.name);
    else $("compare-summary").textContent = b.why ?? "Scores can be compared only where q and k of both are stored.";
  },
});

function drawCompareControls() {
  const runs = state.mode === "runs", { steps } = runs && other ? other : view;
  document.querySelector(`[name=mode][value=${state.mode}]`).checked = true;
  $("with-file-label").hidden = !runs;
  $("with-head-label").hidden = state.mode !== "heads";
  $("with-step-label").hidden = state.mode === "heads" || (runs && !other);
  $("with-step").replaceChildren(...options([], steps.map((step, n) => [n, step])));
  $("with-step").value = clamp(state.withStep, 0, steps.length - 1);
  $("with-head").value = `${state.withLayer}.${state.withHead}`;
}

function drawCompare(seenA, seenB, nameB) {
  const { i, j, l, h, s } = now(), prompt = promptNow(), { T } = prompt, most = Math.max(seenA.most, seenB.most);
  const values = seenA.values.map((x, n) => seenB.values[n] - x);
  const maps = { a: { ...seenA, most }, b: { ...seenB, most }, d: { ...seenA, most, values, signed: true } };
  const step = `step ${view.steps[s]}`;
  const nameA = { steps: step, heads: `head ${l}.${h}`, runs: `${visible(view.title)}, ${step}` }[state.mode];
  for (const [name, text] of Object.entries({ a: ["A", ` ${nameA}: `], b: ["B", ` ${nameB}: `], d: ["B − A", ": "] })) {
    const seen = maps[name], x = seen.values[i * T + j], show = seen.signed ? signed(x) : fixed(x);
    const number = j <= i && j >= seen.first ? make("b", { "data-value": x }, show) : "masked";
    $(`caption-${name}`).replaceChildren(strong(text[0]), text[1], number);
    $(`map-${name}`).setAttribute("aria-label", $(`caption-${name}`).textContent);
    drawCompared($(`map-${name}`), seen, i, j);
  }
  const ramp = strip([-1, -0.6, -0.3, -0.1, 0, 0.1, 0.3, 0.6, 1], 1);
  $("ramp").replaceChildren(`less in B, −${brief(most)} `, ramp, ` +${brief(most)}, more in B`);
  const great = values.reduce((best, x, n) => (Math.abs(x) > Math.abs(values[best]) ? n : best), 0);
  const row = Math.floor(great / T);
  $("compare-summary").replaceChildren("Greatest difference: ", strong(signed(values[great])), ", where ",
    tokenName(prompt, row), ` (${row}) attends to `, tokenName(prompt, great % T), ` (${great % T}).`);
}

/** A map of the compare panel, as large as its place, with the crosshair. */
function drawCompared(canvas, seen, i, j) {
  const small = document.createElement("canvas"), side = canvas.clientWidth - 2, cell = side / seen.T;
  const ratio = devicePixelRatio || 1;
  canvas.width = canvas.height = Math.max(1, Math.round(side * ratio));
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  paint(small, seen);
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, side, side);
  hatch(context, seen.T, cell, 0, 0, seen.first);
  context.strokeStyle = theme.accent;
  context.lineWidth = 1.5;
  context.strokeRect(j * cell, i * cell, cell, cell);
  context.globalAlpha = 0.4;
  context.strokeRect(0, i * cell, side, cell);
  context.strokeRect(j * cell, 0, cell, side);
}

function listenToCompare() {
  for (const name of ["a", "b", "d"]) {
    const under = (event) => cellAt(event, 0, 0, (event.target.clientWidth - 2) / promptNow().T);
    $(`map-${name}`).addEventListener("pointermove", (event) => {
      if (!state.cellLocked && event.pointerType !== "touch") preview(under(event) ?? {});
    });
    $(`map-${name}`).addEventListener("pointerleave", () => preview({ query: null, key: null }));
    $(`map-${name}`).addEventListener("click", (event) => chooseCell(under(event)));
  }
  $("with-head").replaceChildren(...cells.map(({ l, h }) => make("option", { value: `${l}.${h}` }, `${l}.${h}`)));
  $("with-head").addEventListener("change", () => {
    const [withLayer, withHead] = $("with-head").value.split(".").map(Number);
    set({ withLayer, withHead });
  });
  $("with-step").addEventListener("change", () => set({ withStep: Number($("with-step").value) }));
  $("with-file").addEventListener("change", async () => {
    const [file] = $("with-file").files;
    if (!file) return;
    try {
      const page = new DOMParser().parseFromString(await file.text(), "text/html"); // runs nothing
      other = Object.assign(await open(page.getElementById("data").textContent), { loaded: Date.now() });
      set({ withStep: other.S - 1 });
    } catch {
      other = null;
      $("compare-summary").textContent = `${visible(file.name)} is not a page like this one.`;
    }
  });
}

/* ---- 7. One row as a table. ---- */

parts.push({
  key: () => (state.tab === "table" ? [...mapKey(), now().i, now().j, state.ranked] : []),
  draw() {
    if (state.tab !== "table") return;
    const { p, s, l, h, i, j } = now(), prompt = promptNow(), { T } = prompt, vector = stored(view, p, s, l, h);
    const row = (show) => picture(view, p, s, l, h, show)?.values.subarray(i * T, i * T + i + 1);
    const columns = [["weight", row("weights")], ["value-weighted", row("value")], ["q·k/√d", vector && row("scores")]]
      .filter(([, values]) => values);
    const main = row(state.show) ?? row("weights"), rank = (n) => main.filter((x) => x > main[n]).length + 1;
    const order = [...main.keys()].slice(state.hide ? 1 : 0);
    if (state.ranked) order.sort((a, b) => main[b] - main[a]);
    const cell = (name, x) => make("td", { "data-column": name, "data-value": x }, fixed(x, 4));
    $("ranked").checked = state.ranked;
    $("row").replaceChildren(
      make("caption", {}, `Head ${l}.${h}, step ${view.steps[s]}: what `, tokenName(prompt, i), ` (${i}) reads`),
      make("thead", {}, make("tr", {}, column("key", "left"), columns.map(([name]) => column(name)), column("rank"))),
      make("tbody", {}, order.map((n) => make("tr", { "data-key": n, class: n === j ? "at" : null },
        make("th", { scope: "row" }, `${n} `, tokenName(prompt, n)),
        columns.map(([name, values]) => cell(name, values[n])), make("td", {}, rank(n))))));
  },
});

/* ---- Keys: what they do, and the words of the help. ---- */

function move(query, key) {
  const { i, j } = now(), most = promptNow().T - 1;
  const to = clamp(i + query, 0, most);
  set({ query: to, key: clamp(j + key, 0, to) });
}

const turn = (n, by, size) => (n + by + size) % size;
const stepBy = (by) => { play(false); set({ step: clamp(state.step + by, 0, view.S - 1) }); };
const headBy = (by) => set({ head: turn(now().h, by, view.H), layer: now().l });
const layerBy = (by) => set({ layer: turn(now().l, by, view.L), head: now().h });
function lock() {
  const { l, h, i, j } = now();
  if (state.headLocked && state.cellLocked) return unlock();
  set({ layer: l, head: h, query: i, key: Math.min(i, j), headLocked: true, cellLocked: true });
}
const unlock = () => set({ headLocked: false, cellLocked: false });
function stepThrough() {
  const { top, bottom } = $("explanation").getBoundingClientRect(); // in sight, and so open?
  const seen = state.tab === "walk" && bottom > top && top > 0 && bottom < innerHeight;
  set(seen ? { stage: turn(state.stage, 1, STAGES.length) } : { tab: "walk" });
  if (!seen) $("tab-walk").scrollIntoView({ behavior: calm.matches ? "auto" : "smooth", block: "start" });
}

const KEYS = [
  { keys: { ArrowUp: () => move(-1, 0), ArrowDown: () => move(1, 0) }, shown: "↑ ↓", words: "the query" },
  { keys: { ArrowLeft: () => move(0, -1), ArrowRight: () => move(0, 1) }, shown: "← →", words: "the key" },
  { keys: { "[": () => headBy(-1), "]": () => headBy(1) }, shown: "[ ]", words: "the head" },
  { keys: { "{": () => layerBy(-1), "}": () => layerBy(1) }, shown: "{ }", words: "the layer" },
  { keys: { ",": () => stepBy(-1), ".": () => stepBy(1) }, shown: ", .", words: "the step of training" },
  { keys: { " ": () => play() }, shown: "space", words: "play the steps, or pause" },
  { keys: { Enter: lock, Escape: unlock }, shown: "Enter Esc", words: "lock what is under the pointer, unlock" },
  { keys: { w: stepThrough }, shown: "w", words: "step through the head; again: the next stage" },
  { keys: { "?": () => $("help").showModal() }, shown: "?", words: "this help" },
];

/** Keys that a control in focus needs for itself. */
function ownKey(element, key) {
  if (element.matches("select, input[type=file]")) return true;
  if (element.matches("input")) return key.startsWith("Arrow") || key === " " || key === "Enter";
  if (element.matches("button, summary, a")) return key === " " || key === "Enter";
  if (element.matches("[role=button]")) return key === " ";
  return element.matches(".scroll") && key.startsWith("Arrow");
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  const action = KEYS.map(({ keys }) => keys[event.key]).find(Boolean);
  if (!action || ownKey(event.target, event.key) || (event.key === " " && view.S === 1)) return;
  event.preventDefault();
  action();
}

function listen() {
  const on = (id, type, handler) => $(id).addEventListener(type, handler);
  for (const name of ["show", "flip", "mode"]) on(name, "change", (event) => set({ [name]: event.target.value }));
  on("prompt", "change", () => set(cellFor(Number($("prompt").value))));
  on("hide", "change", () => set({ hide: $("hide").checked }));
  on("step", "input", () => { play(false); set({ step: Number($("step").value) }); });
  on("play", "click", () => play());
  on("sort", "change", () => set({ sort: $("sort").value }));
  on("up", "click", () => set({ up: !state.up }));
  on("metric", "change", () => set({ metric: $("metric").value, least: Math.max(0, rangeOf($("metric").value)[0]) }));
  on("least", "input", () => set({ least: Number($("least").value) }));
  on("lock", "click", () => (state.headLocked || state.cellLocked ? unlock() : lock()));
  on("previous", "click", () => set({ stage: state.stage - 1 }));
  on("next", "click", () => set({ stage: state.stage + 1 }));
  on("ranked", "change", () => set({ ranked: $("ranked").checked }));
  on("help-open", "click", () => $("help").showModal());
  on("help-close", "click", () => $("help").close()); // no form: a sandbox would block it
  const tabs = CHOICES.tab;
  tabs.forEach((name, n) => {
    on(`tab-${name}`, "click", () => set({ tab: name }));
    on(`tab-${name}`, "keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by) return;
      event.stopPropagation();
      set({ tab: tabs[turn(n, by, tabs.length)] });
      $(`tab-${state.tab}`).focus();
    });
  });
  listenToMap();
  listenToCompare();
  document.addEventListener("keydown", onKey);
  addEventListener("resize", refresh);
  addEventListener("hashchange", () => { readHash(); set({}); });
  for (const query of ["(prefers-color-scheme: dark)", "(min-resolution: 2dppx)"])
    matchMedia(query).addEventListener("change", redrawAll);
  $("keys-list").replaceChildren(...KEYS.flatMap(({ shown, words: says }) => [
    make("dt", {}, shown.split(" ").flatMap((key) => [make("kbd", {}, key), " "])), make("dd", {}, says)]));
}

/** A prompt, and the cell that fits it: the last token and what it reads most. */
function cellFor(p, query = view.prompts[p].T - 1) {
  const { T } = view.prompts[p], all = weights(view, p, state.step, state.layer, state.head);
  const row = all.subarray(query * T, query * T + query + 1);
  return { prompt: p, query, key: row.indexOf(Math.max(...row)) };
}

/* ---- Start. ---- */

/** The head that most clearly does something with a name, of those that can be stepped through if there are any. */
function mostTelling() {
  const { scores, vectors } = promptNow(), found = [{ layer: 0, head: 0, x: -1 }];
  for (const { l: layer, h: head } of cells) {
    if (vectors.size && !vectors.has(`${layer}.${head}`)) continue;
    for (const name of NAMED.filter((one) => one !== "first_token" && scores[one]))
      found.push({ layer, head, x: scores[name][at(view, view.S - 1, layer, head)] });
  }
  const { layer, head } = found.filter(({ x }) => !Number.isNaN(x)).reduce((best, one) => (one.x > best.x ? one : best));
  return { layer, head };
}

async function start() {
  view = await open($("data").textContent);
  setTheme();
  buildGrid();
  Object.assign(state, { step: view.S - 1, withHead: view.H > 1 ? 1 : 0 });
  const given = Object.fromEntries(Object.entries(view.start).map(([name, value]) => [name, String(value)]));
  const said = new Set([...adopt(given), ...readHash()]);
  if (!said.has("layer") && !said.has("head")) Object.assign(state, mostTelling());
  if (!said.has("key")) Object.assign(state, cellFor(state.prompt, state.query));
  buildTop();
  listen();
  $("app").hidden = $("help-open").hidden = false;
  draw();
  if (view.start.walk && !location.hash) $("tab-walk").scrollIntoView();
}

/** For tests and the console: reads, changes nothing. */
const ready = start().catch((error) => {
  $("notice").hidden = false;
  $("notice").textContent = `The maps cannot be shown: ${error.message}. The numbers stand below.`;
  throw error;
});
Object.defineProperty(window, "headwise", { value: Object.freeze({
  ready,
  get state() { return { ...state, now: now() }; },
  get check() { // the greatest difference of any stored head's weights from the model's
    const heads = view.prompts.flatMap((prompt) => [...prompt.vectors.values()]);
    return Math.max(...heads.map((one) => whole(one, view.normalize).difference));
  },
  weight: (s, p, l, h, i, j) => weights(view, p, s, l, h)[i * view.prompts[p].T + j],
  place(i, j) { // the middle of a cell of the map, in the window
    const box = $("over").getBoundingClientRect(), { left, top, cell } = frameOfMap;
    return [box.left + left + (j + 0.5) * cell, box.top + top + (i + 0.5) * cell];
  },
  walk: (p, l, h, i) => structuredClone(walk(view.prompts[p].vectors.get(`${l}.${h}`), i, view.normalize)),
  luminance: () => theme.plain.map(([r, g, b]) => 0.2126 * r + 0.7152 * g + 0.0722 * b),
}) });
