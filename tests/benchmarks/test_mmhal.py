"""MMHal-Bench, from a small folder of the authors' format to graded answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks import mmhal
from benchmarks.interface import metric_value
from benchmarks.judge import Judge
from benchmarks.judge_settings import Settings
from benchmarks.mmhal import TYPES, MMHal, read_rating
from tests.benchmarks.fake_judge import MODEL, Answer, said, serving

CONTENTS = (["Dog", "Ball"], ["Car"], ["Cup", "Table"], ["Tree"])


def save_data(folder: Path, count: int = 4) -> Path:
    """A folder as the authors' data set has it, with ``count`` questions and images."""
    rows = []
    (folder / "images").mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (8, 6), (number * 40, 0, 0)).save(folder / "images" / f"{number}_o.jpg")
        rows.append(
            {
                "question_type": TYPES[number % 8],
                "question_topic": "indoor",
                "image_id": f"{number:x}",
                "image_src": f"https://pictures.example/{number}_o.jpg",
                "image_content": CONTENTS[number % 4],
                "question": f"What is in image {number}?",
                "gt_answer": f"It is number {number}.",
                "model_answer": "",
            }
        )
    (folder / "response_template.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture(autouse=True)
def no_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SELFSIGHT_JUDGE", raising=False)


def judged(data: Path, url: str, folder: Path, **settings: Any) -> MMHal:
    plain = mmhal.load("test", None, data)
    given: dict[str, Any] = {
        "model": MODEL,
        "key_variable": None,
        "requests_per_minute": 1e6,
        "backoff": 0.001,
    } | settings
    judge = Judge(settings=Settings(base_url=url, **given), folder=folder, tell=lambda _line: None)
    return mmhal.mmhal_benchmark(plain.source, plain.items, plain.prompt, judge)


def test_the_authors_folder_is_read(tmp_path: Path) -> None:
    benchmark = mmhal.load("test", None, save_data(tmp_path / "data"))
    asked = list(benchmark.questions())
    assert [question.id for question in asked] == ["00-0_o", "01-1_o", "02-2_o", "03-3_o"]
    assert asked[2].text == "What is in image 2?"
    assert asked[2].images[0].size == (8, 6)
    assert len({question.cluster for question in asked}) == 4
    some = mmhal.load("test", 2, tmp_path / "data")
    assert len([question.id for question in some.questions()]) == 2
    assert some.version != benchmark.version
    assert "no judge" in some.version


def test_ratings_become_the_paper_s_two_numbers(tmp_path: Path) -> None:
    verdicts = {
        "right": "Fine. Rating: 6",
        "so so": "Rating: 3",
        "wrong": "An invented cat.\nRating: 1",
        "odd": "I cannot say.",
    }

    def script(prompt: str, _before: int) -> Answer:
        assert (
            "Dog, Ball" in prompt or "Car" in prompt or "Cup, Table" in prompt or "Tree" in prompt
        )
        return said(
            next(verdict for answer, verdict in verdicts.items() if f"\n{answer}\n" in prompt)
        )

    with serving(script) as server:
        benchmark = judged(save_data(tmp_path / "data"), server.url, tmp_path)
        answers = dict(zip([item.id for item in benchmark.items()], verdicts, strict=True))
        assert benchmark.estimate(answers).requests == 4
        report = benchmark.grade(answers)
        assert len(server.asked) == 4
    assert [grade.value for grade in report.grades] == [6.0, 3.0, 1.0, None]
    assert report.unscored == 1
    assert report.values["score"] == pytest.approx(10 / 3)
    assert report.values["hallucination_rate"] == pytest.approx(100 / 3)
    assert report.values["score_comparison"] == 1.0
    assert report.values["score_other"] is None
    assert report.values["unreadable"] == 25.0
    assert report.values["judge_spread"] is None
    assert sum(grade.counts["judge_tokens_in"] for grade in report.grades) == 400
    assert report.grades[2].why == "An invented cat.\nRating: 1"
    assert report.grades[2].truth == "It is number 2."
    assert "no rating in the judge's verdict: I cannot say." in report.grades[3].why
    assert benchmark.grade(answers) == report  # the server is gone


def test_repeats_give_a_mean_and_their_spread(tmp_path: Path) -> None:
    said_before = ["Rating: 4", "Rating: 2", "no number"]
    with serving(lambda _prompt, before: said(said_before[before])) as server:
        benchmark = judged(
            save_data(tmp_path / "data", 1), server.url, tmp_path, repeats=3, concurrency=1
        )
        report = benchmark.grade({"00-0_o": "a dog"})
    assert report.values["score"] == 3.0
    assert report.values["hallucination_rate"] == 50.0
    assert report.values["judge_spread"] == pytest.approx(2**0.5)
    assert report.values["unreadable"] == pytest.approx(100 / 3)
    assert report.grades[0].read_as == "4, 2"
    for metric in benchmark.metrics:  # recomputed from the counts alone, as the statistics do
        assert metric_value(metric, report.grades[0].counts) == report.values[metric.name]


def test_empty_and_absent_answers_are_unscored_and_never_sent(tmp_path: Path) -> None:
    with serving(lambda _prompt, _before: said("Rating: 5")) as server:
        benchmark = judged(save_data(tmp_path / "data"), server.url, tmp_path)
        report = benchmark.grade({"00-0_o": " \n", "01-1_o": "a car"})
        assert len(server.asked) == 1
        with pytest.raises(ValueError, match="no question 'strange'"):
            benchmark.grade({"02-2_o": "a cup", "strange": "?"})
        assert len(server.asked) == 1  # found before anybody was paid
    assert [grade.why for grade in report.grades] == [
        "empty answer",
        "Rating: 5",
        "no answer",
        "no answer",
    ]
    assert report.unscored == 3


def test_without_a_judge_grading_stops(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="name that file in the environment variable SELFSIGHT_JUDGE"
    ):
        mmhal.load("test", None, save_data(tmp_path / "data")).grade({"00-0_o": "a dog"})


@pytest.mark.parametrize(
    ("verdict", "rating"),
    [
        ("Rating: 4", 4),
        ("reason...\n\nrating: 0, not informative, with hallucination", 0),
        ("**Rating:** 5", 5),
        ("**Rating: 3**", 3),
        ("Rating: 6/6.", 6),
        ("Rating: 2\nRating: 2", 2),
        ("Rating: 2 or rating: 3", None),
        ("Rating: 7", None),
        ("Rating: 60", None),
        ("Rating: 4.5", None),
        ("Rating: -1", None),
        ("Rating: ٣", None),
        ("It rates four.", None),
        ("", None),
    ],
)
def test_a_rating_is_read_or_it_is_unreadable(verdict: str, rating: int | None) -> None:
    assert read_rating(verdict) == rating


def test_the_prompt_is_filled_once_and_the_authors_places_are_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = save_data(tmp_path / "data")
    own = mmhal.load("test", None, data)
    tricky = mmhal.fill_prompt(own.prompt, next(own.items()), "{question} {} Rating: 6")
    assert "BEGIN ANSWER\n{question} {} Rating: 6\nEND ANSWER" in tricky
    assert "The person's answer: It is number 0." in tricky
    assert read_rating(own.prompt.replace("N", "9")) is None
    (tmp_path / "theirs.txt").write_text("contents {}\nquestion {}\nstandard {}\nresponse {}\n")
    settings = {"base_url": "http://x/v1", "model": "m", "prompts": {"mmhal": "theirs.txt"}}
    (tmp_path / "judge.json").write_text(json.dumps(settings))
    monkeypatch.setenv("SELFSIGHT_JUDGE", str(tmp_path / "judge.json"))
    theirs = mmhal.load("test", None, data)
    asked = mmhal.fill_prompt(theirs.prompt, next(theirs.items()), "a dog")
    assert (
        asked
        == "contents Dog, Ball\nquestion What is in image 0?\nstandard It is number 0.\nresponse"
        " a dog\n"
    )
    assert theirs.version != own.version
    assert "judge m prompt" in theirs.version
    (tmp_path / "theirs.txt").write_text("only {answer}")
    with pytest.raises(ValueError, match="must hold the places"):
        mmhal.load("test", None, data)


def test_a_wrong_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Shengcao1006/MMHal-Bench"):
        mmhal.load("test", None, tmp_path)
    with pytest.raises(ValueError, match="has no 'dev' split"):
        mmhal.load("dev", None, tmp_path)
    path = save_data(tmp_path / "data") / "response_template.json"
    rows = json.loads(path.read_text())
    for number, change, words in (
        (1, {"gt_answer": " "}, "entry 2: gt_answer is ' '; it must be text"),
        (2, {"image_content": "Dog"}, "entry 3: image_content must be a list of texts"),
        (
            3,
            {"question_type": "colour"},
            "entry 4: question_type is 'colour'; it must be attribute or",
        ),
        (0, {"image_src": None}, "entry 1: image_src is None"),
    ):
        path.write_text(
            json.dumps([row | change if place == number else row for place, row in enumerate(rows)])
        )
        with pytest.raises(ValueError, match=words):
            mmhal.load("test", None, tmp_path / "data")
    path.write_text(json.dumps(rows))
    (tmp_path / "data" / "images" / "0_o.jpg").unlink()
    benchmark = mmhal.load("test", None, tmp_path / "data")
    with pytest.raises(ValueError, match=r"0_o.jpg cannot be read"):
        list(benchmark.questions())
