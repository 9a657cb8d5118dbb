// Generation with its dials; the distribution at a token, and what guidance changed.

import { Plot, chart } from "../ui/chart.js";
import { choice, seedField, slider, status, toggle } from "../ui/controls.js";
import { debounced, h, say } from "../ui/dom.js";
import { picture, strip, tokenMaps } from "../ui/pictures.js";

const STAGES = [["none", "no class"], ["with_class", "with class"], ["guided", "guided"], ["kept", "after top-k and top-p"]];

export function start(root, lab) {
  const said = status("The models are loading.");
  const body = h("div", { style: "min-height: 44rem" });
  root.append(body, said);
  lab.whenSeen(root, async (about) => {
    const desk = new Desk(lab, about, said);
    body.replaceChildren(desk.element);
    await desk.draw();
  });
}

class Desk {
  constructor(lab, about, said) {
    Object.assign(this, { lab, about, said, at: null, tokens: [], changed: [] });
    const redraw = debounced(() => this.draw()), defaults = about.sampling, off = (value, word) => (value ? word(value) : "off");
    this.dials = {
      label: choice({ label: "Class", options: about.class_names.map((name, at) => [at, name]), value: about.class_names.indexOf("coinrun"), onchange: redraw }),
      seed: seedField({ value: 3, onchange: redraw }),
      guidance: slider({ label: "Guidance", min: 0, max: 10, step: 0.5, value: defaults.guidance, oninput: redraw }),
      topK: slider({ label: "Top-k", min: 0, max: 10, step: 1, value: 0, show: (value) => off(value, (v) => String(2 ** v)), oninput: redraw }),
      topP: slider({ label: "Top-p", min: 0.3, max: 1, step: 0.05, value: defaults.top_p || 1, show: (value) => (value >= 1 ? "off" : value.toFixed(2)), oninput: redraw }),
      temperature: slider({ label: "Temperature", min: 0.1, max: 2, step: 0.1, value: 1, show: (value) => value.toFixed(1), oninput: redraw }),
      ramp: toggle({ label: "Guidance over the scales", value: "rising", options: [["rising", "rising"], ["constant", "constant"]], onchange: redraw }),
    };
    this.guided = picture({ caption: "with these dials", label: "The image with these dials", large: true });
    this.plain = picture({ caption: "same noise, no guidance", label: "The image of the same noise without guidance", large: true });
    this.strip = strip(about.scaleNames, "Generated image");
    this.maps = tokenMaps({ scales: about.scales, label: "Drawn tokens", onpick: (part, place) => this.look(part, place), caption: false });
    this.strip.element.classList.add("roomy");
    this.maps.element.classList.add("roomy");
    this.heading = h("h3", {}, "Probabilities at a token: choose one above");
    this.chart = chart({ height: 300, label: "Probabilities of the likeliest codes at a token" });
    this.differs = h("p", { class: "note", style: "margin: 0.5rem 0 1.2rem" }, "Framed tokens: guidance changed the draw.");
    const { label, seed, ...rest } = this.dials;
    this.element = h("div", {},
      h("div", { class: "controls" }, label.element, seed.element, rest.ramp.element),
      h("div", { class: "controls" }, rest.guidance.element, rest.topK.element, rest.topP.element, rest.temperature.element),
      this.strip.element, h("div", { style: "margin-top: 0.4rem" }, this.maps.element), this.differs,
      h("div", { class: "split" }, h("div", {}, this.heading, this.chart.element,
        h("p", { class: "note", style: "margin: 0" }, "Bar: what was drawn from, after the cuts. Upright line: guided, before them. Plus: with the class. Circle: without. Triangle: the code that was drawn.")),
        h("div", { class: "pictures", style: "grid-template-columns: repeat(2, minmax(0, 256px)); align-content: start" }, this.guided.element, this.plain.element)));
  }

