"""The page in a browser: filters, bars, folding, paging, the keyboard, and its security policy.

The tests wait by locators alone (``expect``). The page's content security policy forbids evaluated
text, so ``wait_for_function`` fails as soon as it has to poll, which it does on a busy machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.models.base_cards import BASES
from harness.reporting.page import write as page
from tests.reporting.page_study import HOSTILE_FILE, page_study
from tests.toy_method import save_base

WITHOUT = "needs playwright (the test group of pyproject.toml)"
playwright = pytest.importorskip("playwright.sync_api", reason=WITHOUT)
expect = playwright.expect
CHROMIUM = Path("/usr/bin/chromium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.thorough,
    pytest.mark.skipif(
        not CHROMIUM.exists(),
        reason="needs Chromium at /usr/bin/chromium (apt-get install chromium)",
    ),
]
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
PATIENCE = 120_000
"""Milliseconds until a wait fails: far more than a busy machine needs."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        expect.set_options(timeout=PATIENCE)
        given = {"args": ARGUMENTS, "timeout": PATIENCE}
        found = started.chromium.launch(executable_path=str(CHROMIUM), **given)
        yield found
        found.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("browser")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BASES, "tiny", save_base(root / "tiny"))
        return page.write(page_study(root / "study", root / "pool"), own=True)


@pytest.fixture(scope="module")
def tab(browser: Any) -> tuple[Any, list[str]]:
    """One tab for all tests, and what it said and asked for since the list was last emptied."""
    view = browser.new_page()
    view.set_default_timeout(PATIENCE)
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


def cards(view: Any, number: int) -> None:
    """The page shows this number of pairs and dropped prompts."""
    expect(view.locator(".card")).to_have_count(number)


def count(view: Any, start: str) -> None:
    """The line above the cards begins so."""
    expect(view.locator("#count")).to_have_text(re.compile("^" + re.escape(start)))


def test_it_opens_on_the_first_run_with_its_true_counts(shown: Any) -> None:
    cards(shown, 20)
    expect(shown.locator("#count")).to_have_text(
        "1 to 20 of 60 matches. In this page: 48 of 48 pairs and 12 of 12 dropped prompts."
    )
    expect(shown.locator("#run option")).to_have_text(["SENA", "SIMA", "all runs"])
    parts = shown.locator(".bar").first.locator("> span")
    expect(parts).to_have_text(["became a pair", "", "48 (80.0 %)"])
    images = shown.locator("img")
    assert images.count() > 20
    for image in images.all():
        expect(image).to_have_js_property("complete", True)
        expect(image).not_to_have_js_property("naturalWidth", 0)


def test_search_narrows_the_cards(shown: Any) -> None:
    shown.get_by_label("Search").fill("NUMBER 12 table")
    cards(shown, 2)
    expect(shown.locator(".card").first).to_contain_text("number 12")
    shown.get_by_label("Search").fill("no such words")
    cards(shown, 0)
    count(shown, "Nothing matches these filters.")
    shown.get_by_role("button", name="Clear").click()
    cards(shown, 20)


def test_filters_by_seed_kind_and_reason(shown: Any) -> None:
    shown.locator("#seed").select_option("1")
    count(shown, "1 to 20 of 30 matches")
    shown.get_by_label("Kind").select_option("description")
    kinds = shown.locator(".card h3")
    expect(kinds.filter(has_not_text="description")).to_have_count(0)
    expect(kinds.filter(has_text="description")).not_to_have_count(0)
    shown.get_by_label("Kind").select_option("")
    shown.get_by_label("Outcome").select_option(label="dropped: no question")
    expect(shown.locator(".badge")).to_have_text(["dropped: no question"] * 3)
    shown.get_by_label("Outcome").select_option("dropped")
    cards(shown, 6)
    expect(shown.locator("#round")).to_be_hidden()


def test_a_bar_filters_by_its_reason_and_takes_it_back(shown: Any) -> None:
    bar = shown.get_by_role("button", name=re.compile("equal answers"))
    bar.click()
    expect(bar).to_have_attribute("aria-pressed", "true")
    badges = shown.locator(".badge")
    expect(badges.filter(has_not_text="dropped: equal answers")).to_have_count(0)
    expect(badges.filter(has_text="dropped: equal answers")).not_to_have_count(0)
    expect(bar).to_be_focused()  # the bar has kept the focus
    shown.keyboard.press("Enter")
    expect(bar).to_have_attribute("aria-pressed", "false")
    cards(shown, 20)


def test_folding_shows_the_way_of_a_pair(shown: Any) -> None:
    card = shown.locator(".card").first
    expect(card.locator("dl")).to_be_hidden()
    card.get_by_text("How it was made").click()
    expect(card.locator("dl")).to_be_visible()
    expect(card.locator("dt").nth(0)).to_have_text("asked itself")
    expect(card.locator("dt").nth(1)).to_have_text("checked the question")
    expect(card.locator("mark.chosen")).to_have_text(["red", "table"])
    expect(card.locator("mark.rejected")).to_have_text(["blue", "chair and a cup"])


