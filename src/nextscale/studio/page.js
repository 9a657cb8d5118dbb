() => {
  // Tabs answer the arrow keys, Home and End, as the ARIA pattern for tabs asks.
  document.addEventListener("keydown", event => {
    const tab = event.target.closest?.('[role="tab"]');
    if (!tab) return;
    const tabs = [...tab.closest('[role="tablist"]').querySelectorAll('[role="tab"]')].filter(one => !one.disabled);
    const place = tabs.indexOf(tab), step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const next = step ? (place + step + tabs.length) % tabs.length : { Home: 0, End: tabs.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    tabs[next].click();
    tabs[next].focus();
  });

  // On a phone the result comes into view.
  document.addEventListener("click", event => {
    const start = event.target.closest?.("#generate-start, #edit-start, #inspect-start")?.id;
    if (innerWidth > 640 || !start) return;
    const result = { "generate-start": "#generate-picture", "edit-start": "#edit-pair", "inspect-start": "#inspect-stage" };
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    document.querySelector(result[start])?.scrollIntoView({ behavior: calm ? "auto" : "smooth", block: "center" });
  });

  // Pictures say what they show: the caption of a thumbnail, the class names of a label, or the title above.
  const titled = block => {
    for (let at = block?.previousElementSibling; at; at = at.previousElementSibling)
      if (at.querySelector(".title") || at.classList.contains("title")) return at.innerText.trim();
    return "";
  };
  const name = image => {
    const caption =
      image.closest("button")?.querySelector(".caption-label")?.innerText.trim() ||
      image.closest(".preview")?.querySelector(".caption")?.innerText.trim();
    const block = image.closest(".block");
    const label = block?.querySelector('[data-testid="block-label"]')?.textContent.trim();
    const said = caption || titled(block) || label || (block?.classList.contains("chart") ? "Chart" : "");
    if (said && image.alt !== said) image.alt = said;
  };
  let waiting = false;
  new MutationObserver(() => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      document.querySelectorAll(".gradio-container .block img:not(figure img)").forEach(name);
    });
  }).observe(document.body, { subtree: true, childList: true, attributes: true, attributeFilter: ["src"] });
}
