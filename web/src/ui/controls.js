// Labelled native controls.

import { h, unique } from "./dom.js";

/** A slider with its value beside it. `show` words the value. */
export function slider({ label, min, max, step = 1, value, show = String, hint, oninput }) {
  const id = unique("slider"), output = h("output", { for: id, class: "value" }, show(value));
  const input = h("input", {
    type: "range", id, min, max, step, value,
    oninput: () => {
      refresh();
      oninput?.(Number(input.value));
    },
  });
  const refresh = () => {
    output.textContent = show(Number(input.value));
    input.setAttribute("aria-valuetext", output.textContent);
    input.style.setProperty("--share", `${(100 * (input.value - input.min)) / (input.max - input.min || 1)}%`);
  };
  refresh();
  const element = h("div", { class: "control" }, h("label", { for: id }, label), output, input, hint && h("small", {}, hint));
  return {
    element, input,
    get value() { return Number(input.value); },
    set value(next) { input.value = next; refresh(); },
    range(low, high) { input.min = low; input.max = high; refresh(); },
  };
}

/** A list to choose from: options are names, or [value, name] pairs. */
export function choice({ label, options, value, onchange }) {
  const id = unique("choice");
  const input = h("select", { id, onchange: () => onchange?.(input.value) }, options.map((option) => {
    const [key, name] = Array.isArray(option) ? option : [option, option];
    return h("option", { value: key, selected: String(key) === String(value) }, name);
  }));
  return { element: h("div", { class: "control" }, h("label", { for: id }, label), input), input, get value() { return input.value; }, set value(next) { input.value = next; } };
}

/** One of a few, side by side. */
export function toggle({ label, options, value, onchange }) {
  const name = unique("toggle");
  const inputs = options.map(([key, text]) => {
    const input = h("input", { type: "radio", name, value: key, checked: key === value, onchange: () => onchange?.(key) });
    return h("label", {}, input, h("span", {}, text));
  });
  const element = h("fieldset", { class: "toggle" }, h("legend", {}, label), h("div", {}, inputs));
  return {
    element,
    get value() { return element.querySelector("input:checked").value; },
    set value(next) { for (const input of element.querySelectorAll("input")) input.checked = input.value === next; },
  };
}

export function button(text, onclick, { kind = "", label } = {}) {
  return h("button", { type: "button", class: `button ${kind}`, onclick, "aria-label": label }, text);
}

/** A whole number to type, with a button for a random one. */
export function seedField({ label = "Seed", value, onchange }) {
  const id = unique("seed");
  const input = h("input", { type: "number", id, min: 0, max: 2 ** 31, step: 1, value, inputmode: "numeric", onchange: () => onchange?.(read()) });
  const read = () => Math.max(0, Math.min(2 ** 31, Math.floor(Number(input.value)) || 0));
  const roll = button("Another", () => {
    input.value = Math.floor(Math.random() * 10000);
    onchange?.(read());
  }, { kind: "quiet", label: "Another seed" });
  const element = h("div", { class: "control seed" }, h("label", { for: id }, label), h("div", { class: "row" }, input, roll));
  return { element, get value() { return read(); }, set value(next) { input.value = next; } };
}

/** A line that tells what happens; screen readers say it. */
export function status(text = "") {
  return h("p", { class: "status", role: "status" }, text);
}
