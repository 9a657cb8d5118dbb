// Editing without training: paint a hole, draw the surroundings, or keep coarse scales and change the class.

import { button, choice, seedField, slider, status, toggle } from "../ui/controls.js";
import { debounced, h, say } from "../ui/dom.js";
import { picture, strip } from "../ui/pictures.js";
import { STILLS, pictureSource } from "../ui/source.js";

const SIDE = 64, AREA = SIDE * SIDE;
const SHAPES = {
  "Middle": (x, y) => x >= 20 && x < 44 && y >= 20 && y < 44,
  "Top half": (x, y) => y < 32,
  "Left half": (x) => x < 32,
};

export function start(root, lab) {
  const body = h("div", { style: "min-height: 46rem" }), said = status("The models are loading.");
  root.append(body, said);
  lab.whenSeen(root, async (about) => {
    const bench = new Bench(lab, about, said, root);
    body.replaceChildren(bench.element);
    await bench.source.pick(STILLS[0]);
  });
}

class Bench {
  constructor(lab, about, said, zone) {
    Object.assign(this, { lab, about, said, hole: new Uint8Array(AREA), undo: [], rgba: null });
    this.fillShape("Middle");
    this.source = pictureSource({ zone, onpicture: (given) => this.take(given) });
    const redraw = debounced(() => this.draw(), 250);
    this.task = toggle({
      label: "What to do", value: "in", onchange: () => this.retask(),
      options: [["in", "In-paint"], ["out", "Out-paint"], ["class", "Keep coarse scales, change the class"]],
    });
    this.label = choice({ label: "Class", value: "none", onchange: redraw, options: [[about.unconditional, "no class"], ...about.class_names.map((name, at) => [at, name])] });
    this.seed = seedField({ value: 1, onchange: redraw });
    this.guidance = slider({ label: "Guidance", min: 0, max: 8, step: 0.5, value: 1.5, oninput: redraw });
    this.keep = slider({ label: "Scales kept", min: 0, max: about.parts.length, value: 3, show: (value) => `${value} of ${about.parts.length}`, oninput: redraw });
    this.window = slider({ label: "Picture's size", min: 24, max: 56, step: 8, value: 40, show: (value) => `${value} of 64`, oninput: () => { this.place(); redraw(); } });
    this.brush = slider({ label: "Brush", min: 2, max: 20, value: 8, show: (value) => `${value} pixels` });
    this.canvas = h("canvas", {
      width: SIDE, height: SIDE, role: "img", "aria-label": "The picture and the hole that is painted", style: "max-width: 320px; touch-action: none; cursor: crosshair",
      onpointerdown: (event) => this.stroke(event), onpointermove: (event) => event.buttons && this.stroke(event), onpointerup: () => this.draw(),
    });
    this.result = picture({ caption: "drawn", label: "The edited picture" });
    this.result.canvas.style.maxWidth = "320px";
    this.strip = strip(about.scaleNames, "Edited picture");
    const shapes = Object.keys(SHAPES).map((name) => button(name, () => { this.fillShape(name); this.draw(); }, { kind: "quiet" }));
    this.tools = h("div", { class: "row" }, ...shapes, button("Invert", () => { this.hole = this.hole.map((value) => 1 - value); this.draw(); }, { kind: "quiet" }),
      button("Clear", () => { this.hole.fill(0); this.paint(); }, { kind: "quiet" }));
    this.go = button("Draw", () => this.draw(), { kind: "main" });
    const onward = button("Edit the result", () => this.onward()), back = button("Undo", () => this.back());
    Object.assign(this, { onwardButton: onward, backButton: back });
    back.disabled = onward.disabled = true;
    this.element = h("div", {}, this.source.element,
      h("div", { class: "controls" }, this.task.element, this.label.element, this.seed.element),
      h("div", { class: "controls" }, this.guidance.element, this.brush.element, this.window.element, this.keep.element),
      h("div", { class: "pictures", style: "grid-template-columns: repeat(2, minmax(0, 320px))" },
        h("figure", { class: "picture" }, this.canvas, h("figcaption", {}, "the picture; the tinted part is drawn anew")), this.result.element),
      h("div", { class: "controls", style: "margin: 1rem 0" }, this.tools, h("div", { class: "row" }, this.go, onward, back)), this.strip.element);
    this.retask(false);
  }

  fillShape(name) {
    this.hole = Uint8Array.from({ length: AREA }, (_, at) => Number(SHAPES[name](at % SIDE, Math.floor(at / SIDE))));
    if (this.canvas) this.paint();
  }

