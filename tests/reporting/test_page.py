"""The page: what it holds, that nothing in it is markup but our own, and that its corrupted
images are those the model saw."""

from __future__ import annotations

import base64
import io
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from harness.artifacts.results_folder import Results, read_json, write_bytes, write_json
from harness.cli import main as cli
from harness.engine.engine import Engine
from harness.models.base_cards import BASES, find_base
from harness.reporting.page import cards as page_cards
from harness.reporting.page import head, texts, traces
from harness.reporting.page import images as page_images
from harness.reporting.page import write as page
from harness.reporting.results import load_results
from methods.interface import Decoding, Prompt
from methods.sena.corruption import corruption
from tests.models.twins import tiny_qwen
from tests.reporting.page_study import HOSTILE, HOSTILE_FILE, STEP, page_study
from tests.reporting.records import write_study
from tests.tiny_models import picture, tiny_llava
from tests.toy_method import save_base


class Markup(HTMLParser):
    """Elements counted by name, their attributes, and the visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BASES, "tiny", save_base(root / "tiny"))
        out = page_study(root / "study", root / "pool")
        write_bytes(out / "figures" / "training.png", b"training")
        write_bytes(out / "figures" / "before-and-after.png", b"before")
        text = page.write(out, own=True).read_text(encoding="utf-8")
        yield SimpleNamespace(
            out=out, root=root, text=text, data=data_of(text), markup=Markup(text)
        )


def data_of(text: str) -> Any:
    match = re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)
    assert match
    return json.loads(match[1])


def opened(uri: str) -> Image.Image:
    kind, _, content = uri.partition(",")
    assert kind == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


@pytest.mark.thorough
def test_the_page_holds_the_table_the_figures_and_every_group(made: SimpleNamespace) -> None:
    text = " ".join(made.markup.text)
    for words in (
        "CHAIR-s",
        "against untrained (2 trainings): ",
        "What became of the prompts",
        "Is it safe?",
        "between trainings (seeds), between images",
    ):
        assert words in text
    images = [value for name, value in made.markup.attributes if name == "src"]
    assert images == [
        f"data:image/png;base64,{base64.b64encode(name).decode()}"
        for name in (b"before", b"training")
    ]
    groups = [
        (group["run"], group["seed"], group["pairs"], group["dropped"])
        for group in made.data["groups"]
    ]
    assert groups == [("SENA", 0, 24, 6), ("SENA", 1, 24, 6), ("SIMA", 0, 1, 1), ("SIMA", 1, 1, 1)]
    assert dict(made.data["groups"][0]["reasons"]) == {"no question": 3, "equal answers": 3}
    assert len(made.data["cards"]) == 64


def test_the_head_has_the_facts_the_legend_and_a_sentence_a_row(made: SimpleNamespace) -> None:
    study = load_results(made.out)
    facts = dict(head.facts(study))
    assert facts["Pool"] == "synthetic"  # as its records name it
    assert (facts["Training seeds"], facts["Rounds"]) == ("0, 1", "1")
    assert facts["Test images"].startswith("8 ")
    assert facts["Versions"]
    text = " ".join(made.markup.text)
    for words in (*facts.values(), "after Holm's correction", "every other row is compared"):
        assert words in text
    links = {value for name, value in made.markup.attributes if name == "href"}
    ids = {value for name, value in made.markup.attributes if name == "id"}
    assert len(links) > 6
    assert {link.removeprefix("#") for link in links if link} <= ids


def test_a_card_tells_the_whole_way_of_a_pair(made: SimpleNamespace) -> None:
    card = next(
        card for card in made.data["cards"] if card["item"] == "01.png" and card["corruption"]
    )
    assert card["prompt"].startswith("what is this?\n")
    assert [text for text, differs in card["chosen"] if differs] == ["red", "table"]
    assert [text for text, differs in card["rejected"] if differs] == ["blue", "chair and a cup"]
    names = [step[0] for step in card["steps"]]
    assert names == [
        traces.STEPS[key]
        for key in ("asked", "checked", "question", "description", "first", "enhanced", "rejected")
    ]
    assert card["steps"][4][1:] == ["a ball .", "logp -1.25, 9 tokens, cut at the token limit"]
    assert "seed 0" in card["settings"]
    assert "enhancement used yes" in card["settings"]
    assert card["corruption"] == f"diffusion, step {STEP}"
    dropped = next(card for card in made.data["cards"] if card["reason"] == "equal answers")
    assert dropped["chosen"] == dropped["rejected"]
    assert not any(differs for _, differs in dropped["chosen"])
    early = next(card for card in made.data["cards"] if card["reason"] == "no question")
    assert (early["chosen"], early["corrupted"], early["prompt"]) == (None, None, None)
    assert early["steps"][0][1] == "what is this thing?"


def test_another_methods_trace_is_shown_by_its_own_names(made: SimpleNamespace) -> None:
    card = next(card for card in made.data["cards"] if card["prompt"] == "describe")
    assert card["steps"] == [
        ["critique", "the second tells of a cup", ""],
        ["candidates 1", "one", "scores [1, 0.5]"],
        ["candidates 2", "two", ""],
    ]
    assert card["corrupted"] is None
    dropped = next(card for card in made.data["cards"] if card["item"] == "gone.png")
    assert dropped["image"] is None
    assert made.text.count("no longer has all images, such as &#39;gone.png&#39;") == 1


def test_nothing_of_models_or_data_becomes_markup(made: SimpleNamespace) -> None:
    assert made.markup.tags["script"] == 2
    assert made.markup.tags["img"] == 2
    assert not [name for name, _ in made.markup.attributes if name.startswith("on")]
    assert made.text.count("</script") == 2
    assert not set(made.text) & {*map(chr, range(32)), "\x7f", "\u202e", "\u2028"} - {"\n"}
    card = next(card for card in made.data["cards"] if "taken" in (card["prompt"] or ""))
    assert card["prompt"] == texts.visible(HOSTILE)
    assert "".join(text for text, _ in card["chosen"]) == texts.visible(HOSTILE).strip()
    assert any(card["item"] == HOSTILE_FILE for card in made.data["cards"])


def test_the_page_reaches_for_nothing_outside(made: SimpleNamespace) -> None:
    links = [
        value
        for name, value in made.markup.attributes
        if name in ("src", "href", "action", "srcset")
    ]
    assert all(link is not None and link.startswith(("data:image/", "#")) for link in links)
    assert "http" not in made.text.replace("http-equiv", "")
    policy = next(
        value
        for name, value in made.markup.attributes
        if name == "content" and value and "default-src" in value
    )
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy


def test_equal_records_give_an_equal_page(made: SimpleNamespace) -> None:
    assert page.build(made.out, own=True) == made.text


def test_a_sample_is_the_same_images_for_every_run_and_holds_every_reason() -> None:
    records = [
        {"item": f"i{index}", "reason": "rare" if index == 77 else "common"} for index in range(100)
    ]
    some = page_cards.pick(records, 10)
    assert some == sorted(some, key=records.index)
    assert page_cards.pick(records[::-1], 10) == some[::-1]
    assert all(record in page_cards.pick(records, 20) for record in some)
    assert records[77] in page_cards.pick(records, 2, spread="reason")
    assert page_cards.pick(records, 200) == records


def test_a_sampled_page_counts_all_and_says_how_many_it_shows(
    made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_cards, "PAIRS", 8)
    monkeypatch.setattr(page_cards, "DROPS", 4)
    data = data_of(page.build(made.out, own=True))
    group = data["groups"][0]
    assert (group["pairs"], group["shown_pairs"], group["dropped"], group["shown_drops"]) == (
        24,
        4,
        6,
        2,
    )
    cards = [card for card in data["cards"] if card["group"] == 0]
    assert {card["reason"] for card in cards} == {None, "no question", "equal answers"}
    assert len(cards) == 6


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize("kind", ["diffusion", "blank", "crop", "blur"])
def test_the_corrupted_image_is_the_one_the_model_saw(kind: Any) -> None:
    model, processor = tiny_llava()
    seen: list[torch.Tensor] = []

    def watched(pixels: torch.Tensor, key: str) -> torch.Tensor:
        seen.append(corruption(kind, STEP)(pixels, key))
        return seen[-1]

    prompt = Prompt(key="a/reject", text="what is this ?", image=picture(3))
    Engine(model, processor).generate([prompt], Decoding(max_new_tokens=1), corrupt=watched)
    shown = page_images.corrupted_image(picture(3), BASES["tiny"], kind, STEP, "a/reject")
    back = torch.from_numpy(np.array(shown)).permute(2, 0, 1) / 255
    mean, spread = (
        torch.tensor(values)[:, None, None]
        for values in (processor.image_processor.image_mean, processor.image_processor.image_std)
    )
    expected = (seen[0] * spread + mean).clamp(0, 1)
    assert (back - expected).abs().max() <= 0.5 / 255 + 1e-5


def test_the_corrupted_image_of_a_qwen_is_the_one_it_saw(tmp_path: Path) -> None:
    model, processor = tiny_qwen()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    wide = picture(3).resize((90, 24))
    seen: list[torch.Tensor] = []

    def watched(pixels: torch.Tensor, key: str) -> torch.Tensor:
        seen.append(corruption("diffusion", STEP)(pixels, key))
        return seen[-1]

    prompt = Prompt(key="a/reject", text="what is this ?", image=wide)
    Engine(model, processor).generate([prompt], Decoding(max_new_tokens=1), corrupt=watched)
    shown = page_images.corrupted_image(
        wide, find_base(str(tmp_path)), "diffusion", STEP, "a/reject"
    )
    assert shown.width > 2 * shown.height
    mean, spread = (
        torch.tensor(getattr(processor.image_processor, name))[:, None, None]
        for name in ("image_mean", "image_std")
    )
    expected = (seen[0] * spread + mean).clamp(0, 1)
    assert (
        torch.from_numpy(np.array(shown)).permute(2, 0, 1) / 255 - expected
    ).abs().max() <= 0.5 / 255 + 1e-5


def test_images_in_the_page_are_those_of_the_pool(made: SimpleNamespace) -> None:
    card = next(
        card for card in made.data["cards"] if card["item"] == "02.png" and card["corruption"]
    )
    clean, corrupted = (
        np.array(opened(made.data["images"][card[name]]), dtype=float)
        for name in ("image", "corrupted")
    )
    assert np.abs(clean - np.array(picture(2))).mean() < 6
    keys = ("0/02.png/question/0/reject", "1/02.png/question/0/reject")
    mine, another = (
        np.array(
            page_images.corrupted_image(picture(2), BASES["tiny"], "diffusion", STEP, key),
            dtype=float,
        )
        for key in keys
    )
    assert np.abs(corrupted - mine).mean() < 0.5 * np.abs(corrupted - another).mean()
    same = {card["image"] for card in made.data["cards"] if card["item"] == "02.png"}
    assert len(same) == 1


def test_large_images_are_embedded_small() -> None:
    album = page_images.Album()
    assert (
        album._add(page_images._smaller(Image.new("RGB", (1000, 10)), Image.Resampling.LANCZOS))
        == 0
    )
    assert opened(album.uris[0]).size == (page_images.SIDE, 2)


def test_what_cannot_be_shown_is_said(
    made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = made.root / "pool"
    before = (pool / "01.png").read_bytes()
    picture(99).save(pool / "01.png")
    monkeypatch.delitem(BASES, "tiny")
    text = page.build(made.out, own=True)
    assert "have changed since the run, such as 01.png" in text
    assert "Corrupted images are left out: There is no base" in text
    data = data_of(text)
    assert all(card["corrupted"] is None for card in data["cards"])
    assert {card["image"] is None for card in data["cards"] if card["item"] == "01.png"} == {True}
    (pool / "01.png").write_bytes(before)
    study = read_json(Results(made.out).study)
    moved = {**study, "runs": [{**run, "pool": "nowhere"} for run in study["runs"]]}
    write_json(Results(made.out).study, moved)
    text = page.build(made.out, own=True)
    write_json(Results(made.out).study, study)
    assert text.count("Images are left out: There is no pool") == 1
    assert (
        len(data_of(text)["images"]) == 1
    )  # the one that the questions are about, which is no pool's


def test_a_study_without_pairs_has_a_page(tmp_path: Path) -> None:
    text = page.build(
        write_study(
            tmp_path,
            seeds=(0,),
            images=4,
            labels=("untrained", "sena"),
            absent=("sena/seed0/round1/pairs",),
        )
    )
    assert "No pairs yet." in text
    assert "its pairs are not made yet" in text
    assert data_of(text)["cards"] == []


def test_the_command_writes_the_page(
    made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    (made.out / "page.html").unlink()
    assert cli.main(["page", "--own", "--out", str(made.out)]) == 0
    assert capsys.readouterr().out.strip() == str(made.out / "page.html")
    assert (made.out / "page.html").read_text(encoding="utf-8") == made.text
