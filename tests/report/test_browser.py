"""The report and TensorBoard's dashboard, opened in a real browser; skipped where none is installed."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from cl_ac.approach import Approach
from cl_ac.losses import cross_entropy
from cl_ac.recording.tensorboard import DASHBOARD
from cl_ac.report.page import write_report
from cl_ac.watching.watch import Watch

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed")


@pytest.fixture(scope="module")
def browser():
    """A headless browser."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def runs(stored_run, tmp_path_factory):
    """Watched runs with and without ACs, two seeds each."""
    out = tmp_path_factory.mktemp("runs")
    return [
        stored_run(
            out / f"{exits}{seed}",
            {"approach": {"class_path": "LwF"}, "exits": exits, "seed": seed},
            exits=3 if exits else 1,
            watch=True,
        )
        for exits in (None, "sdn")
        for seed in (0, 1)
    ]


@pytest.fixture(scope="module")
def report(runs, tmp_path_factory):
    return write_report(runs, tmp_path_factory.mktemp("report"))


@pytest.mark.parametrize("width", [1280, 400])
def test_report_is_whole_and_fits(browser, report, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    problems, requests = [], []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(report.as_uri())
    assert problems == []
    assert [url for url in requests if not url.startswith("data:")] == [report.as_uri()]

    figures = page.locator("figure svg").evaluate_all(
        """all => all.map(svg => {
            const box = svg.getBoundingClientRect();
            const texts = [...svg.querySelectorAll('text')].map(text => text.getBoundingClientRect());
            return {left: box.left, right: box.right, width: box.width, height: box.height,
                    marks: svg.querySelectorAll('path').length,
                    smallest: Math.min(...texts.map(text => text.height)),
                    outside: [...svg.querySelectorAll('text')].filter(text => {
                        const place = text.getBoundingClientRect();
                        return place.left < box.left - 2 || place.right > box.right + 2;
                    }).map(text => text.textContent)};
        })"""
    )
    # Curves of accuracy and forgetting, 2 matrices, 1 map of exits, cost, all gaps, and 2 for each watched group.
    assert len(figures) == 11
    for figure in figures:
        assert figure["left"] >= 0
        assert figure["right"] <= width
        assert min(figure["width"], figure["height"]) > 100
        assert figure["marks"] > 5
        assert figure["smallest"] >= 8
        assert figure["outside"] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = page.locator(".scroll").evaluate_all("all => all.map(box => box.getBoundingClientRect().right)")
    assert max(boxes) <= width
    page.locator("summary").first.click()
    assert page.locator("details pre").first.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


class Plain(Approach):
    """Fine-tuning."""

    def loss(self, network, batch):
        return cross_entropy(network(batch.images), batch.targets, batch.task.classes)


@pytest.fixture
def tensorboard(toy_run) -> Iterator[str]:
    """The address of a TensorBoard that serves a finished run."""
    watch = Watch(every=2, nearest_mean="oracle", drift=True)
    directory = toy_run(Plain(), exits="sdn", watch=watch, loggers=["tensorboard"])
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(directory.path), "--host", "localhost"]
    server = subprocess.Popen([*command, "--port", "0"], stderr=subprocess.PIPE, text=True)
    try:
        addresses = (re.search(r"http://\S+/", line) for line in server.stderr)
        yield next(filter(None, addresses))[0]
    finally:
        server.terminate()
        server.communicate()


def test_tensorboard_shows_charts_settings_and_images_of_a_run(browser, tensorboard):
    page = browser.new_page(viewport={"width": 1280, "height": 4000})
    page.goto(f"{tensorboard}#custom_scalars")
    charts = {title for titles in DASHBOARD.values() for title in titles} - {"validation accuracy"}
    for title in charts:
        page.get_by_text(title, exact=True).first.wait_for()
    cards = page.locator("tf-custom-scalar-multi-line-chart-card")
    assert cards.count() == sum(map(len, DASHBOARD.values())) - 1
    for card in cards.all():
        # The card says how many series match, and draws each of them.
        card.get_by_text(re.compile(r"Matches \([1-9]\d*\)")).wait_for()
        card.locator("vz-line-chart2 path[d*='L']").first.wait_for(state="attached")
        assert "No data" not in card.inner_text()

    page.set_viewport_size({"width": 2200, "height": 900})
    page.goto(f"{tensorboard}#hparams")
    page.get_by_text("summary/accuracy", exact=True).first.wait_for()
    page.goto(f"{tensorboard}#images")
    page.locator("img").first.wait_for()
    shown = page.locator("img").evaluate_all("all => all.map(image => image.naturalWidth)")
    assert shown
    assert min(shown) > 50
    page.close()
