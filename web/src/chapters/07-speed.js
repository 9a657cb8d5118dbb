// Published figures, our families on equal terms, and how work grows with the grid.

import figures from "../data/figures.json";
import { areas, countWork, growingSides, readable } from "../maths.js";
import { Plot, chart } from "../ui/chart.js";
import { slider, toggle } from "../ui/controls.js";
import { h } from "../ui/dom.js";

const family = (name) => (name.startsWith("VAR") ? "VAR" : /DiT/.test(name) ? "diffusion" : name === "StyleGAN-XL" ? "adversarial" : name === "MaskGIT" ? "masked" : "raster order");
const TONES = { VAR: "var(--accent)", diffusion: "var(--other)", "raster order": "var(--raster)", masked: "var(--good)", adversarial: "var(--soft)" };
const TIP = { fill: "var(--card)", stroke: "var(--edge)" };

export function start(root) {
  publishedAndOurs(root);
  growth(document.querySelector("#growth-figure"));
}

function publishedAndOurs(root) {
  const plot = chart({ height: 380, label: "Quality over time" }), note = h("figcaption", {});
  const legend = h("p", { class: "caption", style: "margin: 0 0 0.4rem" }, Object.entries(TONES).map(([name, tone]) => [h("span", { class: "swatch", style: `background: ${tone}` }), ` ${name}\u2003`]));
  const what = toggle({ label: "Figures", value: "published", onchange: () => show(), options: [["published", "published: ImageNet"], ["one", "ours: games, one image"], ["many", "ours: games, batch of 32"]] });
  root.append(h("div", { class: "controls" }, what.element), legend, plot.element, note);

  function show() {
    if (what.value === "published") return published();
    const batch = what.value === "one" ? "1" : "32", rows = figures.families.map((one) => ({ ...one, time: one.seconds[batch], tone: { var: TONES.VAR, raster: TONES["raster order"], rq: TONES["raster order"], maskgit: TONES.masked, dit: TONES.diffusion }[one.kind] }));
    scatter(rows, { x: "time", xLabel: "seconds an image, two CPU cores", y: "frechet", yLabel: "Frechet distance of features", floor: figures.floor, floorText: "real frames against real frames",
      title: (one) => `${one.name}\n${one.frechet}, ${one.steps} steps\n${one.time} s, ${one.gflop} GFLOP` });
    note.textContent = "Ours: five families with the same blocks, about 9.8 million parameters, the same 64,000 frames, each at its best guidance. At this size raster order draws better than next scale; its tokens are fewer and easier. "
      + (batch === "1" ? "Next scale takes a fifth of its time." : "In batches of 32 their times are nearly the same.");
  }

  function published() {
    const rows = figures.published.map((one) => ({ ...one, tone: TONES[family(one.model)], name: one.model }));
    scatter(rows, { x: "time", xLabel: "time, relative to VAR-d30", y: "frechet", yLabel: "FID", floor: figures.validation, floorText: "ImageNet's validation images",
      title: (one) => `${one.model}\nFID ${one.frechet}, ${one.parameters} parameters\n${one.steps} steps, time ${one.at_least ? "over " : ""}${one.time}` });
    note.textContent = "As published. Times are relative; those of the larger diffusion and raster models are lower bounds. “Rejection” keeps the best of several drawn images.";
  }

  function scatter(rows, { x, xLabel, y, yLabel, floor, floorText, title }) {
    const labels = rows.filter((one) => !/rejection|d20|d24|[37]B/.test(one.name));
    plot.draw((width) => ({
      marginLeft: 46, marginBottom: 42, marginRight: width > 600 ? 90 : 40, x: { type: "log", label: xLabel, tickFormat: "~g", ticks: 5, grid: false, domain: what.value === "published" ? [0.2, 70] : [0.02, 0.7] }, y: { type: "log", label: yLabel, ticks: 5, tickFormat: "~g", domain: what.value === "published" ? [1.6, 20] : [50, 700] },
      marks: [
        Plot.gridY({ stroke: "var(--line)", strokeOpacity: 1, ticks: 5 }),
        Plot.ruleY([floor], { stroke: "var(--soft)", strokeDasharray: "4 4" }),
        Plot.text([floorText], { frameAnchor: width > 600 ? "right" : "left", dx: width > 600 ? 0 : 4, y: floor, dy: width > 600 ? -8 : 8, fill: "var(--soft)" }),
        Plot.dot(rows, { x, y, r: 6.5, fill: "tone", stroke: "var(--card)", tip: TIP, title }),
        Plot.text(labels, { x, y, text: "name", dx: 11, textAnchor: "start", fill: "var(--ink)", ...(width < 600 && { fontSize: 10 }) }),
      ],
    }), `${yLabel} over ${xLabel}: ${rows.map((one) => `${one.name} ${one[y]} at ${one[x]}`).join("; ")}`);
  }
  show();
}

