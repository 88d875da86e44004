"""Pages as a browser shows them: a headless Chromium of the system, light and dark, on a phone and on a screen."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kshot_ext.nas.charts import curves_chart
from kshot_ext.nas.findings import Figure
from kshot_ext.nas.reporting import page as pages

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("no chromium on this machine: pages are not looked at", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pages are not looked at")

WIDTHS, SCHEMES = (375, 1280), ("light", "dark")
LONG = "a_very_long_name_without_any_place_to_break_it_" * 4
# Words on the page whose letters stand on several lines; hashes and names longer than a line may.
BROKEN_WORDS = """
() => {
  const broken = [];
  const texts = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const node = texts.currentNode;
    if (!node.parentElement.checkVisibility() || node.parentElement.closest("svg, pre")) continue;
    for (const found of node.data.matchAll(/[^\\s\\-/→,()]+/g)) {
      if (found[0].length > 24) continue;
      const range = document.createRange();
      range.setStart(node, found.index);
      range.setEnd(node, found.index + found[0].length);
      if (new Set([...range.getClientRects()].map((box) => Math.round(box.top))).size > 1) broken.push(found[0]);
    }
  }
  return broken;
}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with playwright.sync_playwright() as driver:
        # Without its sandbox, which a container does not allow: it shows nothing but pages of these tests.
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


class Shown:
    """A page that a browser shows, and what went wrong on it.

    Args:
        browser: shows it.
        file: the page.
        width: of the window.
        scheme: ``"light"`` or ``"dark"``.
        program: whether the page's program runs.
    """

    def __init__(self, browser, file: Path, width: int = 1280, scheme: str = "light", program: bool = True) -> None:
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, java_script_enabled=program
        )
        self.page = context.new_page()
        self.errors: list[str] = []
        self.asked_for: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: self.errors.append(message.text))  # a broken policy is told here
        self.page.on("request", lambda request: self.asked_for.append(request.url))
        self.page.goto(file.as_uri())

    def text(self, selector: str) -> str:
        """The text that is seen there."""
        return self.page.locator(selector).first.inner_text()

    def check(self) -> None:
        """Checks that nothing went wrong, and nothing was fetched."""
        assert self.errors == []
        assert len(self.asked_for) == 1
        self.page.context.close()


@pytest.fixture
def show(browser, tmp_path: Path) -> Callable[..., Shown]:
    """Shows the text of a page: ``show(text, width=375)``."""

    def show(text: str, **options: object) -> Shown:
        file = tmp_path / "page.html"
        file.write_text(text)
        return Shown(browser, file, **options)

    return show


def _compare_page() -> str:
    table = pages.Table(("", LONG, "b"), [("training.learning_rate", "0.1", "0.25"), (LONG, LONG, "-")])
    figure = Figure("Loss", "", curves_chart({LONG: [(1, 2.0), (2, 1.5)]}, "epoch", "loss"))
    return pages.render(
        "compare.html", title=f"{LONG} and b", lead="two", settings=table, results=table, figures=[figure]
    )


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_pages_fit_any_window_and_both_schemes(make_page, show, width: int, scheme: str) -> None:
    paper = {"light": "rgb(255, 255, 255)", "dark": "rgb(28, 31, 38)"}
    for text in (make_page(), make_page(LONG), _compare_page()):
        shown = show(text, width=width, scheme=scheme)
        for open_all in (False, True):
            if open_all:
                shown.page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
            assert shown.page.evaluate("document.documentElement.scrollWidth") == width
            assert shown.page.evaluate(BROKEN_WORDS) == []
        assert shown.page.evaluate("getComputedStyle(document.querySelector('main')).backgroundColor") == paper[scheme]
        shown.check()


def test_a_comparison_needs_no_scrolling_aside_on_a_phone(show) -> None:
    shown = show(_compare_page(), width=375)
    widths = "[...document.querySelectorAll('.scroll')].map((each) => [each.scrollWidth, each.clientWidth])"
    assert all(content <= room for content, room in shown.page.evaluate(widths))
    shown.check()


