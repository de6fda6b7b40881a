"""The synthetic benchmarks: oracle and constant answers, balance, truth, determinism, and metrics
recomputed from grades."""

from __future__ import annotations

from collections import Counter
from functools import cache
from itertools import groupby
from random import Random

import pytest

from benchmarks.catalogue import BENCHMARKS
from benchmarks.interface import Benchmark, Report
from benchmarks.synthetic import language, suite
from benchmarks.synthetic.scene import Scene, scene
from benchmarks.synthetic.words import CATEGORIES, COMPANION, vocabulary
from methods.sena.prompts import SYNTHETIC, with_request

LIMIT = 40
SCENES: dict[str, Scene] = {(true := scene("dev", index)).id: true for index in range(LIMIT)}
NAMES = [name for name in BENCHMARKS if name.startswith("synthetic_")]


def build(name: str, limit: int = LIMIT) -> Benchmark:
    return BENCHMARKS[name].factory("dev", limit, None)


@cache
def oracle(name: str) -> dict[str, str]:
    """The right answer to every question, told from the scenes alone."""
    answers = {}
    for question in build(name, LIMIT).questions():
        true = SCENES[question.cluster]
        if name == "synthetic_pope":
            answers[question.id] = (
                "yes" if question.id.rpartition("/")[2] in true.categories else "no"
            )
        elif name == "synthetic_vqa":
            kind = question.id.rpartition("/")[2]
            asked = language.question(true, kind, Random(f"question {kind} {true.id}"))
            assert asked is not None
            answers[question.id] = asked.answer
        else:
            tell = (
                language.brief_caption
                if name == "synthetic_chair_short"
                else (lambda things: language.detailed_caption(things, 1))
            )
            answers[question.id] = tell(true.things)
    return answers


@pytest.mark.parametrize("name", NAMES)
def test_an_oracle_is_perfect(name: str) -> None:
    report = build(name).grade(oracle(name))
    assert report.unscored == 0
    assert all(grade.value == 1.0 for grade in report.grades)
    for metric in build(name).metrics:
        perfect = {"higher": 100.0, "lower": 0.0}.get(metric.better)
        assert perfect is None or report.values[metric.name] == perfect, metric.name


def test_an_oracle_tells_each_object_once() -> None:
    things = sum(len(true.things) for true in SCENES.values()) / LIMIT
    report = build("synthetic_chair").grade(oracle("synthetic_chair"))
    assert report.values["objects"] == pytest.approx(things)
    assert report.values["words"] == pytest.approx(8 * things)  # "a red ball is at the top left ."


def test_always_yes_is_half_right_on_pope_in_every_setting() -> None:
    benchmark = build("synthetic_pope")
    report = benchmark.grade({question.id: "Yes" for question in benchmark.questions()})
    for name in (
        "accuracy",
        "accuracy_random",
        "accuracy_popular",
        "accuracy_adversarial",
        "precision",
    ):
        assert report.values[name] == 50.0
    assert report.values["yes_ratio"] == 100.0
    assert report.values["recall"] == 100.0
    assert report.values["f1"] == pytest.approx(200 / 3)


def test_an_expected_companion_told_is_a_hallucination() -> None:
    answers, invented = {}, 0
    for true in SCENES.values():
        ghosts = [COMPANION[thing.category] for thing in true.lone_things()]
        invented += len(ghosts)
        answers[true.id] = language.brief_caption(true.things) + "".join(
            f" and a {ghost} ." for ghost in ghosts
        )
    report = build("synthetic_chair_short").grade(answers)
    mentions = invented + sum(len(true.things) for true in SCENES.values())
    assert report.values["chair_i"] == pytest.approx(100 * invented / mentions)
    assert report.values["chair_s"] == pytest.approx(
        100 * sum(bool(true.lone_things()) for true in SCENES.values()) / LIMIT
    )
    assert report.values["recall"] == 100.0


