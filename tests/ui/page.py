"""The page in headless Chromium, against a real run: what it shows is what the coordinator says, whoever may only look
can't steer, nothing of the data is executed, and nothing is asked of any other host. Screenshots go to out/ui/.

usage: page.py QUERN QUERN_WORKER     CHROMIUM: the browser, default /usr/bin/chromium
"""

import os
import pathlib
import sys
import tempfile
import urllib.error
import urllib.request

from cluster import PATIENCE_S, ROOT, SCRIPT, TOKENS, Cluster, captioned, corpus, emptied, passed
from playwright.sync_api import Browser, Page, expect, sync_playwright

OUT = ROOT / "out" / "ui"
VIEWS = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]
expect.set_options(timeout=PATIENCE_S * 1000)


class View:
    """A page with a role's cookie, and everything that goes wrong in it."""

    def __init__(self, browser: Browser, cluster: Cluster, role: str | None, width=1280, scheme="light"):
        height = 900 if width > 600 else 844
        self.context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_S * 1000)
        self.cluster, self.wrong = cluster, []
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("console", lambda line: line.type in ("error", "warning") and self.wrong.append(f"console: {line.text}"))
        self.page.on("request", self.requested)
        if role:
            reply = self.context.request.post(f"{cluster.url}/login", data=TOKENS[role])
            assert reply.status == 204, reply.text()

    def requested(self, request):
        if not request.url.startswith((self.cluster.url + "/", "data:")):
            self.wrong.append(f"request to {request.url}")

    def open(self, run: str = ""):
        self.page.goto(f"{self.cluster.url}/#{run}" if run else self.cluster.url)
        return self.page

    def shot(self, name: str):
        self.page.screenshot(path=OUT / f"{name}.png", full_page=True)

    def close(self):
        assert not self.wrong, "\n".join(self.wrong)
        wide = self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, f"the page is {wide} px wider than the window"
        self.context.close()


def is_forbidden(request: urllib.request.Request) -> bool:
    try:
        urllib.request.urlopen(request, timeout=20)
    except urllib.error.HTTPError as error:
        return error.code == 403
    return False


def strangers_see_a_form(browser, cluster):
    for width, scheme in VIEWS:
        view = View(browser, cluster, None, width, scheme)
        page = view.open()
        view.wrong.clear()  # the browser itself notes the 401
        page.get_by_role("textbox").fill("no-such-token-at-all")
        page.get_by_role("button").click()
        expect(page.get_by_role("alert")).to_contain_text("none of this coordinator")
        view.shot(f"login-{width}-{scheme}")
        view.wrong.clear()
        page.get_by_role("textbox").fill(TOKENS["viewer"])
        page.get_by_role("button").click()
        expect(page.locator("#explanation")).to_contain_text("quern submit")
        view.shot(f"nothing-{width}-{scheme}")
        view.close()


def an_operator_pauses(browser, cluster, run):
    view = View(browser, cluster, "operator")
    page = view.open(run)
    expect(page.locator("#phase")).to_have_text("CapFilt")
    page.wait_for_selector("#captions .card")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#phase")).to_have_text("paused")
    assert cluster.status(run)["paused"], "the page says paused, the coordinator doesn't"
    view.shot("paused-1280-light")
    phone = View(browser, cluster, "operator", 390, "dark")
    phone.open(run)
    expect(phone.page.get_by_role("button", name="Resume")).to_be_visible()
    phone.page.wait_for_selector("#map rect")
    phone.shot("paused-390-dark")
    phone.close()
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    assert not cluster.status(run)["paused"]
    expect(page.locator("#phase")).to_have_text("stage 1")
    page.wait_for_selector("#loss-curve path")
    view.shot("training-1280-light")
    expect(page.locator("#phase")).to_have_text("done")
    view.close()


def nobody_else_can(cluster, run):
    own = {"x-quern-page": "1", "content-type": "application/json"}
    asked = lambda role, headers: cluster.request(f"api/runs/{run}/pause", role, "POST", headers, "{}")
    assert is_forbidden(asked("viewer", own)), "a viewer can pause"
    assert is_forbidden(asked("worker", own)), "a worker can pause"
    assert is_forbidden(asked("operator", {"content-type": "application/json"})), "another site's page can pause"