def test_the_search_for_broken_words_finds_them(show) -> None:
    text = _compare_page().replace("<h2>", '<p id="narrow">accumulates</p><h2>', 1)
    shown = show(text)
    shown.page.evaluate(
        "Object.assign(document.querySelector('#narrow').style, {width: '3em', wordBreak: 'break-all'})"
    )
    assert shown.page.evaluate(BROKEN_WORDS) == ["accumulates"]


def test_numbers_are_seen_without_the_program(make_page, show) -> None:
    shown = show(make_page(), program=False)
    text = shown.text("main")
    for expected in ("98.76%", "94.59%", "0123456789abcdef", "02111111", "identity", "1.15 k", "1 → 2 ch"):
        assert expected in text, expected
    assert "kshot-ext retrain digits --architecture 02111111" in shown.text("#chosen .command")
    assert "A click on a point" not in text  # as nothing would come of it
    assert shown.page.locator("#chosen .network li").count() == 10
    shown.check()


def test_a_point_tells_itself_and_a_click_shows_its_architecture(make_page, show) -> None:
    shown = show(make_page())
    assert shown.text("#chosen h3") == "Architecture 02111111 winner"
    area = shown.page.locator(".area", has=shown.page.locator(".front")).first
    point = area.locator(".front [data-key='00000000']")
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    shown.page.mouse.move(box["x"] + box["width"] / 2 + 5, box["y"] + box["height"] / 2 + 5)  # near is enough
    assert re.match(r"00000000: loss 1\.8765, accuracy 43\.21%, .* M; on the front", shown.text("#tip"))
    shown.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert shown.text("#chosen h3") == "Architecture 00000000 on the Pareto front"
    assert "43.21%" in shown.text("#chosen dl")
    assert "test accuracy" not in shown.text("#chosen dl")
    assert shown.text("#chosen .command") == "kshot-ext retrain digits --architecture 00000000"
    assert shown.page.locator("#chosen .network b").all_inner_texts() == ["stem", *["identity"] * 8, "head"]
    shown.page.mouse.move(2, 2)
    assert not shown.page.locator("#tip").is_visible()
    shown.page.locator("tr[data-key='12111111'] button").click()
    assert shown.text("#chosen h3") == "Architecture 12111111 random"
    assert (
        shown.page.locator("tr.picked").all_inner_texts()
        == shown.page.locator("tr[data-key='12111111']").all_inner_texts()
    )
    shown.check()


def test_points_are_reached_by_the_keyboard(make_page, show) -> None:
    shown = show(make_page())
    area = shown.page.locator(".area", has=shown.page.locator(".front")).first
    area.focus()
    seen = []
    for _ in range(6):
        shown.page.keyboard.press("ArrowRight")
        seen.append(shown.text("#tip").partition(":")[0])
    assert {"00000000", "22222222", "02111111"} <= set(seen)
    assert seen[0] == "00000000"  # the cheapest is the first
    shown.page.keyboard.press("ArrowLeft")
    shown.page.keyboard.press("Enter")
    assert shown.text("#chosen h3").split()[1] == seen[4]
    shown.page.keyboard.press("Escape")
    assert not shown.page.locator("#tip").is_visible()
    shown.check()


def test_what_names_hold_is_text(make_page, show) -> None:
    hostile = "</script><script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"
    shown = show(make_page(hostile))
    assert shown.page.title() == hostile
    assert shown.page.locator("img").count() == 0
    assert hostile in shown.text("#chosen .command")
    shown.check()


def test_the_policy_stops_programs_that_are_not_the_pages(make_page, show) -> None:
    text = make_page().replace("</main>", "<script>document.title = 'taken'</script></main>")
    shown = show(text)
    assert shown.page.title() == "digits"
    assert any("Content Security Policy" in error for error in shown.errors)


def test_all_is_printed_on_white(make_page, show) -> None:
    shown = show(make_page(), scheme="dark")
    shown.page.emulate_media(media="print", color_scheme="dark")
    assert shown.page.evaluate("getComputedStyle(document.body).color") == "rgb(31, 36, 48)"
    shown.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert shown.page.locator("details:not([open])").count() == 0
    shown.page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert shown.page.locator("details:not([open])").count() == 1
    shown.check()