  async take({ rgba, error, label }) {
    this.said.classList.toggle("failed", Boolean(error));
    if (error) return say(this.said, error);
    this.base = rgba;
    if (this.task.value !== "class") this.label.value = label === null ? this.about.unconditional : this.about.class_names.indexOf(label);
    this.place();
    await this.draw();
  }

  retask(redraw = true) {
    const task = this.task.value;
    for (const [part, wanted] of [[this.tools, task === "in"], [this.brush.element, task === "in"], [this.window.element, task === "out"], [this.keep.element, task === "class"]]) part.hidden = !wanted;
    this.canvas.style.cursor = task === "in" ? "crosshair" : "default";
    if (task === "in") this.fillShape("Middle");
    if (task === "class") {
      this.hole.fill(1);
      this.label.value = this.about.class_names.indexOf("maze");
    }
    if (!redraw) return;
    this.place();
    this.draw();
  }

  /** The picture as it is edited: itself, or shrunk to the middle. */
  place() {
    if (!this.base) return;
    this.rgba = this.base;
    if (this.task.value === "out") {
      const side = this.window.value, start = (SIDE - side) / 2;
      const whole = new OffscreenCanvas(SIDE, SIDE), small = new OffscreenCanvas(SIDE, SIDE), context = small.getContext("2d", { willReadFrequently: true });
      whole.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(this.base), SIDE, SIDE), 0, 0);
      context.imageSmoothingQuality = "high";
      context.fillRect(0, 0, SIDE, SIDE);
      context.drawImage(whole, start, start, side, side);
      this.rgba = context.getImageData(0, 0, SIDE, SIDE).data;
      this.hole = Uint8Array.from({ length: AREA }, (_, at) => Number([at % SIDE, Math.floor(at / SIDE)].some((value) => value < start || value >= SIDE - start)));
    }
    this.paint();
  }

  paint() {
    if (!this.rgba) return;
    const shown = new Uint8ClampedArray(this.rgba), [r, g, b] = [232, 58, 140];
    if (this.task.value !== "class") {
      this.hole.forEach((value, at) => {
        if (value) [r, g, b].forEach((tint, c) => (shown[4 * at + c] = (shown[4 * at + c] + tint) / 2));
      });
    }
    this.canvas.getContext("2d").putImageData(new ImageData(shown, SIDE, SIDE), 0, 0);
  }

  stroke(event) {
    if (this.task.value !== "in") return;
    if (event.type === "pointerdown") this.canvas.setPointerCapture(event.pointerId);
    const box = this.canvas.getBoundingClientRect(), radius = this.brush.value / 2;
    const x = ((event.clientX - box.left) / box.width) * SIDE, y = ((event.clientY - box.top) / box.height) * SIDE;
    for (let at = 0; at < AREA; at++) if (Math.hypot((at % SIDE) + 0.5 - x, Math.floor(at / SIDE) + 0.5 - y) <= radius) this.hole[at] = 1;
    this.paint();
  }

  async draw() {
    if (!this.rgba) return;
    this.paint();
    if (!this.hole.some(Boolean)) return say(this.said, "Nothing is to be drawn: paint a hole first.");
    const { about, rgba, hole } = this, task = this.task.value;
    const given = { rgba, hole: Uint8Array.from(hole), label: Number(this.label.value), seed: this.seed.value, settings: { guidance: this.guidance.value }, keepScales: task === "class" ? this.keep.value : 0 };
    let last;
    const tell = ({ part, frame }) => {
      last = frame;
      this.strip.pictures[part].show(frame);
      this.result.show(frame);
      say(this.said, `Scale ${part + 1} of ${about.parts.length}.`);
    };
    const done = await this.lab.engine.ask("edit", given, { tell, key: "edit" });
    if (!done) return;
    this.drawn = last;
    this.onwardButton.disabled = false;
    let changed = 0;
    for (let at = 0; at < AREA; at++) if (!hole[at] && [0, 1, 2].some((c) => last[4 * at + c] !== rgba[4 * at + c])) changed++;
    const kept = AREA - hole.reduce((a, b) => a + b, 0);
    say(this.said, task === "class"
      ? `${this.keep.value} coarse scales are the picture's; the finer ones are drawn as ${this.label.input.selectedOptions[0].text}.`
      : `${AREA - kept} pixels drawn. Of the ${kept} others, ${changed} changed.`);
  }

  onward() {
    this.undo.push(this.base);
    this.base = this.drawn;
    this.backButton.disabled = false;
    this.place();
  }

  back() {
    this.base = this.undo.pop();
    this.backButton.disabled = !this.undo.length;
    this.place();
  }
}
