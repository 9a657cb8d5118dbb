// Sizes of a model of the reader's own.

import { areas, countWork, large, parametersOf, readable } from "../maths.js";
import { slider } from "../ui/controls.js";
import { h, unique } from "../ui/dom.js";

export function start(root) {
  const id = unique("sides"), problem = h("p", { class: "status failed", role: "status" });
  const sides = h("input", { type: "text", id, value: "1 2 3 4 5 6 8 10 13 16", inputmode: "numeric", autocomplete: "off", style: "width: 100%; max-width: 24rem", oninput: () => show() });
  const depth = slider({ label: "Depth", min: 1, max: 36, value: 16, oninput: () => show() });
  const codes = slider({ label: "Codes", min: 8, max: 16, value: 12, show: (bits) => (2 ** bits).toLocaleString("en"), oninput: () => show() });
  const facts = h("dl", { class: "facts" });
  root.append(h("div", { class: "controls" }, h("div", { class: "control", style: "flex: 2 1 18rem" }, h("label", { for: id }, "Sides of the scales"), h("div", { class: "row" }, sides)), depth.element, codes.element), facts, problem);

  function show() {
    const list = sides.value.split(/[\s,]+/).filter(Boolean).map(Number);
    const fault = !list.length || list.some((side) => !Number.isInteger(side) || side < 1 || side > 64) ? "Sides are whole numbers from 1 to 64." : list.some((side, at) => at && side < list[at - 1]) ? "Sides grow from scale to scale." : "";
    problem.textContent = fault;
    if (fault) return;
    const parts = areas(list), { tokens, pairs, share } = countWork(parts), width = 64 * depth.value, blocks = parametersOf(depth.value);
    const work = 2 * (2 / 3) * blocks * tokens + 4 * width * depth.value * pairs; // of it, AdaLN works once per image
    const rows = [
      ["tokens of an image", readable(tokens, 4)], ["passes", parts.length], ["longest pass, tokens", readable(Math.max(...parts), 4)], ["of the attention square", `${Math.round(100 * share)} %`],
      ["bits of an image", readable(tokens * codes.value, 5)], ["width, heads", `${width}, ${depth.value}`], ["parameters of the blocks", large(blocks)], ["blocks' work, guided", `${readable((2 * work) / 1e9)} GFLOP`], ["cache in bf16, guided", `${readable((2 * 2 * 2 * depth.value * tokens * width) / 1e6)} MB`],
    ];
    facts.replaceChildren(...rows.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, String(value)))));
  }
  show();
}
