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

  // Another model, or a studio that was started again: the page is loaded anew.
  const { root = "", api_prefix = "", app_id } = window.gradio_config ?? {};
  setInterval(async () => {
    if (document.hidden || !app_id) return;
    try {
      const now = await (await fetch(`${root}${api_prefix}/app_id`)).json();
      if (now.app_id !== app_id) location.reload();
    } catch {} // the studio is away for the moment
  }, 2000);

  // On a phone the result comes into view.
  document.addEventListener("click", event => {
    const start = event.target.closest?.("#generate-start, #edit-start, #inspect-start")?.id;
    if (innerWidth > 640 || !start) return;
    const result = { "generate-start": "#generate-picture", "edit-start": "#edit-pair", "inspect-start": "#inspect-stage" };
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    document.querySelector(result[start])?.scrollIntoView({ behavior: calm ? "auto" : "smooth", block: "center" });
  });

  // The boxes of a chart's legend switch its lines and points off.
  document.addEventListener("change", event => {
    const box = event.target.closest?.(".plot-legend input");
    if (!box) return;
    const parts = box.closest(".plot").querySelectorAll(`[data-part="${box.dataset.series}"]`);
    parts.forEach(one => (one.style.display = box.checked ? "" : "none"));
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
  // Names that gradio gives: of a thumbnail and of a place for uploads, what is read there; of an empty place, a role.
  const rename = () => {
    for (const one of document.querySelectorAll("button.thumbnail-item[aria-label], button.upload-container[aria-label]")) {
      const text = one.innerText.trim().replace(/\s+/g, " ");
      if (text && one.ariaLabel !== text) one.ariaLabel = text;
    }
    for (const one of document.querySelectorAll(".empty[aria-label]:not([role])")) one.role = "img";
  };
  let waiting = false;
  new MutationObserver(() => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      document.querySelectorAll(".gradio-container .block img:not(figure img)").forEach(name);
      rename();
    });
  }).observe(document.body, { subtree: true, childList: true, attributes: true, attributeFilter: ["src", "aria-label"] });
}
