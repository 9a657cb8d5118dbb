// The block-wise causal mask with a dial for the schedule; what a token may see, and what the demo's tokens do see.

import { choice, slider, status, toggle } from "../ui/controls.js";
import { h, say } from "../ui/dom.js";
import { names, tokenMaps } from "../ui/pictures.js";
import { STILLS, still } from "../ui/source.js";
import { colour, onTheme } from "../ui/theme.js";
import { areas, countWork, growingSides, readable } from "../maths.js";

const DEMO = [1, 2, 3, 4, 5, 6, 8], PAPER = [1, 2, 3, 4, 5, 6, 8, 10, 13, 16];
const PRESETS = [["demo", "the demo's: 1 2 3 4 5 6 8"], ["paper", "the paper's at 256 × 256: 1 … 16"], ["double", "doubling: 1 2 4 8"], ["raster", "raster order: 64 single tokens"], ["dial", "by the dial below"]];

export function start(root, lab) {
  const said = status();
  let sides = DEMO, raster = false, chosen = 40, attention = null, about = null, maps = null;
  const preset = choice({ label: "Schedule", options: PRESETS, value: "demo", onchange: (name) => select(name) });
  const final = slider({ label: "Side of the last map", min: 2, max: 16, value: 8, oninput: () => { preset.value = "dial"; select("dial"); } });
  const block = slider({ label: "Block", min: 0, max: 4, value: 0, show: (value) => (value ? `${value}` : "mean of all"), oninput: () => show() });
  const view = toggle({ label: "Show", value: "may", options: [["may", "may see"], ["does", "does see"]], onchange: () => show() });
  const token = slider({ label: "Token", min: 1, max: 155, value: 41, show: (value) => `${value}`, oninput: (value) => pick(value - 1) });
  const canvas = h("canvas", { class: "plain", width: 465, height: 465, role: "img", "aria-label": "The mask: rows are tokens that look, columns tokens that are seen", style: "width: 100%; max-width: 26rem; cursor: crosshair; aspect-ratio: 1; border-radius: 4px" });
  const places = h("div", { style: "min-height: 9rem" });
  const facts = h("dl", { class: "facts", style: "margin-top: 1.2rem" });
  root.append(h("div", { class: "controls" }, preset.element, final.element),
    h("div", { class: "split" }, h("div", {}, canvas, h("p", { class: "note" }, "Row: a token that looks. Column: a token that is seen. Blue may be seen; the orange line is the chosen token.")),
      h("div", {}, h("div", { class: "controls" }, token.element), h("div", { class: "controls" }, view.element, block.element), places, said)), facts);

  const parts = () => (raster ? new Array(64).fill(1) : areas(sides));
  const scaleOf = (at) => {
    let part = 0, begin = 0;
    for (const length of parts()) {
      if (at < begin + length) break;
      begin += length;
      part++;
    }
    return { part, begin };
  };
  const isDemo = () => !raster && about && String(sides) === String(about.scales.map(([side]) => side));

  canvas.addEventListener("click", (event) => {
    const box = canvas.getBoundingClientRect(), total = parts().reduce((a, b) => a + b);
    pick(Math.min(total - 1, Math.max(0, Math.floor(((event.clientY - box.top) / box.height) * total))));
  });
  onTheme(() => show());
  select("demo");

  lab.whenSeen(root, async (model) => {
    about = model;
    const rgba = await still(STILLS[0]), { tokens } = await lab.engine.ask("tokenise", { rgba });
    const followed = await lab.engine.ask("follow", { tokens, label: model.class_names.indexOf(STILLS[0]), attention: true });
    attention = followed.attention;
    block.range(0, attention[0].dims[1]);
    view.value = "does";
    show();
  });

  function select(name) {
    raster = name === "raster";
    sides = { demo: about ? about.scales.map(([side]) => side) : DEMO, paper: PAPER, double: [1, 2, 4, 8], raster: [8], dial: growingSides(final.value) }[name];
    const total = parts().reduce((a, b) => a + b);
    chosen = Math.min(chosen, total - 1);
    token.range(1, total);
    const scales = sides.map((side) => [side, side]);
    maps = tokenMaps({ scales, label: "Tokens that are seen", onpick: (part, place) => pick(raster ? place : areas(sides).slice(0, part).reduce((a, b) => a + b, 0) + place) });
    maps.element.style.gridTemplateColumns = `repeat(${Math.min(sides.length, 5)}, minmax(0, 5.2rem))`;
    places.replaceChildren(maps.element);
    show();
  }

  function pick(at) {
    chosen = at;
    token.value = at + 1;
    show();
  }

  /** What the chosen token gives to each token, largest 1; null without a model that tells. */
  function weights() {
    if (!attention || !isDemo() || view.value !== "does") return null;
    const { part, begin } = scaleOf(chosen), { data, dims: [, blocks, length, seen] } = attention[part];
    const found = new Float64Array(seen);
    for (let number = 0; number < blocks; number++) {
      if (block.value && block.value !== number + 1) continue;
      for (let at = 0; at < seen; at++) found[at] += data[(number * length + chosen - begin) * seen + at];
    }
    const total = found.reduce((a, b) => a + b);
    return found.map((value) => value / total);
  }

  function show() {
    const lengths = parts(), { tokens, pairs, share } = countWork(lengths), { part, begin } = scaleOf(chosen), end = begin + lengths[part];
    drawMask(canvas, lengths, chosen);
    const seen = weights(), most = seen && Math.max(...seen), accent = colour("--accent"), blank = colour("--sunken");
    const fill = (at) => (at >= end ? blank : seen ? `color-mix(in oklab, ${accent} ${(100 * Math.sqrt((seen[at] ?? 0) / most)).toFixed(0)}%, ${blank})` : accent);
    let at = 0;
    (raster ? [64] : lengths).forEach((length, number) => {
      const first = at;
      maps.paint(number, Array.from({ length }, (_, place) => first + place), fill, (index) =>
        index >= end ? `token ${index + 1}, hidden` : seen ? `token ${index + 1}, ${(100 * seen[index]).toFixed(1)} percent` : `token ${index + 1}, may be seen`);
      at += length;
    });
    maps.mark(raster ? 0 : part, raster ? chosen : chosen - begin);
    block.input.disabled = !attention || !isDemo();
    const where = raster ? `Token ${chosen + 1}` : `Token ${chosen + 1}, in the ${names([[sides[part], sides[part]]])[0]} map,`;
    const own = seen && seen.slice(begin).reduce((a, b) => a + b, 0);
    say(said, seen ? `${where} gives ${(100 * own).toFixed(0)} % of its attention to its own scale, ${(100 * (1 - own)).toFixed(0)} % to coarser ones (mean over heads).`
      : `${where} may see ${end} of ${tokens} tokens.`);
    facts.replaceChildren(...[["scales, so passes", lengths.length], ["tokens", tokens], ["pairs that see each other", readable(pairs)], ["of the full square", `${Math.round(100 * share)} %`]]
      .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, String(value)))));
  }
}

function drawMask(canvas, lengths, chosen) {
  const total = lengths.reduce((a, b) => a + b), size = canvas.width, unit = size / total, context = canvas.getContext("2d");
  context.fillStyle = colour("--sunken");
  context.fillRect(0, 0, size, size);
  let begin = 0;
  lengths.forEach((length, part) => {
    context.fillStyle = colour("--accent");
    context.globalAlpha = part % 2 ? 0.55 : 0.75;
    context.fillRect(0, begin * unit, (begin + length) * unit, length * unit);
    begin += length;
  });
  context.globalAlpha = 1;
  context.fillStyle = colour("--page");
  begin = 0;
  for (const length of lengths) {
    begin += length;
    if (length * unit > 3) {
      context.fillRect(begin * unit - 0.5, 0, 1, size);
      context.fillRect(0, begin * unit - 0.5, size, 1);
    }
  }
  context.fillStyle = colour("--raster");
  context.fillRect(0, chosen * unit, size, Math.max(2, unit));
}
