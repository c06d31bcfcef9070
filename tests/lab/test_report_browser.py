"""The report in a browser, opened from disk: it loads nothing, draws, filters, fits, reads well."""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from tests.report_rows import all_rows, labelled_row, probe_row
from weightcast_lab.cli.report_command import run_report
from weightcast_lab.report.glossary import terms

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the PATH")

RESULTS = Path(__file__).parents[2] / "results"
CHARTS = ["fig1", "fig4", "fig5", "rica", "speech"]

# The relative luminances of WCAG 2, of what is drawn as the browser computes it.
CONTRASTS = """(selector) => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const channels = (colour) => {
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = (colour) => channels(colour)
    .map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const page = luminance(getComputedStyle(document.body).backgroundColor);
  return [...document.querySelectorAll(selector)].map((element) => {
    const style = getComputedStyle(element);
    const own = luminance(element.namespaceURI.endsWith("svg") ? style.fill : style.color);
    return (Math.max(own, page) + 0.05) / (Math.min(own, page) + 0.05);
  });
}"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in all_rows()))
    files = [rows, RESULTS / "digits.jsonl", RESULTS / "training_step.jsonl"]
    return run_report(files, folder / "page", images=False)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


class Opened:
    """The report in a window of its own: what it asked for, and what it complained of."""

    def __init__(self, browser, report, width, scheme):
        self.page = browser.new_page(
            viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
        )
        self.url, self.requests, self.complaints = report.as_uri(), [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(self.url)
        settle(self.page)


@pytest.fixture(scope="module")
def desk(browser, report):
    return Opened(browser, report, 1280, "light")


@pytest.fixture(scope="module")
def phone(browser, report):
    return Opened(browser, report, 360, "dark")


@pytest.fixture
def page(desk):
    """The wide page with its first choices; whatever a test does must load and log nothing."""
    desk.page.evaluate(
        """() => document.querySelectorAll("form[data-controls]").forEach((form) => {
          form.reset();
          form.dispatchEvent(new Event("change"));
        })"""
    )
    settle(desk.page)
    yield desk.page
    assert desk.requests == [desk.url]
    assert desk.complaints == []


def settle(page):
    """Wait until all charts are drawn."""
    page.evaluate("() => window.drawn")


def curve_marks(page, name):
    return page.locator(f"#{name}-chart svg .mark-symbol path").count()


def visible_rows(page, name):
    rows = page.locator(f"#{name} .box:not([hidden]) tbody tr")
    return [text for text in rows.locator("visible=true").all_inner_texts() if text]


def test_every_chart_has_marks(page):
    charts = page.locator("[data-chart]").all()
    assert len(charts) == len(CHARTS) + 1  # and the demo
    for chart in charts:
        assert chart.locator("svg.marks").count() == 1
        assert chart.locator("svg .mark-symbol path").count() >= 4
    assert curve_marks(page, "fig4") == 15 * 5
    assert page.locator("#fig4-chart svg .mark-line path").count() == 15
    names = page.locator("#fig4-chart svg .mark-text.role-mark text").all_text_contents()
    assert len(names) == 16
    assert {"dense", "SE-Emp", "Local-Grouped"} <= set(names)
    assert page.locator("#fig1 .filters img").count() == 2 * 6 * 3
    assert page.locator("#training-step tbody tr").count() == 24


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    return run_report(sorted(RESULTS.glob("*.jsonl")), folder, images=False)


def test_all_our_results_are_drawn(browser, results):
    window = Opened(browser, results, 1280, "light")
    charts = window.page.locator("[data-chart]").all()
    assert len(charts) >= 3
    for chart in charts:
        assert chart.locator("svg .mark-symbol path, svg .mark-rect path").count() >= 1
    assert window.requests == [window.url]
    assert window.complaints == []
    window.page.close()


def test_charts_are_drawn_again_when_the_screen_turns_dark_or_narrow(page):
    marks = page.locator(".chart svg .mark-symbol path").count()
    page.emulate_media(color_scheme="dark")
    settle(page)
    assert page.locator(".chart svg .mark-symbol path").count() == marks
    page.set_viewport_size({"width": 500, "height": 900})
    page.locator("#fig4-chart:not(:has(.mark-text.role-mark text))").wait_for()
    page.set_viewport_size({"width": 1280, "height": 900})
    page.locator("#fig4-chart:has(.mark-text.role-mark text)").wait_for()
    page.emulate_media(color_scheme="light")
    settle(page)
    assert page.locator(".chart svg .mark-symbol path").count() == marks


def test_names_beside_the_lines_do_not_overlap(page):
    texts = page.locator("#fig4-chart svg .mark-text.role-mark text").all()
    tops = sorted(text.bounding_box()["y"] for text in texts)
    assert min(b - a for a, b in pairwise(tops)) > 12
    left = page.locator("#fig4-chart").bounding_box()["x"]
    assert min(text.bounding_box()["x"] for text in texts) >= left


def test_a_curve_is_filtered_out_of_chart_and_table(page):
    before = visible_rows(page, "fig4")
    page.locator('#fig4 input[value="SE-Emp"]').focus()
    page.keyboard.press("Space")
    settle(page)
    assert curve_marks(page, "fig4") == 14 * 5
    after = visible_rows(page, "fig4")
    assert len(before) == 16
    assert [row for row in before if row not in after] == [
        row for row in before if row.split("\t")[0] == "SE-Emp"
    ]
    assert curve_marks(page, "fig5") == 15 * 5
    assert page.locator("#fig4 .status").inner_text() == "15 of 22 lines shown."
    page.locator('#fig4 button:text-is("none")').click()
    settle(page)
    assert not page.locator("#fig4-chart").is_visible()
    assert visible_rows(page, "fig4") == []
    page.locator('#fig4 button:text-is("all")').click()
    settle(page)
    assert curve_marks(page, "fig4") == 15 * 5


def test_only_the_reference_may_be_left(page):
    page.locator('#fig4 button:text-is("none")').click()
    page.locator('#fig4 input[value="dense"]').check()
    settle(page)
    assert curve_marks(page, "fig4") == 0
    assert page.locator("#fig4-chart svg .mark-rule line").count() >= 1


def test_a_setting_is_filtered_in_chart_and_table(page):
    page.locator('#fig4 select[data-setting="columns"]').select_option("20")
    settle(page)
    assert curve_marks(page, "fig4") == 2
    rows = visible_rows(page, "fig4")
    assert [row.split("\t")[0] for row in rows] == ["dense", "RandCon-RandCon", "SE-Emp"]
    head = page.locator("#fig4 .box:not([hidden]) thead th").locator("visible=true")
    assert head.all_inner_texts() == ["curve", "5 %", "100 %"]
    page.locator('#fig4 select[data-setting="columns"]').select_option("")
    settle(page)
    names = page.locator("#fig4-chart svg .mark-text.role-mark text").all_text_contents()
    assert "SE-Emp, 20 columns" in names
    assert "narrow" in names


def test_a_measure_is_chosen_in_chart_and_table(page):
    first = visible_rows(page, "speech")
    page.locator("#speech select[name=metric]").select_option("digit_error")
    settle(page)
    assert page.locator("#speech-chart svg .role-title-text").text_content() == "digit error, %"
    other = visible_rows(page, "speech")
    assert len(other) == len(first) == 3
    assert other != first


def test_on_a_phone_lines_are_drawn_and_named_by_their_keys(phone):
    assert curve_marks(phone.page, "fig4") == 15 * 5
    assert phone.page.locator("#fig4-chart svg .mark-text.role-mark text").count() == 0
    assert phone.page.locator("#fig4 .key .swatch").count() == 16
    assert phone.requests == [phone.url]
    assert phone.complaints == []


@pytest.mark.parametrize("window", ["desk", "phone"])
def test_nothing_is_wider_than_the_screen(window, request):
    page = request.getfixturevalue(window).page
    width = page.viewport_size["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # Text inside a drawing can be cut off though the drawing fits.
    outside = page.evaluate(
        """() => [...document.querySelectorAll(".chart svg text")].filter((text) => {
          const [own, drawing] = [text, text.ownerSVGElement].map((e) => e.getBoundingClientRect());
          return own.left < drawing.left - 0.5 || own.right > drawing.right + 0.5;
        }).map((text) => text.textContent)"""
    )
    assert outside == []


def test_names_leave_room_for_the_numbers_beside_them_on_a_phone(browser, results):
    window = Opened(browser, results, 360, "light")
    boxes = window.page.locator(".box").locator("visible=true").all()
    assert len(boxes) >= 6
    for box in boxes:
        # The names stay where they are while the numbers are pushed past below them.
        name = box.locator("tbody th").locator("visible=true").first
        assert name.bounding_box()["width"] < 0.6 * box.bounding_box()["width"]
    window.page.close()


@pytest.mark.parametrize("name", ["fig1", "fig4", "fig5"])
def test_no_column_is_cut_on_a_desk(browser, results, name):
    window = Opened(browser, results, 1280, "light")
    box = window.page.locator(f"#{name} .box").locator("visible=true").first
    last = box.locator("thead th").locator("visible=true").last.bounding_box()
    outer = box.bounding_box()
    assert last["x"] + last["width"] <= outer["x"] + outer["width"] <= 1280
    window.page.close()


@pytest.fixture(scope="module")
def small_reports(tmp_path_factory):
    """A probed network, and one network's runs, which are no line yet."""
    folder = tmp_path_factory.mktemp("small")
    runs = [labelled_row("fig4", "SE-Emp", 0.1, seed, 2.0 + seed) for seed in range(3)]
    found = {}
    for name, rows in (("probe", [probe_row()]), ("single", runs)):
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        found[name] = run_report([file], folder / name, images=False)
    return found


