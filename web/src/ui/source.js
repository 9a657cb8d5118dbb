// Where a picture comes from: ready ones, a file, or one that is dropped on the figure.

import stills from "../data/stills.json";
import { h, unique } from "./dom.js";
import { squared } from "./pictures.js";

/** The ready pictures; their classes are the names. */
export const STILLS = stills.map(({ name }) => name);

async function read(blob) {
  const bitmap = await createImageBitmap(blob);
  const rgba = squared(bitmap, bitmap.width, bitmap.height);
  return { rgba, cropped: bitmap.width !== bitmap.height, width: bitmap.width, height: bitmap.height };
}

/** The bytes of a ready picture. */
export async function still(name) {
  return (await read(await (await fetch(`stills/${name}.png`)).blob())).rgba;
}

/**
 * Thumbnails, a file button, and `zone` as a place to drop files on.
 * `onpicture({ rgba, name, label, note })`: the class's name where it is known, what was done to a file.
 */
export function pictureSource({ zone, onpicture }) {
  const id = unique("file");
  const take = async (file) => {
    try {
      const { rgba, cropped, width, height } = await read(file);
      const note = `${file.name}: ${cropped ? "its middle square, " : ""}${width} × ${height} scaled to 64 × 64`;
      press(null);
      onpicture({ rgba, name: file.name, label: null, note });
    } catch {
      onpicture({ error: `${file.name} cannot be read as a picture; a PNG, JPEG or WebP file works` });
    }
  };
  const input = h("input", { type: "file", id, accept: "image/*", class: "hidden-input", onchange: () => input.files[0] && take(input.files[0]) });
  const press = (name) => thumbs.forEach((thumb) => thumb.setAttribute("aria-pressed", String(thumb.dataset.name === name)));
  const pick = async (name) => {
    press(name);
    onpicture({ rgba: await still(name), name, label: name, note: `${name}, a picture that the model drew` });
  };
  const thumbs = STILLS.map((name) => h("button", {
    type: "button", class: "thumb", data: { name }, "aria-pressed": "false", "aria-label": `the ready picture ${name}`, onclick: () => pick(name),
  }, h("img", { src: `stills/${name}.png`, width: 48, height: 48, alt: "" })));
  for (const kind of ["dragover", "dragleave", "drop"]) {
    zone.addEventListener(kind, (event) => {
      event.preventDefault();
      zone.classList.toggle("dropping", kind === "dragover");
      const [file] = kind === "drop" ? event.dataTransfer.files : [];
      if (file) take(file);
    });
  }
  const element = h("div", { class: "source" },
    h("div", { class: "thumbs", role: "group", "aria-label": "Ready pictures" }, thumbs),
    h("div", { class: "own" }, input, h("label", { for: id, class: "button" }, "Your own picture…"), h("small", {}, "or drop a file here; it stays in your browser")));
  return { element, pick };
}
