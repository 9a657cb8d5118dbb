// Canvases that show pictures and token maps.

import { h } from "./dom.js";

const SIDE = 64;

/** A square picture of 64 x 64 pixels with a caption; `show(rgba)` fills it. Without a label its text says it all. */
export function picture({ caption, label, large = false }) {
  const canvas = h("canvas", { width: SIDE, height: SIDE, ...(label ? { role: "img", "aria-label": label } : { "aria-hidden": "true" }) });
  const text = h("figcaption", {}, caption ?? "");
  const element = h("figure", { class: large ? "picture large" : "picture" }, canvas, caption !== undefined && text);
  return {
    element, canvas, caption: text,
    show(rgba, told) {
      canvas.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(rgba), SIDE, SIDE), 0, 0);
      element.classList.add("shown");
      if (told) canvas.setAttribute("aria-label", told);
    },
    clear() {
      canvas.getContext("2d").clearRect(0, 0, SIDE, SIDE);
      element.classList.remove("shown");
    },
  };
}

/** A row of pictures, one for each scale. */
export function strip(captions, label) {
  const pictures = captions.map((caption) => picture({ caption, label: `${label}, after scale ${caption}` }));
  return { element: h("div", { class: "strip" }, pictures.map((one) => one.element)), pictures };
}

export const names = (scales) => scales.map(([height, width]) => `${height} × ${width}`);

/**
 * Token maps of all scales as grids of buttons; arrow keys move inside a map.
 *
 * `onpick(part, place)` on click, `onhover` also on focus and under the pointer. `paint(part, tokens, colourOf)` fills a
 * map; `mark(part, place)` outlines one cell.
 */
export function tokenMaps({ scales, label, onpick, onhover, caption = true }) {
  const maps = scales.map(([height, width], part) => {
    const cells = Array.from({ length: height * width }, (_, place) => h("button", {
      type: "button", class: "token", tabindex: place ? -1 : 0, disabled: true,
      onclick: () => onpick?.(part, place),
      onpointerenter: () => onhover?.(part, place),
      onfocus: () => onhover?.(part, place),
      onkeydown: (event) => move(event, cells, width),
    }));
    const grid = h("div", { class: "tokens", role: "group", "aria-label": `${label}, scale ${height} × ${width}`, style: `--columns:${width}` }, cells);
    return { cells, grid, width };
  });
  const element = h("div", { class: "maps" }, maps.map(({ grid }, part) =>
    h("div", { class: "map" }, grid, caption && h("span", { class: "caption" }, names([scales[part]])[0]))));
  const clear = (name) => element.querySelectorAll(`.${name}`).forEach((cell) => cell.classList.remove(name));
  return {
    element, maps,
    paint(part, tokens, colourOf, tell = (token) => `token ${token}`) {
      const { cells, width } = maps[part];
      cells.forEach((cell, place) => {
        cell.style.background = colourOf(tokens[place], place);
        cell.disabled = false;
        cell.setAttribute("aria-label", `row ${Math.floor(place / width) + 1}, column ${(place % width) + 1}: ${tell(tokens[place], place)}`);
      });
    },
    flag(part, flags) {
      maps[part].cells.forEach((cell, place) => cell.classList.toggle("flagged", Boolean(flags?.[place])));
    },
    mark(part, place) {
      clear("marked");
      maps[part]?.cells[place]?.classList.add("marked");
    },
    dim(from) {
      maps.forEach(({ grid }, part) => grid.classList.toggle("dimmed", part > from));
    },
    clear() {
      for (const { cells } of maps) {
        for (const cell of cells) {
          cell.style.background = "";
          cell.disabled = true;
          cell.classList.remove("flagged", "marked");
        }
      }
    },
  };
}

function move(event, cells, width) {
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -width, ArrowDown: width }[event.key];
  if (!step) return;
  const at = cells.indexOf(event.target), next = cells[at + step];
  const wraps = Math.abs(step) === 1 && Math.floor(at / width) !== Math.floor((at + step) / width);
  event.preventDefault();
  if (!next || wraps) return;
  event.target.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

/** CSS colours of codes. */
export function colourer(colours) {
  return (token) => `rgb(${colours[3 * token]} ${colours[3 * token + 1]} ${colours[3 * token + 2]})`;
}

/** Centre square of a drawable, 64 x 64, as RGBA bytes; transparency over white. */
export function squared(source, width, height) {
  const canvas = new OffscreenCanvas(SIDE, SIDE), context = canvas.getContext("2d", { willReadFrequently: true });
  const side = Math.min(width, height);
  context.imageSmoothingQuality = "high";
  context.fillStyle = "white";
  context.fillRect(0, 0, SIDE, SIDE);
  context.drawImage(source, (width - side) / 2, (height - side) / 2, side, side, 0, 0, SIDE, SIDE);
  return context.getImageData(0, 0, SIDE, SIDE).data;
}