def test_pages_turn(shown: Any) -> None:
    expect(shown.get_by_role("button", name="Previous")).to_be_disabled()
    shown.get_by_role("button", name="Next").click()
    count(shown, "21 to 40 of 60")
    shown.get_by_role("button", name="Next").click()
    expect(shown.get_by_role("button", name="Next")).to_be_disabled()
    shown.get_by_label("Outcome").select_option("kept")
    count(shown, "1 to 20 of 48")


def test_another_run_has_its_own_reasons(shown: Any) -> None:
    shown.get_by_label("Run").select_option("SIMA")
    cards(shown, 4)
    reasons = shown.locator("#outcome option")
    expect(reasons).to_have_count(4)
    expect(reasons.nth(3)).to_contain_text("document.title")
    shown.get_by_label("Outcome").select_option(index=3)
    cards(shown, 2)
    shown.get_by_label("Run").select_option("SENA")
    cards(shown, 20)


def test_a_images_id_finds_every_prompt_about_it(shown: Any) -> None:
    shown.get_by_role("button", name="01.png", exact=True).first.click()
    where = [f"{run}, seed {seed}, round 1" for run in ("SENA", "SIMA") for seed in (0, 1)]
    expect(shown.locator(".where")).to_have_text(where)
    shown.get_by_label("Search").fill(HOSTILE_FILE)
    cards(shown, 2)
    expect(shown.get_by_role("button", name=HOSTILE_FILE, exact=True)).to_have_count(2)


def test_hostile_text_is_shown_as_text(shown: Any) -> None:
    shown.get_by_label("Search").fill("</script>")
    cards(shown, 2)
    expect(shown.locator(".answer.chosen").first).to_contain_text("<img src=x onerror=")
    expect(shown.locator("img[src='x']")).to_have_count(0)


def test_images_enlarge_and_escape_closes(shown: Any) -> None:
    shown.locator(".image").nth(1).click()
    expect(shown.locator("#large img")).to_have_count(2)
    expect(shown.locator("#large")).to_contain_text("diffusion, step 420")
    expect(shown.locator("#large")).to_be_visible()
    shown.keyboard.press("Escape")
    expect(shown.locator("#large")).to_be_hidden()


def test_the_keyboard_reaches_the_pairs_at_once(shown: Any) -> None:
    shown.keyboard.press("Tab")
    expect(shown.get_by_role("link", name="Skip to the pairs", exact=True)).to_be_focused()
    shown.keyboard.press("Enter")
    expect(shown).to_have_url(re.compile("#pairs$"))
    shown.keyboard.press("Tab")
    expect(shown.locator("#run")).to_be_focused()
    named = shown.locator("label select, label input").count()
    assert named >= 11
    expect(shown.locator("select, input")).to_have_count(named)


def test_the_questions_open_on_what_changed_and_are_filtered(shown: Any) -> None:
    expect(shown.locator("#q-benchmark option")).to_have_text(["synthetic CHAIR", "synthetic POPE"])
    expect(shown.locator("#q-row option")).to_have_text(["SENA", "SIMA"])
    expect(shown.locator("#q-sum")).to_contain_text("against untrained on all 8 questions")
    shown.get_by_label("Change").select_option("")
    asked = shown.locator(".asked")
    expect(asked).to_have_count(8)
    shown.get_by_label("Find").fill("describe 3")
    expect(asked).to_have_count(1)
    expect(asked.locator("mark")).to_have_text(["dog"])
    expect(asked.locator(".answer.mine")).to_contain_text("a dog , says sena")
    expect(asked.locator(".truth")).to_have_text("truth: cup <b>")
    asked.get_by_text("Answers of the other rows").click()
    expect(asked.locator("dt")).to_have_text(["SIMA"])
    expect(asked.locator("dt")).to_be_visible()
    shown.get_by_label("Find").fill("")
    shown.locator("#q-row").select_option(label="SIMA")
    expect(shown).to_have_url(re.compile("#q/0/0/1/$"))
    shown.get_by_label("Benchmark").select_option(label="synthetic POPE")
    shown.get_by_label("Change").select_option("")
    expect(asked.first).to_contain_text("the answer is not stored")
    expect(shown.locator("#q-sum")).to_contain_text("training seed 0, one of 2")


def test_an_empty_search_says_why_and_takes_filters_back(shown: Any) -> None:
    shown.get_by_label("Find").fill("no such words")
    shown.get_by_label("Change").select_option("w")
    empty = shown.locator("#q-empty")
    expect(empty).to_contain_text("No question where SENA is better in")
    expect(empty).to_contain_text("with the words “no such words”")
    empty.get_by_role("button", name="Remove the words").click()
    expect(shown.get_by_label("Find")).to_have_value("")
    expect(shown.get_by_label("Find")).to_be_focused()
    shown.get_by_label("Search").fill("no such words")
    shown.get_by_label("Outcome").select_option("dropped")
    empty = shown.locator("#empty")
    expect(empty).to_contain_text("all of: SENA, dropped, all reasons, the words “no such words”")
    empty.get_by_role("button", name="Any outcome").click()
    expect(shown.locator("#outcome")).to_have_value("")
    empty.get_by_role("button", name="Remove the words").click()
    expect(empty).to_be_hidden()
    cards(shown, 20)


