// Teacher forcing: what each token of a picture costs, and a game of guessing the next map.

import figures from "../data/figures.json";
import { Plot, chart } from "../ui/chart.js";
import { button, choice, slider, status } from "../ui/controls.js";
import { h, say } from "../ui/dom.js";
import { picture, tokenMaps } from "../ui/pictures.js";
import { STILLS, pictureSource } from "../ui/source.js";
import { colour, onTheme } from "../ui/theme.js";

const WRONG = 3; // maps beside the true one
const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;

export function start(root, lab) {
  const said = status("The models are loading.");
  const source = pictureSource({ zone: root, onpicture: (given) => take(given) });
  const loss = chart({ height: 230, label: "Loss of each scale" });
  const place = h("div", { style: "min-height: 8rem" });
  let about, label, maps, tokens = null, nats = null;
  const body = h("div", {}, source.element, h("div", { class: "controls" }),
    h("div", { class: "split" }, h("div", {}, h("h3", {}, "Nats a token, by scale"), loss.element),
      h("div", {}, h("h3", {}, "Nats of each token: full colour is a surprise"), place)));
  const game = new Game(lab, () => ({ about, tokens, label: Number(label.value) }));
  root.append(body, game.element, said);

  lab.whenSeen(root, async (model) => {
    about = model;
    label = choice({ label: "Class that the model is told", value: 0, onchange: () => follow(), options: [...about.class_names.map((name, at) => [at, name]), [about.unconditional, "no class"]] });
    body.querySelector(".controls").append(label.element);
    maps = tokenMaps({ scales: about.scales, label: "Nats of tokens", onhover: (part, at) => nats && say(said, `Scale ${about.scaleNames[part]}: this token costs ${nats[part][at].toFixed(2)} nats; the model gave it ${(100 * Math.exp(-nats[part][at])).toFixed(1)} %.`) });
    maps.element.style.gridTemplateColumns = "repeat(4, minmax(0, 1fr))";
    place.replaceChildren(maps.element);
    game.begin(about);
    await source.pick(STILLS[1]);
  });
  onTheme(() => nats && paint());

  async function take({ rgba, error, label: name, note }) {
    said.classList.toggle("failed", Boolean(error));
    if (error) return say(said, error);
    const result = await lab.engine.ask("tokenise", { rgba }, { key: "training" });
    if (!result) return;
    tokens = result.tokens;
    label.value = name === null ? about.unconditional : about.class_names.indexOf(name);
    await follow();
    say(said, note);
    await game.round();
  }

  async function follow() {
    if (!tokens) return;
    const found = await lab.engine.ask("follow", { tokens, label: Number(label.value) }, { key: "follow" });
    if (!found) return;
    nats = found.nats;
    paint();
  }

  function paint() {
    const blank = colour("--sunken"), ink = colour("--accent");
    nats.forEach((values, part) => maps.paint(part, values, (value) => `color-mix(in oklab, ${ink} ${Math.min(100, (100 * value) / 8).toFixed(0)}%, ${blank})`, (value) => `${value.toFixed(2)} nats`));
    const bars = nats.map((values, at) => ({ name: about.scaleNames[at], nats: mean(values) }));
    const usual = figures.method.nats.map((value, at) => ({ name: about.scaleNames[at], nats: value })).filter(({ name }) => name);
    loss.draw(() => ({
      marginLeft: 30, marginBottom: 34, x: { domain: about.scaleNames, label: null, tickSize: 0, padding: 0.2 }, y: { domain: [0, 7.4], label: null, ticks: 5 },
      marks: [
        Plot.gridY({ stroke: "var(--line)", strokeOpacity: 1, ticks: 5 }),
        Plot.barY(bars, { x: "name", y: "nats", fill: "var(--accent)", rx: 2 }),
        Plot.tickY(usual, { x: "name", y: "nats", stroke: "var(--ink)", strokeWidth: 2 }),
        Plot.ruleY([Math.log(about.codebook_size)], { stroke: "var(--soft)", strokeDasharray: "4 4" }),
        Plot.text([`a blind guess: ${Math.log(about.codebook_size).toFixed(2)}`], { x: about.scaleNames[0], y: Math.log(about.codebook_size), dy: -8, dx: -10, textAnchor: "start", fill: "var(--soft)", text: (value) => value }),
      ],
    }), `Nats a token: ${bars.map((one) => `${one.name} ${one.nats.toFixed(2)}`).join(", ")}`);
  }
}

/** The true next map among maps that the model drew. */
class Game {
  constructor(lab, state) {
    Object.assign(this, { lab, state, right: 0, rounds: 0, open: false });
    this.scale = slider({ label: "Scale to guess", min: 2, max: 7, value: 3, show: (value) => String(value), oninput: () => this.round() });
    this.before = picture({ caption: "known so far", label: "The picture from the scales so far" });
    this.options = Array.from({ length: WRONG + 1 }, (_, at) => {
      const shown = picture({}), text = h("span", { class: "caption", style: "display: block; min-height: 2.9em" }, `option ${at + 1}`);
      const element = h("button", { type: "button", class: "option", onclick: () => this.guess(at) }, shown.element, text);
      return { shown, text, element };
    });
    this.verdict = h("p", { class: "status", role: "status" }, "");
    this.next = button("Another round", () => this.round());
    this.element = h("div", { class: "game" }, h("h3", { style: "margin-top: 1.6rem" }, "Your turn: which of the four has the picture's own next map? The model drew the others."),
      h("div", { class: "controls" }, this.scale.element, this.next),
      h("div", { class: "options" }, this.before.element, this.options.map(({ element }) => element)), this.verdict);
  }

  begin(about) {
    this.scale.range(2, about.parts.length);
  }

  async round() {
    const { about, tokens, label } = this.state(), scale = this.scale.value - 1;
    if (!tokens) return;
    this.open = false;
    const seeds = Array.from({ length: WRONG }, () => Math.floor(Math.random() * 1e6));
    const found = await this.lab.engine.ask("candidates", { tokens, scale, label, seeds }, { key: "game" });
    if (!found) return;
    this.found = found;
    this.order = found.frames.map((_, at) => [Math.random(), at]).sort(([a], [b]) => a - b).map(([, at]) => at);
    this.before.show(found.before);
    this.before.caption.textContent = `known: ${scale} scale${scale === 1 ? "" : "s"}`;
    this.options.forEach(({ shown, text, element }, at) => {
      shown.show(found.frames[this.order[at]]);
      text.textContent = `option ${at + 1}`;
      element.classList.remove("true", "false");
      element.disabled = false;
    });
    this.open = true;
    say(this.verdict, `Four maps of ${about.scaleNames[scale]} tokens, each added to the same coarser ones.`);
  }

  guess(at) {
    if (!this.open) return;
    this.open = false;
    const hit = this.order[at] === 0, { nats } = this.found;
    this.rounds++;
    this.right += hit;
    this.options.forEach(({ text, element }, option) => {
      const which = this.order[option];
      text.textContent = `${which === 0 ? "the picture's" : "drawn"}: ${nats[which].toFixed(2)} nats a token`;
      element.classList.add(which === 0 ? "true" : "false");
    });
    const best = nats.indexOf(Math.min(...nats));
    say(this.verdict, `${hit ? "Right" : "Not that one"}. By its own probabilities the model would ${best === 0 ? "have found it" : "have taken another one"}. You: ${this.right} of ${this.rounds}.`);
  }
}