@pytest.mark.parametrize("width", [1280, 360])
def test_a_probe_says_first_what_matters_and_draws_what_is_below_zero(
    browser, small_reports, width
):
    window = Opened(browser, small_reports["probe"], width, "light")
    page = window.page
    outputs, weights = page.locator("section").all()
    assert "what matters for the network" in outputs.inner_text()
    assert "With 5 % known, the best dictionary reaches 60.0 to 90.0 %" in outputs.inner_text()
    text = weights.inner_text()
    assert "Below 0 a prediction is worse than the mean." in text
    assert "Drawn at -100 % though lower: 2, 5 %, Kernel: -350.0 %." in text
    zero = weights.locator("svg .mark-rule.role-mark line").bounding_box()["x"]
    symbols = weights.locator("svg .mark-symbol.role-mark path").all()
    assert sum(symbol.bounding_box()["x"] + 4 < zero for symbol in symbols) == 2
    for section in (outputs, weights):
        for name in ("floor", "Kernel", "DCT", "ceiling"):
            assert section.locator(f'dl.names dt:text-is("{name}")').is_visible()
        assert section.locator("dl.names dt").count() == 4
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert window.complaints == []
    page.close()


@pytest.mark.parametrize("width", [1280, 360])
def test_a_single_network_is_a_bar_with_its_spread(browser, small_reports, width):
    window = Opened(browser, small_reports["single"], width, "dark")
    page = window.page
    bar = page.locator(".chart svg path[aria-roledescription=bar]").bounding_box()
    spread = page.locator(".chart svg .mark-rule.role-mark line").bounding_box()
    end = bar["x"] + bar["width"]
    assert spread["x"] < end < spread["x"] + spread["width"]
    assert bar["width"] > 0.5 * page.locator(".chart").bounding_box()["width"]
    assert page.locator("dl.names dt").all_inner_texts() == ["SE", "Emp"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert window.complaints == []
    page.close()


@pytest.mark.parametrize("window", ["desk", "phone"])
def test_every_curve_has_its_sentence(window, request):
    page = request.getfixturevalue(window).page
    for name in ("fig4", "fig5", "rica", "speech"):
        curves = page.locator(f"#{name} .key input").evaluate_all("all => all.map(x => x.value)")
        named = page.locator(f"#{name} dl.names dt").all_inner_texts()
        assert named == terms(curves)
        assert all(terms([curve]) for curve in curves)
        assert page.locator(f"#{name} dl.names").is_visible()


@pytest.mark.parametrize("window", ["desk", "phone"])
def test_text_stands_out_from_a_light_and_from_a_dark_page(window, request):
    page = request.getfixturevalue(window).page
    for selector in (
        ".chart svg .role-axis-label text",
        ".chart svg .role-axis-title text",
        ".chart svg .role-title text",
        ".chart svg .role-legend-label text",
        "caption",
        ".n",
        ".key",
    ):
        contrasts = page.evaluate(CONTRASTS, selector)
        assert contrasts, selector
        assert min(contrasts) >= 4.5, selector
    assert min(page.evaluate(CONTRASTS, ".swatch path[fill]")) >= 3


def test_every_control_has_a_name_and_every_chart_a_description(page):
    snapshot = page.locator("#fig4").aria_snapshot()
    for words in ('checkbox "SE-Emp"', 'combobox "columns"', 'group "Curves"', "status: 16 of 22"):
        assert words in snapshot
    for chart in page.locator("[data-chart]").all():
        assert "the numbers" in chart.get_attribute("aria-label")
    assert page.locator('.box:not([tabindex="0"])').count() == 0