def test_a_table_is_one_tab_stop_and_the_arrow_keys_move_in_it(shown: Any) -> None:
    links = shown.locator("section.block").nth(1).locator("td a")
    expect(shown.locator("section.block").nth(1).locator("[tabindex='0']")).to_have_count(1)
    links.first.focus()
    shown.keyboard.press("ArrowRight")
    expect(links.nth(1)).to_be_focused()
    shown.keyboard.press("ArrowDown")
    expect(links.nth(6)).to_be_focused()  # the same metric of the next row
    shown.keyboard.press("ArrowDown")
    expect(links.nth(6)).to_be_focused()
    shown.keyboard.press("Shift+Tab")
    shown.keyboard.press("Tab")
    expect(links.nth(6)).to_be_focused()


def too_wide(view: Any) -> list[str]:
    """The tables that are wider than their frames."""
    found: list[str] = view.locator(".scroll").evaluate_all(
        "all => all.filter(one => one.scrollWidth > one.clientWidth).map(one => one.ariaLabel)"
    )
    return found


def test_no_table_scrolls_on_a_screen_or_loses_a_column_in_print(shown: Any) -> None:
    shown.locator("main > section > details").evaluate_all(
        "all => all.forEach(one => one.open = true)"
    )
    assert shown.locator(".scroll").count() > 4
    for width in (1440, 768, 390):
        shown.set_viewport_size({"width": width, "height": 700})
        assert too_wide(shown) == []
    shown.set_viewport_size({"width": 1030, "height": 700})  # A4 landscape without its margins
    shown.emulate_media(media="print")
    assert too_wide(shown) == []
    expect(shown.locator("#filters")).to_be_hidden()
    shown.emulate_media(media="screen")


def test_what_is_folded_is_printed(shown: Any) -> None:
    note = shown.locator(".notes li").first
    expect(note).to_be_hidden()
    shown.emulate_media(media="print")
    expect(note).to_be_visible()
    shown.emulate_media(media="screen")


def test_light_and_dark_follow_the_reader(shown: Any) -> None:
    body = shown.locator("body")
    expect(body).to_have_css("background-color", "rgb(247, 247, 244)")
    shown.emulate_media(color_scheme="dark")
    expect(body).to_have_css("background-color", "rgb(21, 23, 26)")
    shown.emulate_media(color_scheme="light")


def test_a_cell_leads_to_its_questions_by_the_keyboard_too(shown: Any) -> None:
    block = shown.locator("section.block").nth(1)
    line = block.locator("tr").filter(has=shown.locator("th", has_text=re.compile("^SIMA$")))
    link = line.locator("td a").nth(2)
    link.focus()
    shown.keyboard.press("Enter")
    expect(shown.locator("#q-sum")).to_be_focused()
    chosen = {"benchmark": "0", "metric": "2", "row": "1", "change": "wl"}
    for name, value in chosen.items():
        expect(shown.locator(f"#q-{name}")).to_have_value(value)
    shown.go_back()
    expect(shown).not_to_have_url(re.compile("#q/"))
    expect(block.locator("td a")).to_have_count(2 * 5)  # the baseline's own cells have no link


def test_hostile_questions_are_shown_as_text(shown: Any) -> None:
    shown.get_by_label("Change").select_option("")
    shown.get_by_label("Find").fill("</script>")
    expect(shown.locator(".asked")).to_have_count(1)
    expect(shown.locator(".asked .prompt")).to_contain_text("<img src=x onerror=")
    expect(shown.locator("img[src='x']")).to_have_count(0)


def test_a_phone_needs_no_sideways_scrolling(shown: Any) -> None:
    shown.set_viewport_size({"width": 360, "height": 740})
    shown.get_by_label("Change").select_option("")
    shown.locator(".card").first.get_by_text("How it was made").click()
    expect(shown.locator(".card").first.locator("dl")).to_be_visible()
    expect(shown.locator("html")).to_have_js_property("scrollWidth", 360)


def test_the_policy_stops_what_is_not_the_pages_own(tab: tuple[Any, list[str]], path: Path) -> None:
    view, said = tab
    view.goto(path.as_uri())
    said.clear()
    other = (path.parent / "other.png").as_uri()
    with view.expect_event("requestfailed", lambda failed: failed.url == other) as refused:
        view.evaluate("""() => {
                const own = {textContent: "document.title = 'taken'"};
                document.body.append(Object.assign(document.createElement("script"), own));
                const image = {src: "other.png"};
                document.body.append(Object.assign(document.createElement("img"), image));
            }""")
    assert refused.value.failure == "csp"
    expect(view).to_have_title("compare")
    assert [one for one in said if one.startswith(f"{other} ")] == [f"{other} csp"]
