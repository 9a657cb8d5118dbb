// Five families and their orders: what is decided after each step, on an 8 x 8 grid of latents.

import { button, slider, status, toggle } from "../ui/controls.js";
import { calm, h, pause, say } from "../ui/dom.js";
import { tokenMaps } from "../ui/pictures.js";
import { colour, onTheme } from "../ui/theme.js";

const SIDE = 8, PLACES = SIDE * SIDE;
const order = Array.from({ length: PLACES }, (_, at) => at).sort((a, b) => ((a * 37 + 11) % 64) - ((b * 37 + 11) % 64)); // some order of confidence
const SIDES = [1, 2, 3, 4, 5, 6, 8], DEPTH = 4;

/** Share of each place that is decided after a step, 0 to 1, and words. */
const FAMILIES = {
  var: { title: "next scale", steps: 7, at: (step) => [() => step / 7, step ? `${SIDES[step - 1]} × ${SIDES[step - 1]} tokens at once; every place a little more` : "nothing yet"] },
  raster: { title: "raster order", steps: 64, at: (step) => [(place) => Number(place < step), "one token a pass, in full, from the top"] },
  rq: { title: "residual codes", steps: 256, at: (step) => [(place) => Math.min(1, Math.max(0, (step - DEPTH * place) / DEPTH)), "one code a pass; each place four codes deep before the next begins"] },
  maskgit: {
    title: "masked", steps: 8,
    at: (step) => {
      const known = PLACES - Math.floor(PLACES * Math.cos((Math.PI / 2) * (step / 8)));
      return [(place) => Number(step === 8 || order.indexOf(place) < known), `${step === 8 ? 64 : known} places decided for good; more and more a pass`];
    },
  },
  dit: { title: "diffusion", steps: 250, at: (step) => [() => step / 250, "all places a little less noisy, at full size, in every step"] },
};

export function start(root) {
  let playing = 0;
  const said = status();
  const which = toggle({ label: "Family", value: "var", onchange: () => { dial.range(0, FAMILIES[which.value].steps); dial.value = Math.round(FAMILIES[which.value].steps * 0.4); show(); }, options: Object.entries(FAMILIES).map(([key, { title }]) => [key, title]) });
  const dial = slider({ label: "Step", min: 0, max: 7, value: 3, show: String, oninput: () => { playing++; show(); } });
  const play = button("Play", () => animate());
  const place = h("div", { style: "max-width: 18rem; aspect-ratio: 1" });
  root.append(h("div", { class: "controls" }, which.element), h("div", { class: "controls" }, dial.element, play), place, said);
  onTheme(() => show());

  function show() {
    const family = FAMILIES[which.value], [share, words] = family.at(dial.value), full = colour("--accent"), blank = colour("--sunken");
    const side = which.value === "var" && dial.value ? SIDES[dial.value - 1] : SIDE; // next scale: its own grid
    const grid = tokenMaps({ scales: [[side, side]], label: "What is decided", caption: false });
    grid.element.style.gridTemplateColumns = "1fr";
    grid.paint(0, Array.from({ length: side * side }, (_, at) => share(at)), (value) => `color-mix(in oklab, ${full} ${Math.round(100 * value)}%, ${blank})`, (value) => `${Math.round(100 * value)} percent decided`);
    place.replaceChildren(grid.element);
    say(said, `Step ${dial.value} of ${family.steps}: ${words}.`);
  }

  async function animate() {
    const mine = ++playing, { steps } = FAMILIES[which.value], stride = Math.max(1, Math.round(steps / 64));
    for (let step = 0; step <= steps && mine === playing; step += stride) {
      dial.value = Math.min(step, steps);
      show();
      if (!calm()) await pause(Math.min(500, 4000 / steps) * stride);
    }
    if (mine === playing) {
      dial.value = steps;
      show();
    }
  }
  show();
}