def test_pope_is_balanced_and_its_negatives_are_absent() -> None:
    popular = suite.popularity()
    assert sorted(popular) == sorted(CATEGORIES)
    for index in range(400):
        true = scene("dev", index)
        probes = suite.pope_probes(true)
        assert all((category in true.categories) == present for _, category, present in probes)
        by_setting = {
            name: [probe[2] for probe in some]
            for name, some in groupby(probes, key=lambda probe: probe[0])
        }
        expected = (
            ["random", "popular", "adversarial"] if true.lone_things() else ["random", "popular"]
        )
        assert by_setting == {setting: [True, False] for setting in expected}
        negatives = {setting: category for setting, category, present in probes if not present}
        assert negatives["popular"] in [name for name in popular if name not in true.categories][:3]
        if "adversarial" in negatives:
            assert COMPANION[negatives["adversarial"]] in true.categories
        positives = [category for _, category, present in probes if present]
        assert len(set(positives)) == min(len(positives), len(true.things))


@pytest.mark.parametrize("name", NAMES)
def test_questions_are_unique_known_and_say_only_words_of_the_vocabulary(name: str) -> None:
    known = set(vocabulary())
    asked = list(build(name).questions())
    assert len({question.id for question in asked}) == len(asked)
    assert {question.cluster for question in asked} == set(SCENES)
    for question in asked:
        assert set(question.text.split()) <= known, question.text
        assert question.images[0].size == (60, 60)
    for _, some in groupby(asked, key=lambda question: question.cluster):
        assert len({id(question.images[0]) for question in some}) == 1  # drawn once, shared


def test_every_exact_answer_is_of_words_of_the_vocabulary() -> None:
    known = set(vocabulary())
    assert all(set(answer.split()) <= known for answer in oracle("synthetic_vqa").values())


@pytest.mark.parametrize("name", NAMES)
def test_a_limit_changes_how_many_and_nothing_else(name: str) -> None:
    few = [(q.id, q.text, q.images[0].tobytes()) for q in build(name, 3).questions()]
    more = [(q.id, q.text, q.images[0].tobytes()) for q in build(name, 5).questions()]
    assert few == more[: len(few)]
    assert len({id.split("/")[0] for id, *_ in few}) == 3


@pytest.mark.parametrize("name", NAMES)
def test_dev_and_test_ask_about_different_images(name: str) -> None:
    images = [
        {q.images[0].tobytes() for q in BENCHMARKS[name].factory(split, 20, None).questions()}
        for split in ("dev", "test")
    ]
    assert not images[0] & images[1]
    assert len(images[0]) == len(images[1]) == 20


def test_a_full_benchmark_has_as_many_images_as_the_catalogue_says() -> None:
    items = suite.chair("test").items()
    assert sum(1 for _ in items) == BENCHMARKS["synthetic_chair"].size
    assert sum(1 for _ in suite.chair("test", 10**6).items()) == BENCHMARKS["synthetic_chair"].size


@pytest.mark.parametrize("name", NAMES)
def test_the_catalogue_names_each_benchmark_as_it_names_itself(name: str) -> None:
    benchmark, entry = build(name), BENCHMARKS[name]
    assert benchmark.name == name
    assert benchmark.group == entry.group
    assert suite.SOURCE in benchmark.version
    names = {metric.name for metric in benchmark.metrics}
    assert len(names) == len(benchmark.metrics)
    assert set() < set(entry.metrics) <= names
    assert benchmark.source == suite.SOURCE


def test_only_these_are_primary() -> None:
    primary = {
        name: [metric.name for metric in build(name).metrics if metric.primary] for name in NAMES
    }
    assert primary == {
        "synthetic_chair": ["chair_s", "chair_i"],
        "synthetic_chair_short": [],
        "synthetic_pope": ["accuracy"],
        "synthetic_vqa": ["accuracy"],
    }


@pytest.mark.parametrize(
    ("split", "limit", "said"), [("train", 5, "dev"), ("pool", 5, "dev"), ("test", 0, "at least 1")]
)
def test_another_split_or_limit_is_refused(split: str, limit: int, said: str) -> None:
    for name in NAMES:
        with pytest.raises(ValueError, match=said):
            BENCHMARKS[name].factory(split, limit, None)


