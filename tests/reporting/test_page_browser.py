"""The page in a browser: filters, bars, folding, paging, the keyboard, and that it neither reaches
out nor is taken over."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.models.base_cards import BASES
from harness.reporting.page import write as page
from tests.reporting.page_study import HOSTILE_FILE, page_study
from tests.toys import save_base

playwright = pytest.importorskip(
    "playwright.sync_api", reason="needs playwright (the test group of pyproject.toml)"
)
CHROMIUM = Path("/usr/bin/chromium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not CHROMIUM.exists(),
        reason="needs Chromium at /usr/bin/chromium (apt-get install chromium)",
    ),
]
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield found
        found.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("browser")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BASES, "tiny", save_base(root / "tiny"))
        return page.write(page_study(root / "study", root / "pool"))


@pytest.fixture(scope="module")
def tab(browser: Any) -> tuple[Any, list[str]]:
    """One tab for all tests, and what it said and asked for since the list was last emptied."""
    view = browser.new_page()
    said: list[str] = []
    view.on("console", lambda message: said.append(message.text))
    view.on("pageerror", lambda error: said.append(str(error)))
    view.on(
        "request",
        lambda wanted: said.append(wanted.url) if not wanted.url.startswith("data:") else None,
    )
    view.on("requestfailed", lambda failed: said.append(f"{failed.url} {failed.failure}"))
    return view, said


@pytest.fixture
def shown(tab: tuple[Any, list[str]], path: Path) -> Iterator[Any]:
    """The page, opened; afterwards nothing was said on the console, no request was made and no
    script of the data ran."""
    view, said = tab
    view.set_viewport_size({"width": 1280, "height": 900})
    said.clear()
    view.goto(path.as_uri())
    yield view
    assert said == [path.as_uri()]
    assert view.title() == "compare"


def cards(view: Any) -> int:
    return int(view.locator(".card").count())


def count(view: Any) -> str:
    return str(view.locator("#count").inner_text())


def test_it_opens_on_the_first_run_with_its_true_counts(shown: Any) -> None:
    assert cards(shown) == 20
    assert (
        count(shown)
        == "1 to 20 of 60 matches. In this page: 48 of 48 pairs and 12 of 12 dropped prompts."
    )
    assert shown.locator("#run option").all_inner_texts() == ["sena", "sima", "all runs"]
    assert shown.locator(".bar").all_inner_texts()[0].split("\n") == [
        "became a pair",
        "48 (80.0 %)",
    ]
    shown.wait_for_function(
        "[...document.images].every((image) => image.complete && image.naturalWidth > 0)"
    )


def test_search_narrows_the_cards(shown: Any) -> None:
    shown.get_by_label("Search").fill("NUMBER 12 table")
    assert cards(shown) == 2
    assert "number 12" in shown.locator(".card").first.inner_text()
    shown.get_by_label("Search").fill("no such words")
    assert cards(shown) == 0
    assert count(shown).startswith("Nothing matches these filters.")
    shown.get_by_role("button", name="Clear").click()
    assert cards(shown) == 20


def test_filters_by_seed_kind_and_reason(shown: Any) -> None:
    shown.locator("#seed").select_option("1")
    assert count(shown).startswith("1 to 20 of 30 matches")
    shown.get_by_label("Kind").select_option("description")
    assert set(shown.locator(".card h3").all_inner_texts()) == {"description"}
    shown.get_by_label("Kind").select_option("")
    shown.get_by_label("Outcome").select_option(label="dropped: no question")
    assert shown.locator(".badge").all_inner_texts() == ["dropped: no question"] * 3
    shown.get_by_label("Outcome").select_option("dropped")
    assert cards(shown) == 6
    assert shown.locator("#round").is_hidden()


def test_a_bar_filters_by_its_reason_and_takes_it_back(shown: Any) -> None:
    bar = shown.get_by_role("button", name=re.compile("equal answers"))
    bar.click()
    assert set(shown.locator(".badge").all_inner_texts()) == {"dropped: equal answers"}
    assert bar.get_attribute("aria-pressed") == "true"
    shown.keyboard.press("Enter")  # the bar has kept the focus
    assert bar.get_attribute("aria-pressed") == "false"
    assert cards(shown) == 20


def test_folding_shows_the_way_of_a_pair(shown: Any) -> None:
    card = shown.locator(".card").first
    assert not card.locator("dl").is_visible()
    card.get_by_text("How it was made").click()
    assert card.locator("dt").all_inner_texts()[:2] == ["asked itself", "checked the question"]
    assert card.locator("dl").is_visible()
    assert card.locator("mark.chosen").all_inner_texts() == ["red", "table"]
    assert card.locator("mark.rejected").all_inner_texts() == ["blue", "chair and a cup"]


def test_pages_turn(shown: Any) -> None:
    assert shown.get_by_role("button", name="Previous").is_disabled()
    shown.get_by_role("button", name="Next").click()
    assert count(shown).startswith("21 to 40 of 60")
    shown.get_by_role("button", name="Next").click()
    assert shown.get_by_role("button", name="Next").is_disabled()
    shown.get_by_label("Outcome").select_option("kept")
    assert count(shown).startswith("1 to 20 of 48")


def test_another_run_has_its_own_reasons(shown: Any) -> None:
    shown.get_by_label("Run").select_option("sima")
    assert cards(shown) == 4
    reasons = shown.locator("#outcome option").all_inner_texts()
    assert len(reasons) == 4
    assert "document.title" in reasons[3]
    shown.get_by_label("Outcome").select_option(index=3)
    assert cards(shown) == 2
    shown.get_by_label("Run").select_option("sena")
    assert cards(shown) == 20


def test_a_images_id_finds_every_prompt_about_it(shown: Any) -> None:
    shown.get_by_role("button", name="01.png", exact=True).first.click()
    assert shown.locator(".where").all_inner_texts() == [
        f"{run}, seed {seed}, round 1" for run in ("sena", "sima") for seed in (0, 1)
    ]
    shown.get_by_label("Search").fill(HOSTILE_FILE)
    assert cards(shown) == 2
    assert shown.get_by_role("button", name=HOSTILE_FILE, exact=True).count() == 2


def test_hostile_text_is_shown_as_text(shown: Any) -> None:
    shown.get_by_label("Search").fill("</script>")
    assert cards(shown) == 2
    assert "<img src=x onerror=" in shown.locator(".answer.chosen").first.inner_text()
    assert shown.locator("img[src='x']").count() == 0


def test_images_enlarge_and_escape_closes(shown: Any) -> None:
    shown.locator(".image").nth(1).click()
    assert shown.locator("#large img").count() == 2
    assert "diffusion, step 420" in shown.locator("#large").inner_text()
    shown.keyboard.press("Escape")
    assert shown.locator("#large").is_hidden()


def test_the_keyboard_reaches_the_pairs_at_once(shown: Any) -> None:
    shown.keyboard.press("Tab")
    assert shown.evaluate("document.activeElement.textContent") == "Skip to the pairs"
    shown.keyboard.press("Enter")
    shown.keyboard.press("Tab")
    assert shown.evaluate("document.activeElement.id") == "run"
    unnamed = (
        "[...document.querySelectorAll('select, input')].filter((one) => !one.labels.length).length"
    )
    assert shown.evaluate(unnamed) == 0


def test_the_questions_open_on_what_changed_and_are_filtered(shown: Any) -> None:
    assert shown.locator("#q-benchmark option").all_inner_texts() == [
        "synthetic CHAIR",
        "synthetic POPE",
    ]
    assert shown.locator("#q-row option").all_inner_texts() == ["sena", "sima"]
    assert "against untrained on all 8 questions" in shown.locator("#q-sum").inner_text()
    shown.get_by_label("Change").select_option("")
    assert shown.locator(".asked").count() == 8
    shown.get_by_label("Find").fill("describe 3")
    (asked,) = shown.locator(".asked").all()
    assert asked.locator("mark").all_inner_texts() == ["dog"]
    assert "a dog , says sena" in asked.locator(".answer.mine").inner_text()
    assert asked.locator(".truth").inner_text() == "truth: cup <b>"
    asked.get_by_text("Answers of the other rows").click()
    assert asked.locator("dt").all_inner_texts() == ["sima"]
    shown.get_by_label("Find").fill("")
    shown.locator("#q-row").select_option(label="sima")
    assert shown.url.endswith("#q/0/0/1/")
    shown.get_by_label("Benchmark").select_option(label="synthetic POPE")
    shown.get_by_label("Change").select_option("")
    assert "the answer is not stored" in shown.locator(".asked").first.inner_text()
    assert "training seed 0, one of 2" in shown.locator("#q-sum").inner_text()


def test_a_cell_leads_to_its_questions_by_the_keyboard_too(shown: Any) -> None:
    line = (
        shown.locator("section.block")
        .nth(0)
        .locator("tr")
        .filter(has=shown.locator("th", has_text=re.compile("^sima$")))
    )
    link = line.locator("td a").nth(2)
    link.focus()
    shown.keyboard.press("Enter")
    shown.wait_for_function("document.activeElement.id === 'q-sum'")
    assert [
        shown.locator(f"#q-{name}").input_value()
        for name in ("benchmark", "metric", "row", "change")
    ] == ["0", "2", "1", "wl"]
    shown.go_back()
    assert (
        shown.locator("section.block").nth(0).locator("td a").count() == 2 * 5
    )  # the baseline's own cells lead nowhere


def test_hostile_questions_are_shown_as_text(shown: Any) -> None:
    shown.get_by_label("Change").select_option("")
    shown.get_by_label("Find").fill("</script>")
    assert shown.locator(".asked").count() == 1
    assert "<img src=x onerror=" in shown.locator(".asked .prompt").inner_text()
    assert shown.locator("img[src='x']").count() == 0


def test_a_phone_needs_no_sideways_scrolling(shown: Any) -> None:
    shown.set_viewport_size({"width": 360, "height": 740})
    shown.get_by_label("Change").select_option("")
    shown.locator(".card").first.get_by_text("How it was made").click()
    assert shown.evaluate("document.documentElement.scrollWidth") == 360


def test_the_policy_stops_what_is_not_the_pages_own(tab: tuple[Any, list[str]], path: Path) -> None:
    view, said = tab
    view.goto(path.as_uri())
    said.clear()
    view.evaluate("""() => {
            const add = (tag, props) =>
                document.body.append(Object.assign(document.createElement(tag), props));
            add("script", {textContent: "window.taken = true"});
            add("img", {src: "other.png"});
        }""")
    view.wait_for_timeout(100)
    assert view.evaluate("window.taken") is None
    other = (path.parent / "other.png").as_uri()
    assert [one for one in said if one.startswith(f"{other} ")] == [f"{other} csp"]
