"""The benchmarks on official files: small files in the official schema, compared with the released
scripts' arithmetic."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from random import Random

import pytest

from benchmarks import coco, mmbench, mme, pope, yes_no
from benchmarks.catalogue import BENCHMARKS
from benchmarks.choice import Choice
from benchmarks.grading import ItemBenchmark
from benchmarks.interface import Benchmark
from tests.benchmarks import official_files, official_scores

SAID = (
    "yes",
    "no",
    "Yes",
    "No",
    "Yes.",
    "no, it is not",
    "There is not. Yes",
    "maybe",
    "",
    "Yes, no doubt",
    "NO",
    "not here",
)


def built(name: str, at: Path, limit: int | None = None) -> Benchmark:
    return BENCHMARKS[name].factory("test", limit, official_files.folder_for(name, at))


def close(report: dict[str, float | None], expected: dict[str, float]) -> None:
    assert {name: report[name] for name in expected} == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", ["pope", "repope"])
def test_pope_as_its_released_script_counts(name: str, tmp_path: Path) -> None:
    benchmark = built(name, tmp_path)
    rng = Random(name)
    answers = {question.id: rng.choice(SAID) for question in benchmark.questions()}
    values = dict(benchmark.grade(answers).values)
    scores_of = official_scores.repope if name == "repope" else official_scores.pope
    everything: list[tuple[str, str]] = []
    for setting in pope.SETTINGS:
        asked = [
            json.loads(line)
            for line in (tmp_path / f"coco_pope_{setting}.json").read_text().splitlines()
        ]
        labels = {(row["image"], row["text"]): row["label"] for row in asked}
        if name == "repope":
            corrected = (tmp_path / f"coco_repope_{setting}.json").read_text().splitlines()
            labels = {
                (row["image"], row["text"]): row["label"] for row in map(json.loads, corrected)
            }
        both = [
            (labels[row["image"], row["text"]], answers[f"{setting}/{row['question_id']}"])
            for row in asked
            if (row["image"], row["text"]) in labels
        ]
        scores = scores_of(*map(list, zip(*both, strict=True)))
        close(
            values,
            {f"{metric}_{setting}_official": scores[metric] for metric in ("accuracy", "f1")},
        )
        everything += both
    scores = scores_of(*map(list, zip(*everything, strict=True)))
    scores["yes_ratio"] = scores.pop("ratio")
    close(values, {f"{metric}_official": value for metric, value in scores.items()})
    # At word level: exactly one of the two words.
    words = {
        answer: ("yes" in answer.lower(), "no" in answer.lower().replace(",", "").split())
        for answer in SAID
    }
    read = [
        (label, "yes" if words[answer][0] else "no")
        for label, answer in everything
        if sum(words[answer]) == 1
    ]
    close(values, {"accuracy": 100 * sum(label == said for label, said in read) / len(read)})
    close(values, {"unreadable": 100 - 100 * len(read) / len(everything)})


@pytest.mark.parametrize("name", ["pope", "repope"])
def test_the_places_of_the_files_in_their_repositories_are_taken(name: str, tmp_path: Path) -> None:
    expected = built(name, tmp_path)
    for place, pattern in (("output/coco", "coco_pope_*"), ("annotations", "coco_repope_*")):
        (tmp_path / place).mkdir(parents=True)
        for path in tmp_path.glob(pattern):
            path.rename(tmp_path / place / path.name)
    assert BENCHMARKS[name].factory("test", None, tmp_path).version == expected.version


@pytest.mark.parametrize(
    ("answer", "reading"),
    [("Yes, no.", "yes"), ("I do not know", "no"), ("Nothing", "no"), ("", None), ("maybe", None)],
)
def test_repopes_own_reading(answer: str, reading: str | None) -> None:
    assert yes_no.read_repope(answer) == reading


def test_the_same_answers_are_graded_by_pope_and_by_repope(tmp_path: Path) -> None:
    labelled, corrected = built("pope", tmp_path), built("repope", tmp_path)
    assert [(q.id, q.text) for q in labelled.questions()] == [
        (q.id, q.text) for q in corrected.questions()
    ]
    answers = {question.id: "yes" for question in labelled.questions()}
    assert labelled.grade(answers).unscored == 0
    report = corrected.grade(answers)
    left_out = [grade for grade in report.grades if grade.why == "left out of RePOPE as ambiguous"]
    assert len(left_out) == report.unscored == 15  # every fifth of 24 in each setting
    assert report.values["accuracy"] != labelled.grade(answers).values["accuracy"]


def test_chair_as_the_released_script_counts(tmp_path: Path) -> None:
    benchmark = built("coco_chair", tmp_path)
    rng = Random(7)
    captions = {question.id: official_files.sentence(rng) for question in benchmark.questions()}
    assert len(captions) == 12
    plural = {
        "men": "man",
        "children": "child",
        "dogs": "dog",
        "kittens": "kitten",
        "glasses": "glass",
        "knives": "knife",
    }
    plural |= {"lights": "light", "trains": "train", "tables": "table", "people": "person"}
    expected = official_scores.chair(
        tmp_path, {int(id): text for id, text in captions.items()}, plural
    )
    assert 0 < expected["chair_i"] < 100
    close(dict(benchmark.grade(captions).values), expected)


@pytest.mark.parametrize(
    ("caption", "mentions"),
    [
        ("Hot dogs beside a dog.", ["hot dog", "dog"]),
        ("A baby bird and an adult cat", ["bird", "cat"]),
        ("A seat of the toilet", ["toilet"]),
        ("toilet seats", ["toilet"]),
        ("a bow tie, bow, tie", ["tie", "tie"]),
        ("two wine glasses, wine and glasses", ["wine glass"]),
        ("passenger trains at street lights", ["train", "traffic light"]),
        ("people, men and women: children's riders", ["person"] * 5),
        ("a hot, dog", ["dog"]),
        ("dining tables", ["dining table"]),
        ("knives and a home plate", ["knife"]),
    ],
)
def test_captions_are_read_by_cocos_rules(
    caption: str, mentions: list[str], tmp_path: Path
) -> None:
    (tmp_path / "synonyms.txt").write_text(official_files.SYNONYMS)
    reader = coco.read_synonyms(tmp_path / "synonyms.txt")
    assert reader.mentions(caption) == mentions
    for category, start, end in reader.mention_spans(caption):
        assert category.split()[-1][:3] in caption.lower()[start:end] or category in (
            "person",
            "traffic light",
            "tie",
        )


def test_the_500_images_are_the_same_for_everybody_and_dev_has_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coco, "IMAGES", 5)
    folder = official_files.coco(tmp_path)
    test, dev = (
        [question.id for question in coco.chair("coco_chair", 64, split, None, folder).questions()]
        for split in ("test", "dev")
    )
    assert test == ["12", "8", "10", "11", "5"]  # published: the order of the ids' hashes
    assert len(dev) == 5
    assert not set(test) & set(dev)
    (folder / "chair_images.txt").write_text("3\n7\n")
    listed, others = (
        {question.id for question in coco.chair("coco_chair", 64, split, None, folder).questions()}
        for split in ("test", "dev")
    )
    assert listed == {"3", "7"}
    assert len(others) == 5
    assert not listed & others


@pytest.mark.parametrize("with_similar", [False, True])
def test_amber_generative_as_the_released_script_counts(with_similar: bool, tmp_path: Path) -> None:
    folder = official_files.amber(tmp_path)
    similar = (
        {
            "kitten": ["cat", "puppy"],
            "hound": ["ball", "man"],
            "toy": ["tree"],
            "oak": ["sky", "dog"],
        }
        if with_similar
        else {}
    )
    if with_similar:
        (folder / "similar.json").write_text(json.dumps(similar))
    vocabulary = sorted(
        {
            *official_files.RELATION,
            *(w for words in official_files.RELATION.values() for w in words),
        }
    )
    rng = Random(3)
    nouns = {
        id: [rng.choice(vocabulary) for _ in range(rng.randrange(1, 4))] for id in range(1, 11)
    }
    answers = {
        str(id): "There is " + " and ".join(f"the {noun}" for noun in some) + "."
        for id, some in nouns.items()
    }
    benchmark = BENCHMARKS["amber_g"].factory("test", None, folder)
    expected = official_scores.amber_generative(folder, nouns, similar)
    assert all(0 < value < 100 for value in expected.values())
    close(dict(benchmark.grade(answers).values), expected)
    assert benchmark.version.startswith("amber-similar-" if with_similar else "amber-")


def test_amber_discriminative_as_the_released_script_counts(tmp_path: Path) -> None:
    benchmark = built("amber_d", tmp_path)
    rng = Random(5)
    answers = {
        question.id: rng.choice(["Yes", "No", "No", "yes", "No."])
        for question in benchmark.questions()
    }
    about = {
        str(row["id"]): row
        for row in json.loads((tmp_path / "data" / "annotations.json").read_text())
    }
    truth = [int(about[id]["truth"] == "no") for id in answers]
    values = dict(benchmark.grade(answers).values)
    theirs = official_scores.binary(
        truth, [{"No": 1, "Yes": 0}.get(answer, -1) for answer in answers.values()]
    )
    close(
        values,
        {f"{name}_official": theirs[name] for name in ("accuracy", "precision", "recall", "f1")},
    )
    ours = official_scores.binary(
        truth, [int("no" in answer.lower()) for answer in answers.values()]
    )
    close(
        values,
        {name: ours[name] for name in ("accuracy", "precision", "recall", "f1")}
        | {"yes_ratio": 100 - ours["ratio"]},
    )
    for kind, type in zip(
        ("existence", "state", "number", "action", "relation"), official_files.KINDS, strict=True
    ):
        ids = [id for id in answers if about[id]["type"] == f"discriminative-{type}"]
        right = [("no" in answers[id].lower()) == (about[id]["truth"] == "no") for id in ids]
        assert values[f"accuracy_{kind}"] == pytest.approx(100 * sum(right) / len(ids))
    attribute = [id for id in answers if "attribute" in about[id]["type"]]
    theirs = official_scores.binary(
        [int(about[id]["truth"] == "no") for id in attribute],
        [{"No": 1, "Yes": 0}.get(answers[id], -1) for id in attribute],
    )
    assert 0 < len(attribute) < len(answers)
    close(
        values,
        {f"{name}_attribute_official": theirs[name] for name in ("accuracy", "f1")},
    )


def test_mme_as_the_released_script_counts(tmp_path: Path) -> None:
    benchmark = built("mme", tmp_path)
    rng = Random(11)
    answers = {question.id: rng.choice(SAID) for question in benchmark.questions()}
    pairs: defaultdict[str, list[list[tuple[str, str]]]] = defaultdict(list)
    for tasks in mme.SUBTASKS.values():
        for task in tasks:
            stems = sorted({id.split("/")[1] for id in answers if id.startswith(f"{task}/")})
            pairs[task] = [
                [("yes", answers[f"{task}/{stem}/1"]), ("no", answers[f"{task}/{stem}/2"])]
                for stem in stems
            ]
    scores = official_scores.mme(pairs)
    values = dict(benchmark.grade(answers).values)
    close(values, {f"score_{task}": score for task, score in scores.items()})
    close(
        values, {part: sum(scores[task] for task in tasks) for part, tasks in mme.SUBTASKS.items()}
    )
    perfect = benchmark.grade({id: "Yes" if id.endswith("/1") else "No" for id in answers}).values
    close(
        dict(perfect),
        {"perception": 2000.0, "cognition": 800.0, "accuracy": 100.0, "accuracy_plus": 100.0},
    )
    always = benchmark.grade(dict.fromkeys(answers, "yes")).values
    close(
        dict(always),
        {"perception": 500.0, "cognition": 200.0, "accuracy": 50.0, "accuracy_plus": 0.0},
    )


def test_an_unreadable_answer_leaves_its_image_out_of_accuracy_plus(tmp_path: Path) -> None:
    benchmark = built("mme", tmp_path)
    answers = {
        question.id: "Yes" if question.id.endswith("/1") else "No"
        for question in benchmark.questions()
    }
    answers["OCR/000000/2"] = "perhaps"
    report = benchmark.grade(answers)
    assert report.unscored == 1
    assert report.values["accuracy_plus"] == 100.0
    assert report.values["score_OCR"] == pytest.approx(
        200 - 100 / 8 - 100 / 4
    )  # wrong in the released script's eyes
    del answers["OCR/000000/2"]
    assert benchmark.grade(answers).values["score_OCR"] == 200.0  # not answered: not counted


@pytest.mark.parametrize("rotations", [True, False])
def test_mmbench_is_circular_as_the_paper_says(rotations: bool, tmp_path: Path) -> None:
    benchmark: ItemBenchmark[Choice] = mmbench.load(
        "test", None, official_files.mmbench(tmp_path, 30, rotations)
    )
    rng = Random(2)
    answers, grouped = {}, defaultdict(list)
    for item in benchmark.items():
        letter = rng.choice([item.truth.answer] * 12 + ["A", "?"])
        answers[item.id] = (
            letter
            if letter == "?" or rng.random() < 0.7
            else f"{letter}. {dict(item.truth.options)[letter]}"
        )
        grouped[int(item.truth.question)].append((item.truth.answer, letter))
    assert {len(some) for some in grouped.values()} == {2, 3, 4}
    close(dict(benchmark.grade(answers).values), official_scores.circular(grouped))
    # The right text stays right wherever it stands, however the file brings its rotations.
    right = {item.id: dict(item.truth.options)[item.truth.answer] for item in benchmark.items()}
    assert set(right.values()) == {'a "quoted" one'}
    assert benchmark.grade(right).values["circular"] == 100.0
    assert benchmark.grade(right).values["circular_logic_reasoning1"] == 100.0


def test_made_and_given_rotations_ask_the_same(tmp_path: Path) -> None:
    given, rotated = (
        {
            q.id: (q.text, q.images[0].tobytes())
            for q in mmbench.load(
                "test", None, official_files.mmbench(tmp_path / f"{own}", 6, own)
            ).questions()
        }
        for own in (True, False)
    )
    assert given == rotated
    assert given["1/0"][0].startswith(
        'Look.\nWell.\nWhat\tis 1?\nA. a thing 1\nB. a "quoted" one\nC. None\nAnswer'
    )
