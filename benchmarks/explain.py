"""How soon the interactive page shows something, and how long its models take, in chromium.

    make explain
    python benchmarks/explain.py            # table; --json FILE for the figures, --throttle 4 for a slower processor

Each visit has a browser of its own, with nothing cached; the median of all is shown, with the extremes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import threading
from pathlib import Path
from statistics import median
from typing import Any

from playwright import sync_api as playwright

from nextscale.explain.server import SITE, page_server

PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
SHIFT = """new Promise(done => new PerformanceObserver(list =>
    done(list.getEntries().filter(one => !one.hadRecentInput).reduce((sum, one) => sum + one.value, 0)))
    .observe({type: 'layout-shift', buffered: true}) ?? setTimeout(() => done(0), 300))"""
GENERATE = """async model => {
    const begun = performance.now()
    const every = model === "demo" ? 1 : 8
    await lab.engine.ask("generate", {model, label: 1, seed: 0, settings: {}, every})
    return performance.now() - begun
}"""


def visit(engine: playwright.Playwright, url: str, throttle: float) -> dict[str, float]:
    """Milliseconds of one visit: until something is shown, models are ready, and images are drawn."""
    browser = engine.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
    page = browser.new_page(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    if throttle > 1:
        page.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": throttle})
    page.goto(url)
    page.wait_for_selector("html[data-models=ready]", timeout=120_000)
    found = {"first contentful paint": page.evaluate(PAINT), "models ready": page.evaluate("performance.now()")}
    found["layout shift x 1000"] = 1000 * page.evaluate(SHIFT)
    page.wait_for_timeout(4000)  # what the first chapter draws by itself
    for name in ("demo", "demo-raster"):
        found[f"an image of {name}, all pictures"] = page.evaluate(GENERATE, name)
    browser.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visits", type=int, default=5)
    parser.add_argument("--throttle", type=float, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    server = page_server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with playwright.sync_playwright() as engine:
        visits = [visit(engine, f"http://127.0.0.1:{server.server_address[1]}/", options.throttle)
                  for _ in range(options.visits)]  # fmt: skip
    report: dict[str, Any] = {name: sorted(one[name] for one in visits) for name in visits[0]}
    for name, values in report.items():
        print(f"{name:40} {median(values):8.0f} ms   {values[0]:.0f} .. {values[-1]:.0f}")
    sizes = [path.stat().st_size for path in SITE.rglob("*") if path.is_file()]
    print(f"{'files of the page':40} {sum(sizes) / 1e6:8.1f} MB")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