  settings() {
    const { guidance, topK, topP, temperature, ramp } = this.dials;
    return {
      guidance: guidance.value, temperature: temperature.value, top_k: topK.value ? 2 ** topK.value : 0, top_p: topP.value >= 1 ? 0 : topP.value,
      ...(ramp.value === "constant" && { ramp: this.about.parts.map(() => 1) }),
    };
  }

  async draw() {
    const { about, lab } = this, settings = this.settings(), label = Number(this.dials.label.value), seed = this.dials.seed.value;
    const name = about.class_names[label];
    this.tokens = [];
    let changed = 0;
    const tell = ({ part, tokens, frame, milliseconds, moved }) => {
      this.tokens.push(tokens);
      this.strip.pictures[part].show(frame);
      this.maps.paint(part, tokens, about.colour);
      this.maps.flag(part, moved);
      changed += moved.filter(Boolean).length;
      this.guided.show(frame, `${name}, seed ${seed}, after scale ${about.scaleNames[part]}`);
      say(this.said, `${name}, seed ${seed}: scale ${part + 1} of ${about.parts.length}, ${Math.round(milliseconds)} ms of transformer.`);
    };
    const done = await lab.engine.ask("generate", { model: "demo", run: "generate", label, seed, settings }, { tell, key: "generate" });
    if (!done) return;
    say(this.differs, `Framed: ${changed} of ${about.parts.reduce((a, b) => a + b)} tokens that the same noise would have drawn differently without guidance at that pass.`);
    await this.look(...(this.at ?? [2, 4]));
    const last = about.parts.length;
    await lab.engine.ask("generate", { model: "demo", label, seed, settings: { ...settings, guidance: 0 }, every: last },
      { key: "generate", tell: ({ frame }) => frame && this.plain.show(frame) });
  }

  async look(part, place) {
    if (this.tokens.length < this.about.parts.length) return;
    this.at = [part, place];
    this.maps.mark(part, place);
    const found = await this.lab.engine.ask("position", { run: "generate", part, place }, { key: "position" });
    if (!found) return;
    const width = this.about.scales[part][1], order = found.rows.map((row) => row.token);
    say(this.heading, `Scale ${this.about.scaleNames[part]}, row ${Math.floor(place / width) + 1}, column ${(place % width) + 1}: code ${found.drawn} was drawn, ${found.left} of ${this.about.codebook_size} were left`);
    const bars = found.rows.map((row) => ({ ...row, code: String(row.token) }));
    const ticks = found.rows.flatMap((row) => STAGES.slice(0, 2).filter(([key]) => row[key] !== null).map(([key, stage]) => ({ code: String(row.token), share: row[key], stage })));
    this.chart.draw(() => ({
      marginLeft: 62, marginBottom: 34, marginTop: 8,
      x: { label: null, tickFormat: (value) => `${Math.round(100 * value)} %`, ticks: 5, domain: [0, Math.max(0.02, ...bars.map((row) => Math.max(row.kept, row.guided, row.with_class ?? 0)))] },
      y: { domain: order.map(String), label: null, tickSize: 0, tickFormat: (code) => (Number(code) === found.drawn ? `▸ ${code}` : code) },
      symbol: { domain: ["no class", "with class"], range: ["circle", "plus"], legend: false },
      marks: [
        Plot.gridX({ stroke: "var(--line)", strokeOpacity: 1, ticks: 5 }),
        Plot.barX(bars, { y: "code", x: "kept", fill: (row) => this.about.colour(row.token), insetTop: 1, insetBottom: 1, rx: 2, stroke: (row) => (row.token === found.drawn ? "var(--ink)" : "none"), strokeWidth: 2 }),
        Plot.tickX(bars, { y: "code", x: "guided", stroke: "var(--ink)", strokeWidth: 1.5, insetTop: 3, insetBottom: 3 }),
        Plot.dot(ticks, { y: "code", x: "share", symbol: "stage", stroke: "var(--accent)", strokeWidth: 1.6, r: 4 }),
      ],
    }), `Codes by probability: ${found.rows.slice(0, 5).map((row) => `${row.token} ${(100 * row.kept).toFixed(1)} percent`).join(", ")}`);
  }
}