def what_is_shown_is_so(browser, cluster, run, width, scheme):
    view = View(browser, cluster, "viewer", width, scheme)
    page = view.open(run)
    expect(page.locator("#phase")).to_have_text("done")
    status = cluster.status(run)
    page.wait_for_function("total => document.querySelectorAll('#map rect').length === total", arg=status["shards_total"])
    for kind, name in (("d", "done"), ("q", "quarantined"), ("p", "pending"), ("l", "leased")):
        assert page.locator(f"#map rect.{kind}").count() == status[f"shards_{name}"], f"cells of {name} shards"
    assert status["quarantine"], "no reasons"
    assert sum(reason["rows"] for reason in status["quarantine"]) == status["rows_quarantined"]
    shown = page.locator("#quarantine .rows").all_inner_texts()
    assert shown == [f"{reason['rows']:,}" for reason in status["quarantine"]], shown
    expect(page.locator("#quarantine")).to_contain_text("image missing")
    assert page.locator("#steer button").count() == 0 and page.get_by_role("button", name="Drain").count() == 0
    expect(page.locator("#runs a")).to_have_count(2)
    page.wait_for_selector("#captions img")
    older = page.get_by_role("button", name="Older rows")
    while page.locator("bdi", has_text=SCRIPT).count() == 0:
        before = page.locator("#captions .card").count()
        older.click()
        page.wait_for_function("before => document.querySelectorAll('#captions .card').length > before", arg=before)
    assert page.evaluate("window.pwned") is None, "a caption was executed"
    assert page.locator("#captions script").count() == 0
    if page.locator("#captions .picture:empty").count():
        page.wait_for_function("!document.querySelector('#captions div.picture:empty')")
    page.reload()
    page.wait_for_selector("#captions img")
    page.wait_for_selector("#loss-curve path")
    page.wait_for_selector("#map rect")
    view.shot(f"done-{width}-{scheme}")
    view.close()


def another_run_is_chosen(browser, cluster, run):
    view = View(browser, cluster, "viewer", 390)
    page = view.open(run)
    page.get_by_role("link", name="captions as they are").click()
    expect(page.locator("#name")).to_have_text("captions as they are")
    expect(page.locator("#phase")).to_have_text("done")
    page.wait_for_selector("#captions .tag.keeps")
    view.close()


def an_operator_drains_and_cancels(browser, cluster, run):
    view = View(browser, cluster, "operator")
    page = view.open(run)
    expect(page.locator("#phase")).to_have_text("CapFilt")
    page.locator("tr", has_text="right").get_by_role("button", name="Drain").click()
    code = cluster.end_of("right")
    assert code == 0, f"a worker that was sent away ends with {code}"
    expect(page.locator("tr", has_text="left").get_by_role("button", name="Drain")).to_be_visible()

    asked = []
    def answer(dialog):
        asked.append(dialog.message)
        dialog.accept() if len(asked) == 2 else dialog.dismiss()
    page.on("dialog", answer)
    page.get_by_role("button", name="Cancel").click()
    assert len(asked) == 1 and not view.wrong, "whoever takes it back has cancelled nothing"
    assert cluster.status(run)["phase"] == "capfilt"
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#phase")).to_have_text("cancelled")
    assert cluster.status(run)["phase"] == "cancelled", "the page says cancelled, the coordinator doesn't"
    expect(page.locator("#steer button")).to_have_count(0)
    expect(page.locator("#runs a[aria-current]")).to_contain_text("cancelled")
    view.shot("cancelled-1280-light")
    view.close()


def main(quern: str, quern_worker: str):
    emptied(OUT)
    browser_path = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        folder = pathlib.Path(folder)
        data = corpus(folder / "corpus", quern, 320)
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        with Cluster(folder, quern, quern_worker) as cluster:
            strangers_see_a_form(browser, cluster)
            run = cluster.submit(captioned(folder, data))
            nobody_else_can(cluster, run)
            cluster.worker("left")
            cluster.worker("right")
            an_operator_pauses(browser, cluster, run)
            cluster.submit(passed(folder, data))
            cluster.until("the second run", lambda: [run["phase"] for run in cluster.get("api/runs")] == ["done", "done"])
            for width, scheme in VIEWS:
                what_is_shown_is_so(browser, cluster, run, width, scheme)
            another_run_is_chosen(browser, cluster, run)
            long = corpus(folder / "long", quern, 4000)
            an_operator_drains_and_cancels(browser, cluster, cluster.submit(captioned(folder, long, "cancelled", seed=6)))
        browser.close()
    print(f"the page is as it should be; screenshots: {OUT.relative_to(ROOT)}/")


if __name__ == "__main__":
    main(*sys.argv[1:])
