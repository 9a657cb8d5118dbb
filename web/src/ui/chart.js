// Observable Plot in the page's colours; a chart is drawn anew when its place changes its width.

import * as Plot from "@observablehq/plot";
import { h } from "./dom.js";

export { Plot };

/** A place for a chart: `draw(options(width))` shows it, with the same height always, so that nothing jumps. */
export function chart({ height, label }) {
  const element = h("div", { class: "chart", role: "img", "aria-label": label, style: `min-height:${height}px` });
  let make = null, width = 0;
  const render = () => {
    if (!make || element.clientWidth < 160) return; // not laid out yet
    width = element.clientWidth;
    const plot = Plot.plot({ width, height, style: { background: "none", color: "var(--ink)", fontSize: "12px", overflow: "visible" }, ...make(width) });
    plot.setAttribute("aria-hidden", "true"); // the element's label says what it shows
    element.replaceChildren(plot);
  };
  new ResizeObserver(() => Math.abs(element.clientWidth - width) > 4 && render()).observe(element);
  return {
    element,
    draw(options, told) {
      make = options;
      if (told) element.setAttribute("aria-label", told);
      render();
    },
    get svg() { return element.firstElementChild; },
  };
}
