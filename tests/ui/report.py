"""`quern capfilt report` in headless Chromium: offline, on a desk and on a phone, light and dark; what captions hold is shown
and not executed. Screenshots go to out/ui/.

usage: report.py QUERN     (quern-worker beside it)     CHROMIUM: the browser, default /usr/bin/chromium
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import types

from cluster import SCRIPT, corpus, milled
from page import OUT, VIEWS, View
from playwright.sync_api import expect, sync_playwright


def is_as_it_should_be(browser, output: pathlib.Path, width: int, scheme: str):
    view = View(browser, types.SimpleNamespace(url=output.as_uri()), None, width, scheme)
    page = view.page
    page.goto(f"{output.as_uri()}/report.html")
    expect(page.locator("h1")).to_have_text("CapFilt: an output: for | other `readers`")
    for heading in ("What was kept", "Web captions that survive", "Scores", "Words", "Quarantine", "Slowest shards", "Rows", "Weakest rows"):
        expect(page.get_by_role("heading", name=heading, exact=True)).to_have_count(1)
    assert page.locator("bdi", has_text=SCRIPT).count() >= 3, "captions that are markup are shown as text"
    assert page.locator("script, iframe, object, embed, link, [onerror], [onload]").count() == 0
    assert page.locator("svg path").count() == 6, "two curves on each of three charts"

    slowest = page.locator("table.slowest tr")
    assert 2 <= slowest.count() <= 11, "the slowest shards, which lie beside the output"

    # Every candidate of a row is there, with its score; what was kept is marked, best first.
    card = page.locator("article", has_text="scenes/00000.parquet#1").first
    scores = [float(text) for text in card.locator(".score").all_inner_texts()]
    assert 1 < len(scores) <= 5 and scores == sorted(scores, reverse=True), scores
    assert card.locator(".badge").all_inner_texts() == ["kept 1", "kept 2"]

    assert page.locator("details").count() >= 3, "the truncated, the missing and the unreadable"
    page.evaluate("document.querySelectorAll('img').forEach(image => image.loading = 'eager')")
    page.wait_for_function("[...document.images].every(image => image.complete)")
    view.shot(f"report-{width}-{scheme}")
    page.evaluate("document.querySelectorAll('details').forEach(reason => reason.open = true)")
    assert page.evaluate("[...document.images].filter(image => !image.naturalWidth).length") == 0, "images that are none"
    page.locator("details").first.scroll_into_view_if_needed()
    page.screenshot(path=OUT / f"report-quarantine-{width}-{scheme}.png")
    assert page.evaluate("window.pwned") is None, "a caption was executed"
    view.close()


def main(quern: str):
    OUT.mkdir(parents=True, exist_ok=True)
    browser_path = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        folder = pathlib.Path(folder)
        output = milled(folder, corpus(folder / "corpus", quern, 160), quern)
        subprocess.run([quern, "capfilt", "report", str(output), "--examples", "200"], check=True, capture_output=True)
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        for width, scheme in VIEWS:
            is_as_it_should_be(browser, output, width, scheme)
        browser.close()
    print("the report is as it should be; screenshots: out/ui/")


if __name__ == "__main__":
    main(*sys.argv[1:])
