// The strip at the top: a picture of one at first, then drawn here.

import { h, say } from "../ui/dom.js";

export function start(root, lab) {
  const draw = root.querySelector("#hero-draw"), text = root.querySelector("#hero-text");
  const place = root.querySelector("#hero-strip"), scales = root.querySelector("#hero-scales");
  let canvas;
  lab.model().then((about) => {
    scales.replaceChildren(...about.scaleNames.map((name) => h("span", {}, name)));
    draw.disabled = false;
  });
  draw.addEventListener("click", async () => {
    const about = await lab.model(), parts = about.parts.length;
    const label = Math.floor(Math.random() * about.classes), seed = Math.floor(Math.random() * 1e6);
    if (!canvas) {
      canvas = h("canvas", { width: 64 * parts, height: 64, role: "img" });
      place.replaceChildren(canvas);
    }
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, canvas.width, canvas.height);
    canvas.setAttribute("aria-label", `A new image of ${about.class_names[label]} after each of its scales`);
    const tell = ({ part, frame, milliseconds }) => {
      context.putImageData(new ImageData(frame, 64, 64), 64 * part, 0);
      say(text, `${about.class_names[label]}, seed ${seed}: scale ${part + 1} of ${parts}, ${Math.round(milliseconds)} ms.`);
    };
    await lab.engine.ask("generate", { model: "demo", label, seed, settings: {} }, { tell, key: "hero" });
  });
  scales.replaceChildren(...["1 × 1", "2 × 2", "3 × 3", "4 × 4", "5 × 5", "6 × 6", "8 × 8"].map((name) => h("span", {}, name)));
}
