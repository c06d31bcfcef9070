"""The documentation site in a browser, opened from disk: links, search, small screens, dark mode.

``WEIGHTCAST_SITE`` names a site that `make docs` built; without it one is built here, and the
gallery is not executed.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urldefrag

import pytest

import weightcast
import weightcast.integrations

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

pytest.importorskip("sphinx", reason="the extra docs is not installed: make docs")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the PATH")

# The contrast of WCAG 2 of every piece of text with what lies behind it, below 4.5.
FAINT = """() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = (colour) => rgba(colour).slice(0, 3)
    .map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    while (element && rgba(getComputedStyle(element).backgroundColor)[3] < 255)
      element = element.parentElement;
    return luminance(element ? getComputedStyle(element).backgroundColor : "white");
  };
  const walker = document.createTreeWalker(document.querySelector("article"), NodeFilter.SHOW_TEXT);
  const found = new Set();
  while (walker.nextNode()) {
    const parent = walker.currentNode.parentElement;
    const shown = parent.checkVisibility({opacityProperty: true});
    if (!walker.currentNode.data.trim() || !shown) continue;
    const [text, page] = [luminance(getComputedStyle(parent).color), behind(parent)];
    const contrast = (Math.max(text, page) + 0.05) / (Math.min(text, page) + 0.05);
    if (contrast < 4.5) found.add(`${walker.currentNode.data.trim()}: ${contrast.toFixed(1)}`);
  }
  return [...found];
}"""

# What reaches over the right edge and lies in no box of its own that scrolls.
WIDE = """() => {
  const boxed = (element) => {
    for (let box = element.parentElement; box.tagName != "ARTICLE"; box = box.parentElement)
      if (["auto", "scroll"].includes(getComputedStyle(box).overflowX)) return true;
    return false;
  };
  return [...document.querySelectorAll("article *")]
    .filter((e) => e.checkVisibility() && e.getBoundingClientRect().right > innerWidth + 1)
    .filter((e) => !boxed(e))
    .map((e) => `${e.tagName} ${e.className} ${e.getBoundingClientRect().right}`);
}"""

QUESTIONS = {
    "which dictionary for my layer": (["Choosing: dictionary"], "Which dictionary"),
    "which learning rate": (["Choosing: rate"], "Which rate"),
    "a pretrained network": (["What to do with it"], "to fine-tune, learning few weights"),
    "what a function takes": (["API reference", "compress"], "weightcast.compress"),
    "Hugging Face and its Trainer": (["Hugging Face"], "With its Trainer"),
    "saving and sharing": (["Save and share"], "push_to_hub"),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The folder of a built site."""
    if "WEIGHTCAST_SITE" in os.environ:
        return Path(os.environ["WEIGHTCAST_SITE"]).resolve()
    folder = tmp_path_factory.mktemp("repository")
    for path in ROOT.iterdir():
        if path.name in ("src", "examples", "results") or path.suffix == ".md":
            (folder / path.name).symlink_to(path)
    shutil.copytree(ROOT / "docs", folder / "docs", ignore=shutil.ignore_patterns("gallery"))
    options = ["-W", "--keep-going", "-q", "-D", "sphinx_gallery_conf.plot_gallery=0"]
    command = [sys.executable, "-m", "sphinx", *options, folder / "docs", folder / "site"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def desk(browser, site):
    """The front page on a wide screen; it must load from disk, and complain of nothing."""
    yield from opened(browser, site, width=1280)


@pytest.fixture
def phone(browser, site):
    """The same on a small dark screen."""
    yield from opened(browser, site, width=360, scheme="dark")


def opened(browser, site, width, scheme="light"):
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    outside, complaints = [], []
    root = site.as_uri()
    page.on("request", lambda r: r.url.startswith((root, "data:")) or outside.append(r.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"{root}/index.html")
    yield page
    page.close()
    assert outside == []
    assert complaints == []


def pages(site: Path) -> list[str]:
    """The addresses of all pages."""
    return [path.as_uri() for path in sorted(site.rglob("*.html")) if "_static" not in path.parts]


def public_names() -> dict[str, object]:
    """What is public, by its full name."""
    modules = [weightcast]
    for name in ("dictionaries", "kernels", "measure", "testing"):
        modules.append(importlib.import_module(f"weightcast.{name}"))
    for found in pkgutil.iter_modules(weightcast.integrations.__path__, "weightcast.integrations."):
        if not found.name.rpartition(".")[2].startswith("_"):
            modules.append(importlib.import_module(found.name))
    names = {}
    for module in modules:
        own = {
            n for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__
        }
        listed = getattr(module, "__all__", [n for n in own if not n.startswith("_")])
        names |= {f"{module.__name__}.{name}": getattr(module, name) for name in listed}
    return names


def test_every_public_name_is_in_the_reference(site):
    from sphinx.util.inventory import InventoryFile

    with (site / "objects.inv").open("rb") as file:
        inventory = InventoryFile.load(file, "", lambda base, path: path)
    described = {name for kind, names in inventory.items() if kind[:3] == "py:" for name in names}
    names = public_names()
    assert len(names) > 80
    missing = [
        name
        for name, value in names.items()
        if name not in described
        and f"weightcast.{name.rpartition('.')[2]}" not in described
        # A constant is described where its class is.
        and (callable(value) or type(value).__name__ == "module")
    ]
    assert missing == [], "add these to docs/reference"


def test_no_page_loads_from_the_network(site):
    for page in sorted(site.rglob("*.html")):
        text = page.read_text("utf-8")
        for tag in ("<script", "<link", "<img"):
            for part in text.split(tag)[1:]:
                head = part.partition(">")[0]
                assert 'src="http' not in head, (page.name, head)
                assert 'href="http' not in head or 'rel="canonical"' in head, (page.name, head)


@needs_browser
def test_all_internal_links_lead_somewhere(site, desk):
    ids, links = {}, set()
    for address in pages(site):
        desk.goto(address)
        ids[address] = set(desk.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)"))
        hrefs = desk.evaluate("[...document.querySelectorAll('a[href]')].map(a => a.href)")
        links |= {(address, href) for href in hrefs if href.startswith("file:")}
    assert len(ids) > 40
    assert len(links) > 1000
    for address, href in links:
        target, fragment = urldefrag(href)
        target = target.partition("?")[0]
        if target in ids:
            assert not fragment or fragment in ids[target], f"{address}: {href}"
        else:
            assert Path(target.removeprefix("file://")).is_file(), f"{address}: {href}"


@needs_browser
@pytest.mark.parametrize(("words", "title"), [
    ("learning rate", "Which dictionary, which fraction, which rate"),
    ("LocalKernel", "Dictionaries"),
    ("onnxruntime", "ONNX and torch.export"),
])  # fmt: skip
def test_search_finds_a_page(desk, words, title):
    desk.get_by_placeholder("Search").first.fill(words)
    desk.keyboard.press("Enter")
    desk.locator("#search-results .search-summary").wait_for()
    desk.locator("#search-results li a", has_text=title).first.click()
    assert title in desk.title()


@needs_browser
def test_no_page_is_wider_than_a_small_screen(site, phone):
    wide = {}
    for address in pages(site):
        phone.goto(address)
        if found := phone.evaluate(WIDE):
            wide[address.rpartition("/")[2]] = found[0]
    assert wide == {}


@needs_browser
@pytest.mark.parametrize("name", [
    "index", "choosing", "howto/train", "layers", "reference/verbs", "gallery/plot_train"
])  # fmt: skip
def test_text_is_readable_in_dark_and_in_light(site, phone, name):
    address = f"{site.as_uri()}/{name}.html"
    phone.goto(address)
    assert phone.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert phone.evaluate(FAINT) == []
    phone.emulate_media(color_scheme="light")
    phone.goto(address)
    assert phone.evaluate(FAINT) == []


@needs_browser
@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_is_answered_in_two_clicks(desk, question):
    clicks, answer = QUESTIONS[question]
    assert len(clicks) <= 2
    for text in clicks:
        desk.locator("article").get_by_role("link", name=text, exact=False).first.click()
    assert answer in desk.locator("article").inner_text()


@needs_browser
def test_the_front_page_fits_one_screen(desk):
    for text in ("You train from scratch", "You have a trained network", "You study networks"):
        box = desk.get_by_text(text).bounding_box()
        assert box is not None
        assert box["y"] + box["height"] < 800