function growth(root) {
  const side = slider({ label: "Side n of the grid of latents", min: 4, max: 64, value: 16, hint: "the paper's tokenizer makes a grid of n × n from 16 n × 16 n pixels", oninput: () => show() });
  const what = toggle({ label: "Count", value: "steps", onchange: () => show(), options: [["steps", "passes"], ["tokens", "tokens"], ["pairs", "attention pairs"], ["seconds", "measured seconds"]] });
  const plot = chart({ height: 300, label: "Work over the grid's side" }), facts = h("dl", { class: "facts", style: "margin-top: 1rem" });
  const all = Array.from({ length: 61 }, (_, at) => at + 4).flatMap((n) => [["next scale", areas(growingSides(n))], ["raster order", new Array(n * n).fill(1)]].map(([kind, parts]) => {
    const { tokens, pairs } = countWork(parts);
    return { n, kind, steps: parts.length, tokens, pairs };
  }));
  const measured = Object.entries(figures.growth).flatMap(([kind, rows]) => rows.map((one) => ({ ...one, kind: kind === "var" ? "next scale" : "raster order" })));
  const tone = (one) => (one.kind === "next scale" ? "var(--accent)" : "var(--raster)");
  root.append(h("div", { class: "controls wide-control" }, side.element), h("div", { class: "controls" }, what.element), plot.element, facts,
    h("figcaption", {}, "Counted for scales that grow by about a third, with caches. Seconds were measured with a model of depth 8, on two CPU cores, for n = 8, 16, 32 and 64."));

  function show() {
    const key = what.value, lines = key === "seconds" ? measured : all, n = side.value;
    plot.draw((width) => ({
      marginLeft: 56, marginBottom: 40, marginRight: width > 600 ? 90 : 20, x: { type: "log", label: "side n", ticks: [4, 8, 16, 32, 64], tickFormat: String, domain: [4, 64] }, y: { type: "log", label: null, tickFormat: "~s", ticks: 5 },
      marks: [
        Plot.gridY({ stroke: "var(--line)", strokeOpacity: 1, ticks: 5 }),
        Plot.ruleX([n], { stroke: "var(--edge)" }),
        Plot.line(lines, { x: "n", y: key, z: "kind", stroke: tone, strokeWidth: 2.4, marker: key === "seconds" ? "circle" : null }),
        Plot.dot(lines.filter((one) => one.n === n), { x: "n", y: key, r: 6, fill: tone, stroke: "var(--card)" }),
        Plot.text(lines, Plot.selectLast({ x: "n", y: key, z: "kind", text: "kind", fill: tone, ...(width > 600 ? { dx: 8, textAnchor: "start" } : { dx: -4, dy: -12, textAnchor: "end" }) })),
      ],
    }), `${key} of next scale and raster order over the grid's side`);
    const [ours, theirs] = all.filter((one) => one.n === n);
    facts.replaceChildren(...[["passes", "steps"], ["tokens", "tokens"], ["attention pairs", "pairs"]].map(([name, property]) => h("div", {}, h("dt", {}, name),
      h("dd", {}, h("span", { class: "next" }, readable(ours[property], 4)), " : ", h("span", { class: "raster" }, readable(theirs[property], 4))))));
  }
  show();
}
