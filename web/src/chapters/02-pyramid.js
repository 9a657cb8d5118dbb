// The residual pyramid of a picture: slider over scales, what each adds, what is left, tokens and their codes.

import { button, slider, status } from "../ui/controls.js";
import { calm, h, pause, say } from "../ui/dom.js";
import { Plot, chart } from "../ui/chart.js";
import { picture, tokenMaps } from "../ui/pictures.js";
import { STILLS, pictureSource } from "../ui/source.js";

export function start(root, lab) {
  const said = status("The models are loading.");
  const source = pictureSource({ zone: root, onpicture: (given) => take(given) });
  const original = picture({ caption: "the picture", label: "The picture" });
  const sofar = picture({ caption: "decoded so far", label: "The picture decoded from the scales so far" });
  const change = picture({ caption: "what this scale changed", label: "What this scale changed, around grey" });
  const dial = slider({ label: "Scales", min: 1, max: 7, value: 7, show: (value) => `${value}`, oninput: (value) => show(value - 1) });
  const play = button("Play", () => animate());
  const left = chart({ height: 190, label: "Share of the latents' squared norm that is left after each scale" });
  const card = codeCard();
  const maps = h("div", { style: "min-height: 8rem" });
  let about, tokens, found = null, playing = 0;
  play.disabled = dial.input.disabled = true;
  root.append(source.element, h("div", { class: "split" },
    h("div", {}, h("div", { class: "pictures" }, original.element, sofar.element, change.element),
      h("div", { class: "controls", style: "margin: 1rem 0 0" }, dial.element, play)),
    h("div", {}, h("h3", {}, "Left of the latents"), left.element)),
  h("h3", { style: "margin-top: 1.4rem" }, "The token maps; point at a token"), maps, card.element, said);

  lab.whenSeen(root, async (model) => {
    about = model;
    dial.range(1, about.scales.length);
    tokens = tokenMaps({ scales: about.scales, label: "Tokens", onpick: hover, onhover: hover });
    tokens.element.classList.add("roomy");
    maps.replaceChildren(tokens.element);
    await source.pick(STILLS[0]);
  });

  async function take({ rgba, error, note }) {
    if (error) return fail(error);
    said.classList.remove("failed");
    original.show(rgba);
    say(said, "Encoding.");
    const result = await lab.engine.ask("tokenise", { rgba }, { key: "pyramid" });
    if (!result) return;
    found = { ...result, rgba };
    result.tokens.forEach((map, part) => tokens.paint(part, map, about.colour));
    play.disabled = dial.input.disabled = false;
    say(said, `${note}. ${result.tokens.flat().length} tokens, ${new Set(result.tokens.flat()).size} different codes.`);
    dial.value = about.scales.length;
    show(about.scales.length - 1);
    hover(3, 5);
  }

  function fail(error) {
    said.classList.add("failed");
    say(said, error);
  }

  function show(scale) {
    const { frames, left: shares, rgba } = found, before = frames[scale - 1];
    sofar.show(frames[scale], `Decoded from the first ${scale + 1} scales`);
    sofar.caption.textContent = `${scale + 1} of ${frames.length} scales, ${psnr(frames[scale], rgba).toFixed(1)} dB`;
    const grey = new Uint8ClampedArray(frames[scale].length).fill(128);
    change.show(frames[scale].map((value, at) => (at % 4 === 3 ? 255 : 128 + 1.5 * (value - (before ?? grey)[at]))), `What scale ${scale + 1} changed`);
    change.caption.textContent = `what ${about.scaleNames[scale]} changed`;
    tokens.dim(scale);
    const bars = shares.map((share, at) => ({ name: about.scaleNames[at], share: 100 * share, at }));
    left.draw(() => ({
      marginLeft: 36, marginBottom: 32, x: { domain: about.scaleNames, label: null, tickSize: 0, padding: 0.18 }, y: { domain: [0, 100], label: null, ticks: 4, tickFormat: (value) => `${value} %` },
      marks: [
        Plot.gridY({ ticks: 4, stroke: "var(--line)", strokeOpacity: 1 }),
        Plot.barY(bars, { x: "name", y: "share", fill: (one) => (one.at <= scale ? "var(--accent)" : "var(--line)"), rx: 2 }),
        Plot.text(bars, { x: "name", y: "share", text: (one) => Math.round(one.share), dy: -8, fill: "var(--ink)" }),
      ],
    }), `Left of the latents after each scale, in percent: ${bars.map((one) => `${one.name} ${Math.round(one.share)}`).join(", ")}`);
  }

  async function animate() {
    const mine = ++playing;
    for (let scale = 0; scale < about.scales.length && mine === playing; scale++) {
      dial.value = scale + 1;
      show(scale);
      if (!calm()) await pause(650);
    }
  }

  async function hover(part, place) {
    if (!found) return;
    tokens.mark(part, place);
    const token = found.tokens[part][place], width = about.scales[part][1];
    card.tell({
      token, colour: about.colour(token),
      where: `${about.scaleNames[part]}, row ${Math.floor(place / width) + 1}, column ${(place % width) + 1}`,
      times: found.tokens.flat().filter((other) => other === token).length,
    });
    const code = await lab.engine.ask("swatch", { token }, { key: "swatch" });
    if (code) card.show(code);
  }
}

function psnr(a, b) {
  let error = 0;
  for (let at = 0; at < a.length; at++) if (at % 4 !== 3) error += (a[at] - b[at]) ** 2;
  return 10 * Math.log10(255 ** 2 / ((error / a.length) * (4 / 3)));
}

/** A codebook entry: its number and colour, its 32 numbers as bars, and the picture of it everywhere. */
function codeCard() {
  const title = h("strong", {}, "code"), where = h("span", {}, ""), chip = h("span", { class: "swatch" });
  const swatch = picture({ label: "This code at all places, decoded" });
  swatch.element.style.width = "96px";
  const bars = h("canvas", { width: 320, height: 64, class: "plain", role: "img", "aria-label": "The code's 32 numbers as bars" });
  const element = h("div", { class: "row code-card", style: "gap: 0.6rem 1.2rem; margin-top: 1rem; min-height: 7rem" }, swatch.element,
    h("div", { style: "flex: 1 1 14rem; min-width: 0" }, h("p", { style: "margin: 0 0 0.4rem; font-size: 0.95rem" }, chip, " ", title, " ", where), bars,
      h("p", { class: "caption", style: "margin: 0" }, "Left: the code everywhere, decoded. Right: its 32 numbers.")));
  return {
    element,
    tell({ token, colour, where: at, times }) {
      chip.style.background = colour;
      say(title, `Code ${token}`);
      say(where, `at ${at}; ${times === 1 ? "once" : `${times} times`} in this picture`);
    },
    show({ frame, code }) {
      swatch.show(frame);
      const context = bars.getContext("2d"), most = Math.max(...code.map(Math.abs));
      context.clearRect(0, 0, 320, 64);
      context.fillStyle = "#7a8ca8";
      code.forEach((value, at) => context.fillRect(10 * at + 1, value > 0 ? 32 - (30 * value) / most : 32, 8, Math.max(1, (30 * Math.abs(value)) / most)));
    },
  };
}
