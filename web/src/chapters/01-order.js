// Raster order against next scale: both models draw, are recorded, and are played back against one clock.

import { button, choice, seedField, slider, status, toggle } from "../ui/controls.js";
import { calm, h, say } from "../ui/dom.js";
import figures from "../data/figures.json";
import { picture, tokenMaps } from "../ui/pictures.js";

const KINDS = [
  { kind: "var", model: "demo", title: "Next scale", tone: "next" },
  { kind: "raster", model: "demo-raster", title: "Raster order", tone: "raster" },
];
const EVERY = 8; // raster tokens, a row, between two pictures
const PASS = 60; // milliseconds of a pass where all take the same

const fullSize = (kind) => 1000 * figures.full_size.find((one) => one.name === `${kind}-d16` && one.size === 256).seconds;

export function start(root, lab) {
  let play = null;
  const runs = {};
  const go = button("Draw with both", () => record(), { kind: "main" });
  const again = button("Replay", () => replay(), { kind: "" });
  const said = status("The models are loading.");
  const clock = toggle({
    label: "Clock", value: "passes", onchange: () => runs.var && replay(),
    options: [["passes", "each pass takes the same"], ["here", "as measured here"], ["large", "310 million parameters, measured"]],
  });
  const time = slider({ label: "Move through time", min: 0, max: 1000, value: 0, show: () => "", oninput: (value) => { cancelAnimationFrame(play); show(value); } });
  go.disabled = again.disabled = time.input.disabled = true;
  const lanes = {};
  const columns = h("div", { class: "columns" });
  let classes, seed;
  root.append(h("div", { class: "controls" }), columns, h("div", { class: "wide-control", style: "margin-top: 1rem" }, time.element), said);
  const placeholder = KINDS.map(({ tone, title }) => h("div", { class: "lane" }, h("h3", { class: tone }, title), h("div", { style: "min-height:23rem" })));
  columns.append(...placeholder);

  lab.model("demo-raster").then(async (rasterAbout) => {
    const about = await lab.model();
    classes = choice({ label: "Class", options: about.class_names.map((name, at) => [at, name]), value: about.class_names.indexOf("leaper"), onchange: () => record() });
    seed = seedField({ value: 8, onchange: () => record() });
    root.querySelector(".controls").append(classes.element, seed.element, h("div", { class: "row" }, go, again), clock.element);
    columns.replaceChildren(...KINDS.map((one) => {
      lanes[one.kind] = lane(one, one.kind === "var" ? about : rasterAbout);
      return lanes[one.kind].element;
    }));
    go.disabled = false;
    say(said, "Ready.");
    lab.whenSeen(root, () => record(), "demo-raster");
  });

  function lane({ title, tone }, about) {
    const raster = about.read === "codes";
    const shown = picture({ label: `${title}: the image so far`, large: true });
    const maps = tokenMaps({ scales: about.scales, label: `${title}, tokens`, caption: !raster });
    const steps = h("dd", {}, "0"), ms = h("dd", {}, "0"), tokens = h("dd", {}, "0");
    maps.element.style.cssText = raster ? "grid-template-columns: minmax(0, 8.5rem); justify-content: start" : "";
    const element = h("div", { class: "lane" }, h("h3", { class: tone }, title), shown.element,
      h("p", { class: "caption" }, raster ? "Its map: one token after the other" : "Its maps: one after the other"),
      h("div", { style: "min-height: 9.4rem; align-content: start; display: grid" }, maps.element),
      h("dl", { class: "facts" }, h("div", {}, h("dt", {}, `passes of ${about.parts.length}`), steps),
        h("div", {}, h("dt", {}, "tokens so far"), tokens), h("div", {}, h("dt", {}, "clock"), ms)));
    return { element, about, raster, shown, maps, steps, ms, tokens };
  }

  async function record() {
    cancelAnimationFrame(play);
    go.disabled = true;
    for (const { kind, model, title } of KINDS) {
      const { about, raster } = lanes[kind], run = { frames: [], tokens: [], times: [] };
      const tell = ({ part, tokens, milliseconds, frame }) => {
        run.tokens.push(tokens);
        run.times.push(milliseconds);
        run.frames.push(frame ?? run.frames.at(-1));
        if (frame) lanes[kind].shown.show(frame);
        say(said, `${title} draws: ${part + 1} of ${about.parts.length}`);
      };
      const given = { model, label: Number(classes.value), seed: seed.value, settings: {}, every: raster ? EVERY : 1 };
      if (!(await lab.engine.ask("generate", given, { tell, key: "order" }))) return;
      runs[kind] = run;
    }
    go.disabled = again.disabled = time.input.disabled = false;
    replay();
  }

  /** Milliseconds at which each pass of a run ends. */
  function ends(kind) {
    const { times } = runs[kind], share = clock.value === "large" ? fullSize(kind) / times.at(-1) : 1;
    return clock.value === "passes" ? times.map((_, at) => (at + 1) * PASS) : times.map((end) => end * share);
  }

  const total = () => Math.max(...KINDS.map(({ kind }) => ends(kind).at(-1)));

  function show(share) {
    const now = (share / 1000) * total();
    for (const { kind } of KINDS) {
      const { about, raster, maps, shown, steps, ms, tokens } = lanes[kind], { times, frames, tokens: drawn } = runs[kind];
      const passes = ends(kind), done = passes.filter((end) => end <= now + 1e-6).length;
      const flat = drawn.slice(0, done).flat();
      if (done) shown.show(frames[done - 1], `${kind === "var" ? "Next scale" : "Raster order"}: the image after pass ${done} of ${times.length}`);
      else shown.clear();
      maps.clear();
      if (raster && done) maps.paint(0, flat, (token) => (token === undefined ? "" : about.colour(token)), (token) => (token === undefined ? "not drawn yet" : `token ${token}`));
      if (done) maps.mark(raster ? 0 : done - 1, raster ? done - 1 : -1);
      if (!raster) drawn.slice(0, done).forEach((map, part) => maps.paint(part, map, about.colour));
      say(steps, String(done));
      say(tokens, String(flat.length));
      const at = Math.min(now, passes.at(-1));
      say(ms, clock.value === "passes" ? `${done} passes` : at >= 1000 ? `${(at / 1000).toFixed(1)} s` : `${Math.round(at)} ms`);
    }
  }

  function replay() {
    cancelAnimationFrame(play);
    const whole = total(), slow = clock.value === "here" ? Math.max(1, 2500 / whole) : 1, begun = performance.now();
    const words = {
      passes: `Next scale is done after ${runs.var.times.length} passes, raster order after ${runs.raster.times.length}.`,
      here: `Measured in this browser, transformer alone: ${Math.round(runs.var.times.at(-1))} ms against ${Math.round(runs.raster.times.at(-1))} ms. `
        + "Such small models are read from memory in no time, so passes are cheap and the larger number of tokens decides.",
      large: `The whole image of 256 × 256 on two CPU cores took ${(fullSize("var") / 1000).toFixed(1)} s in 10 passes and ${(fullSize("raster") / 1000).toFixed(1)} s in 256; these two images stand for it.`,
    };
    say(said, words[clock.value]);
    const step = () => {
      const share = calm() ? 1 : Math.min(1, (performance.now() - begun) / (whole * slow));
      time.value = Math.round(1000 * share);
      show(1000 * share);
      if (share < 1) play = requestAnimationFrame(step);
    };
    step();
  }
}
