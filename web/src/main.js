// The page: its frame, the models' loading, and ten chapters that start by themselves.

import { Engine } from "./engine/client.js";
import { h, say } from "./ui/dom.js";
import { colourer, names } from "./ui/pictures.js";
import { startTheme } from "./ui/theme.js";

const chapters = import.meta.glob("./chapters/*.js", { eager: true });
const engine = new Engine();
const seen = new Map(); // what waits until its chapter comes near

/** What chapters share. */
const lab = {
  engine,
  /** Description of a model once it is loaded, with `colour(token)` in CSS. */
  async model(name = "demo") {
    const about = await engine.model(name);
    return { ...about, colour: colourer(about.colours), scaleNames: names(about.scales) };
  },
  /** Run an action once the models are loaded and the element is near the view. */
  async whenSeen(element, action, name = "demo") {
    await new Promise((resolve) => {
      seen.set(element, resolve);
      observer.observe(element);
    });
    const about = await lab.model(name);
    try {
      await action(about);
    } catch (error) {
      failed(error);
    }
  },
};
const observer = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue;
    observer.unobserve(target);
    seen.get(target)();
  }
}, { rootMargin: "400px" });

function failed(error) {
  say(document.querySelector("#progress-text"), `Something failed: ${error.message}`);
  document.querySelector("#loading").classList.remove("done");
  console.error(error);
}

function fillContents() {
  const list = document.querySelector("#chapter-list"), details = document.querySelector("#contents");
  const sections = [...document.querySelectorAll(".chapter")];
  const links = sections.map((section) => h("a", { href: `#${section.id}`, onclick: () => wide.matches || (details.open = false) }, section.dataset.short));
  list.append(...links.map((link) => h("li", {}, link)));
  const wide = matchMedia("(min-width: 82rem)");
  const settle = () => (details.open = wide.matches);
  wide.addEventListener("change", settle);
  settle();
  const current = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      const link = links[sections.indexOf(target)];
      if (isIntersecting) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  }, { rootMargin: "-45% 0px -54% 0px" });
  sections.forEach((section) => current.observe(section));
}

async function loadModels() {
  const progress = document.querySelector("#progress"), text = document.querySelector("#progress-text");
  const say1 = (loaded, total) => `Loading the models: ${(loaded / 1e6).toFixed(0)} of ${(total / 1e6).toFixed(0)} MB`;
  await engine.load(({ loaded, total }) => {
    progress.value = loaded / total;
    text.textContent = say1(loaded, total);
  });
  text.textContent = "Models ready";
  document.querySelector("#loading").classList.add("done");
  document.documentElement.dataset.models = "ready";
}

startTheme(document.querySelector("#theme"));
fillContents();
for (const [path, { start }] of Object.entries(chapters)) {
  start(document.querySelector(`[data-file="${path.split("/").at(-1).replace(".js", "")}"]`), lab);
}
addEventListener("unhandledrejection", ({ reason }) => failed(reason));
window.lab = lab; // for the console, and for tests
requestAnimationFrame(() => setTimeout(() => loadModels().catch(failed)));
