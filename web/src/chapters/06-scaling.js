// Scaling laws: our measured points, a law from the smaller ones, a forecast to drag, and the paper's lines.

import figures from "../data/figures.json";
import { fitPowerLaw, large } from "../maths.js";
import { Plot, chart } from "../ui/chart.js";
import { button, slider, status, toggle } from "../ui/controls.js";
import { h, say } from "../ui/dom.js";

const METRICS = { loss: "nats a token, all scales", loss_last: "nats a token, last scale", error: "wrong tokens, all scales" };
const PAPER = [ // loss that could be removed, N in billions of parameters
  { name: "all scales: (2.5 N)^−0.20", at: (n) => (2.5 * n) ** -0.2, tone: "var(--accent)" },
  { name: "last scale: (2.0 N)^−0.23", at: (n) => (2 * n) ** -0.23, tone: "var(--other)" },
];

export function start(root) {
  let open = false, dragging = false;
  const points = figures.scaling.filter((one) => one.kind === "var"), last = points.at(-1);
  const ours = chart({ height: 340, label: "Loss over parameters, five depths" }), theirs = chart({ height: 240, label: "The paper's laws" });
  const said = status();
  const metric = toggle({ label: "Measured on 10,000 other frames", value: "loss", onchange: () => { open = false; settle(); }, options: [["loss", "loss"], ["loss_last", "loss, last scale"], ["error", "token error"]] });
  const guess = slider({ label: "Your forecast for depth 5", min: 0, max: 1000, value: 800, show: () => "", oninput: () => show() });
  const used = slider({ label: "Smaller models for the line", min: 2, max: 4, value: 4, oninput: () => show() });
  const uncover = button("Uncover", () => { open = true; show(); }, { kind: "main" });
  root.append(h("div", { class: "controls" }, metric.element), h("div", { class: "controls" }, guess.element, used.element, uncover), ours.element, said,
    h("h3", { style: "margin: 1.6rem 0 0.4rem" }, "The paper's lines: ImageNet, depths 6 to 30, the part of the loss that could be removed"), theirs.element);

  const value = (one) => one[metric.value];
  const range = () => [value(last) * 0.93, value(points[0]) * 1.01];
  const forecast = () => {
    const [low, high] = range();
    return low + ((high - low) * guess.value) / 1000;
  };

  function settle() {
    const [low, high] = range();
    guess.value = Math.round((1000 * (value(points[3]) - low)) / (high - low));
    show();
  }

  function show() {
    const law = fitPowerLaw(points.slice(4 - used.value, 4).map((one) => [one.parameters, value(one)]));
    const shown = open ? points : points.slice(0, 4), mine = forecast();
    const line = Array.from({ length: 40 }, (_, at) => 5e4 * 400 ** (at / 39)).map((n) => ({ n, y: law.at(n) }));
    guess.element.querySelector("output").textContent = mine.toFixed(3);
    guess.input.setAttribute("aria-valuetext", mine.toFixed(3));
    ours.draw(() => ({
      marginLeft: 46, marginBottom: 40, x: { type: "log", domain: [5e4, 2e7], label: "parameters of the blocks", tickFormat: "~s", ticks: 4 }, y: { type: "log", domain: range().map((edge, at) => (at ? edge * 1.02 : edge)), label: METRICS[metric.value], ticks: 5, tickFormat: (v) => String(Number(v.toPrecision(3))) },
      marks: [
        Plot.gridY({ stroke: "var(--line)", strokeOpacity: 1, ticks: 5 }),
        open ? Plot.line(line, { x: "n", y: "y", stroke: "var(--accent)", strokeDasharray: "5 4", clip: true }) : null,
        Plot.ruleX([last.parameters], { stroke: "var(--line)" }),
        Plot.dot(shown, { x: "parameters", y: value, r: 6, fill: "var(--accent)", tip: { fill: "var(--card)", stroke: "var(--edge)" }, channels: { depth: "depth", measured: value }, title: (one) => `depth ${one.depth}, ${large(one.parameters)} parameters\n${value(one).toFixed(3)}\n${(one.flops / 1e12).toFixed(0)} TFLOP of training` }),
        Plot.text(shown, { x: "parameters", y: value, text: (one) => `d${one.depth}`, dy: -14, fill: "var(--ink)" }),
        Plot.dot([mine], { x: last.parameters, y: mine, r: 9, stroke: "var(--raster)", strokeWidth: 3, fill: "var(--card)" }),
        Plot.text([mine], { x: last.parameters, y: mine, text: () => "yours", dx: 16, textAnchor: "start", fill: "var(--raster)" }),
      ],
    }), `Five depths from ${large(points[0].parameters)} to ${large(last.parameters)} parameters: ${shown.map((one) => value(one).toFixed(3)).join(", ")}`);
    const off = (number) => `${(100 * (number / value(last) - 1)).toFixed(1)} %`;
    say(said, open
      ? `Measured ${value(last).toFixed(3)}. The line of ${used.value} smaller models says ${law.at(last.parameters).toFixed(3)} (${off(law.at(last.parameters))}), you said ${mine.toFixed(3)} (${off(mine)}). Exponent ${law.exponent.toFixed(4)}.`
      : "Depth 5 is covered. Where will it be?");
  }

  const grab = (event) => {
    const svg = ours.svg, box = svg.getBoundingClientRect(), [low, high] = range();
    const share = (event.clientY - box.top - 20) / (340 - 20 - 40); // Plot's margins
    const y = Math.exp(Math.log(high * 1.02) + (Math.log(low) - Math.log(high * 1.02)) * share);
    guess.value = Math.round((1000 * (Math.min(Math.max(y, low), high) - low)) / (high - low));
    show();
  };
  ours.element.addEventListener("pointerdown", (event) => {
    const box = ours.element.getBoundingClientRect();
    if ((event.clientX - box.left) / box.width < 0.78) return;
    dragging = true;
    event.preventDefault();
    grab(event);
  });
  addEventListener("pointermove", (event) => dragging && grab(event));
  addEventListener("pointerup", () => (dragging = false));
  ours.element.style.touchAction = "pan-y";

  const lines = PAPER.flatMap(({ name, at, tone }) => Array.from({ length: 30 }, (_, step) => 0.016 * 125 ** (step / 29)).map((n) => ({ n: n * 1e9, loss: at(n), name, tone })));
  theirs.draw(() => ({
    marginLeft: 46, marginBottom: 40, x: { type: "log", label: "parameters of the blocks", tickFormat: "~s", ticks: 4 }, y: { type: "log", label: "reducible loss", ticks: 4, tickFormat: (v) => String(v) },
    marks: [
      Plot.gridY({ stroke: "var(--line)", strokeOpacity: 1, ticks: 4 }),
      Plot.line(lines, { x: "n", y: "loss", z: "name", stroke: "tone", strokeWidth: 2.2, tip: { fill: "var(--card)", stroke: "var(--edge)" }, title: (one) => `${one.name}\n${large(one.n)}: ${one.loss.toFixed(3)}` }),
      ...PAPER.map(({ name, tone }, at) => Plot.text(lines.filter((one) => one.name === name).slice(9, 10), { x: "n", y: "loss", text: "name", fill: tone, dx: at ? 10 : -10, dy: at ? -12 : 12, textAnchor: at ? "start" : "end" })),
    ],
  }), "The paper's laws: reducible loss (2.5 N) to the power −0.20 over all scales and (2.0 N) to the power −0.23 at the last, N in billions");
  settle();
}
