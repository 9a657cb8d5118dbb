// A mask is painted over an image: brush, rectangle, eraser, undo, invert, clear, with mouse, finger or keyboard.
// `props.value.mask` is the mask as a PNG, opaque where it is painted, or "" where nothing is.
const find = selector => element.querySelector(selector);
const image = find("img"), canvas = find("canvas"), ring = find(".ring"), size = find("input"), said = find("output");
const pen = canvas.getContext("2d", { willReadFrequently: true });
const LEAST = 512, HEIGHT = 420, KEPT = 10, STEP = 0.04;
let tool = "brush", past = [], at = null, corner = null, before = null;

const copy = () => pen.getImageData(0, 0, canvas.width, canvas.height);
const width = () => (size.value / 100) * Math.max(canvas.width, canvas.height);

function keep() {
  past = [...past.slice(1 - KEPT), copy()];
}

function report() {
  const pixels = copy().data;
  let painted = 0;
  for (let i = 3; i < pixels.length; i += 4) painted += pixels[i] > 127;
  const share = (400 * painted) / pixels.length;
  said.textContent = painted ? `${share < 1 ? "Under 1" : Math.round(share)} % painted` : "Nothing painted";
  props.value = { ...props.value, mask: painted ? canvas.toDataURL("image/png") : "" };
}

function choose(name) {
  tool = name;
  for (const one of element.querySelectorAll("[data-tool]")) one.setAttribute("aria-pressed", one.dataset.tool === name);
  show();
}

// The ring shows the brush, or the corner, where it would paint.
function show() {
  const box = canvas.getBoundingClientRect(), scale = box.width / canvas.width || 1;
  const side = tool === "rectangle" ? 10 : width() * scale;
  ring.hidden = !at;
  if (at) ring.style.cssText = `width:${side}px;height:${side}px;left:${at.x * scale}px;top:${at.y * scale}px`;
}

function stroke(from, to) {
  pen.globalCompositeOperation = tool === "eraser" ? "destination-out" : "source-over";
  pen.lineCap = pen.lineJoin = "round";
  pen.lineWidth = width();
  pen.beginPath();
  pen.moveTo(from.x, from.y);
  pen.lineTo(to.x + 0.01, to.y); // of no length it would draw nothing
  pen.stroke();
}

function fill(from, to) {
  pen.putImageData(before, 0, 0);
  pen.globalCompositeOperation = "source-over";
  pen.fillRect(Math.min(from.x, to.x), Math.min(from.y, to.y), Math.abs(to.x - from.x), Math.abs(to.y - from.y));
}

function begin(place) {
  keep();
  before = past.at(-1);
  corner = at = place;
  if (tool !== "rectangle") stroke(place, place);
}

function go(place) {
  if (corner) tool === "rectangle" ? fill(corner, place) : stroke(at, place);
  at = place;
  show();
}

function end() {
  if (corner) report();
  corner = null;
}

const acts = {
  undo: () => past.length && pen.putImageData(past.pop(), 0, 0),
  clear: () => { keep(); pen.clearRect(0, 0, canvas.width, canvas.height); },
  invert: () => { keep(); pen.globalCompositeOperation = "xor"; pen.fillRect(0, 0, canvas.width, canvas.height); },
};

function act(name) {
  corner = null;
  acts[name]();
  report();
}

// Another image, or another mask for it, has come from the server.
function open() {
  if (!image.complete || !image.naturalWidth) return;
  const factor = Math.max(1, Math.ceil(LEAST / Math.max(image.naturalWidth, image.naturalHeight)));
  canvas.width = image.naturalWidth * factor;
  canvas.height = image.naturalHeight * factor;
  const aspect = canvas.width / canvas.height;
  find(".easel").style.cssText = `aspect-ratio: ${aspect}; width: min(100%, ${HEIGHT * aspect}px)`;
  pen.fillStyle = pen.strokeStyle = "#ff3366";
  past = [];
  at = corner = null;
  choose("brush");
  const painted = new Image();
  painted.onload = () => { pen.globalCompositeOperation = "source-over"; pen.drawImage(painted, 0, 0, canvas.width, canvas.height); report(); };
  painted.onerror = report;
  painted.src = image.dataset.mask || "data:,";
}

const place = event => {
  const box = canvas.getBoundingClientRect();
  return {
    x: ((event.clientX - box.left) * canvas.width) / box.width,
    y: ((event.clientY - box.top) * canvas.height) / box.height,
  };
};
canvas.addEventListener("pointerdown", event => {
  if (event.button) return;
  event.preventDefault();
  canvas.focus({ preventScroll: true });
  canvas.setPointerCapture(event.pointerId);
  begin(place(event));
});
canvas.addEventListener("pointermove", event => go(place(event)));
for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, end);
canvas.addEventListener("pointerleave", () => { if (!corner) at = null; show(); });

canvas.addEventListener("keydown", event => {
  const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if ((event.ctrlKey || event.metaKey) && event.key === "z") act("undo");
  else if (event.key === " " || event.key === "Enter") {
    const here = at ?? { x: canvas.width / 2, y: canvas.height / 2 };
    if (corner) end();
    else {
      begin(here);
      if (tool !== "rectangle") end();
    }
    show();
  } else if (move) {
    const step = STEP * Math.max(canvas.width, canvas.height) * (event.shiftKey ? 0.25 : 1);
    const from = at ?? { x: canvas.width / 2, y: canvas.height / 2 };
    const within = (value, most) => Math.min(most, Math.max(0, value));
    go({ x: within(from.x + move[0] * step, canvas.width), y: within(from.y + move[1] * step, canvas.height) });
  } else return;
  event.preventDefault();
});
element.addEventListener("click", event => {
  const button = event.target.closest("button");
  if (button?.dataset.tool) choose(button.dataset.tool);
  else if (button?.dataset.act) act(button.dataset.act);
});
image.addEventListener("load", open);
new MutationObserver(open).observe(image, { attributes: true, attributeFilter: ["data-version"] });
open();
