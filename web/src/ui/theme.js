// Light and dark: the system's choice until the button is pressed.

import { say } from "./dom.js";

const dark = matchMedia("(prefers-color-scheme: dark)");
const chosen = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
const listeners = new Set();

export const isDark = () => (chosen() ?? (dark.matches ? "dark" : "light")) === "dark";

/** What draws on canvases listens. */
export const onTheme = (listener) => listeners.add(listener);

export function startTheme(button) {
  const apply = () => {
    document.documentElement.style.colorScheme = chosen() ?? "light dark";
    say(button, isDark() ? "Light" : "Dark");
    button.setAttribute("aria-label", isDark() ? "Light colours" : "Dark colours");
    for (const listener of listeners) listener();
  };
  button.addEventListener("click", () => {
    try { localStorage.setItem("theme", isDark() ? "light" : "dark"); } catch { /* a private window */ }
    apply();
  });
  dark.addEventListener("change", apply);
  apply();
}

/** A custom property's colour as it is now, for canvases. */
export function colour(name) {
  const probe = document.createElement("span");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}