def test_the_benchmarks_ask_in_the_words_its_base_is_trained_on() -> None:
    assert SYNTHETIC.word == suite.WORD
    assert with_request(SYNTHETIC.describe[0], SYNTHETIC.brief) == suite.SHORT_PROMPT


@pytest.mark.parametrize("name", NAMES)
def test_the_token_caps_leave_room_for_the_longest_telling(name: str) -> None:
    caps = {question.max_new_tokens for question in build(name, 1).questions()}
    things = [language.noisy_scene(scene("test", index)).things for index in range(500)]
    longest = {
        "synthetic_chair": [
            language.detailed_caption(some, style)
            for some in things
            for style in range(len(language.STYLES))
        ],
        "synthetic_chair_short": [language.brief_caption(some) for some in things],
    }.get(name, list(oracle("synthetic_vqa").values()))
    assert max(len(text.split()) for text in longest) < min(caps)  # and the end token


def noisy(name: str) -> dict[str, str]:
    """Answers of a model that is often wrong, sometimes silent and sometimes misses a question."""
    rng = Random(f"noisy {name}")
    right = oracle(name)
    all_answers = list(right.values())
    answers = {}
    for id, answer in right.items():
        draw = rng.random()
        if draw > 0.04:
            answers[id] = "" if draw < 0.08 else rng.choice(all_answers) if draw < 0.4 else answer
    return answers


def recomputed(benchmark: Benchmark, report: Report) -> dict[str, float | None]:
    """Every metric anew, as whoever reads the stored grades would do it."""
    values: dict[str, float | None] = {}
    for metric in benchmark.metrics:
        below = sum(grade.counts.get(metric.denominator, 0) for grade in report.grades)
        above = sum(grade.counts.get(metric.numerator, 0) for grade in report.grades)
        values[metric.name] = metric.scale * above / below if below else None
    return values


@pytest.mark.parametrize("name", NAMES)
def test_values_follow_from_the_grades_counts(name: str) -> None:
    benchmark, answers = build(name), noisy(name)
    report = benchmark.grade(answers)
    assert report.values == pytest.approx(recomputed(benchmark, report))
    known = {
        name for metric in benchmark.metrics for name in (metric.numerator, metric.denominator)
    }
    assert known <= {name for grade in report.grades for name in grade.counts}
    silent = sum(not answers.get(grade.question) for grade in report.grades)
    assert report.unscored == silent > 0
    assert all(
        0 <= value <= 100
        for metric in benchmark.metrics
        if (value := report.values[metric.name]) and metric.unit == "%"
    )


def test_pope_values_equal_those_of_its_confusion_matrix() -> None:
    answers = noisy("synthetic_pope")
    report = build("synthetic_pope").grade(answers)
    truth = oracle("synthetic_pope")
    matrix = Counter((answers[id], truth[id]) for id in truth if answers.get(id))
    tp, fp, fn = matrix["yes", "yes"], matrix["yes", "no"], matrix["no", "yes"]
    precision, recall = tp / (tp + fp), tp / (tp + fn)
    assert report.values["precision"] == pytest.approx(100 * precision)
    assert report.values["recall"] == pytest.approx(100 * recall)
    assert report.values["f1"] == pytest.approx(100 * 2 * precision * recall / (precision + recall))
    assert report.values["accuracy"] == pytest.approx(
        100 * (tp + matrix["no", "no"]) / matrix.total()
    )
    assert report.values["yes_ratio"] == pytest.approx(100 * (tp + fp) / matrix.total())


def test_a_pool_item_is_the_scene_told_exactly() -> None:
    for index in range(20):
        true = scene("pool", index)
        name, image, question, reference = suite.synthetic_item("pool", index)
        assert name == true.id
        assert image.tobytes() == suite.synthetic_item("pool", index)[1].tobytes()
        assert question in language.DETAIL_PROMPTS
        assert reference in {
            language.detailed_caption(true.things, style) for style in range(len(language.STYLES))
        }
