"""The tree search of CSR on scripted branches: which nodes are continued, ended and dropped."""

from __future__ import annotations

from typing import Any

from methods.csr.cleaning import REPETITION, SCRIPT, SHORT
from methods.csr.method import Csr
from methods.csr.search import EQUAL, SAID_BEFORE, UNLIKELY, Search, Tree
from methods.interface import (
    Branch,
    Prompt,
)
from tests.methods.scripted_csr import (
    Script,
    ScriptedVLM,
    end,
    fixed,
    step,
)
from tests.tiny_models import picture


def grow(script: Script, **changes: Any) -> Tree:
    prompt_chars = changes.pop("prompt_chars", None)
    csr = Csr(**{"candidates": 4, "groups": 4, **changes})
    search = Search(
        beams=csr.search(0),
        keep=csr.keep,
        penalty_in_score=csr.penalty_in_score,
        max_chars=csr.max_chars,
        prompt_chars=prompt_chars,
        repeats=csr.repeats,
    )
    return search.grow(ScriptedVLM(script), [Prompt(key="k", text="describe .", image=picture(0))])[
        0
    ]


ENDS = [step(" then it ends.", end=True), end(-9.0)]


def test_best_and_worst_open_nodes_are_continued() -> None:
    scores = [-0.1, -0.2, -0.3, -0.4, -0.5, -0.6]
    root = [step(f"sentence {place}.", score) for place, score in enumerate(scores)]

    def kept(many: int, keep: str) -> list[str]:
        made = fixed([*root[:many], end(-9.0)], [*ENDS[:1] * many, ENDS[1]])
        tree = grow(made, candidates=many, groups=many, keep=keep)
        return [node.text for node in tree.nodes[1:] if node.kept]

    assert kept(4, "best_and_worst") == ["sentence 0.", "sentence 2.", "sentence 3."]
    assert kept(5, "best_and_worst") == ["sentence 0.", "sentence 3.", "sentence 4."]
    assert kept(6, "best_and_worst") == [
        "sentence 0.",
        "sentence 1.",
        "sentence 3.",
        "sentence 4.",
        "sentence 5.",
    ]
    assert kept(5, "best") == ["sentence 0.", "sentence 1.", "sentence 2."]
    assert kept(2, "best_and_worst") == ["sentence 0.", "sentence 1."]
    assert kept(2, "best") == ["sentence 0.", "sentence 1."]


def test_fewer_open_nodes_than_candidates_are_all_continued() -> None:
    root = [step("one."), step("two.", end=True), step("three."), step("four."), end(-9.0)]
    tree = grow(fixed(root, [*ENDS[:1] * 4, ENDS[1]]))
    assert [node.text for node in tree.nodes if node.kept] == ["", "one.", "three.", "four."]


def test_scores_add_up_with_or_without_the_penalty() -> None:
    root = [Branch(text="one.", logp=-3.0, n_tokens=3, finished=True, score=-2.0, ended=False)] * 4
    later = [Branch(text=" two.", logp=-2.0, n_tokens=4, finished=True, score=-1.0, ended=True)] * 4
    script = fixed([*root, end(-9.0)], [*later, end(-9.0)])
    assert [node.score for node in grow(script).nodes] == [0.0, -2.0, -3.0]
    assert [node.score for node in grow(script, penalty_in_score=False).nodes] == [0.0, -1.0, -1.5]
    assert grow(script).dropped == {EQUAL: 6, UNLIKELY: 1}


def test_the_end_replaces_a_less_likely_sentence() -> None:
    root = [step(f"sentence {place}.", -0.1 * place, end=place < 3) for place in range(4)]
    later = [step(f" more {place}.", -0.4 * (place + 1), end=True) for place in range(4)]

    def told(score: float) -> list[tuple[str, str, float]]:
        tree = grow(fixed([*root, end(-0.01)], [*later, end(score)]))
        # At the root nothing can end, however likely.
        assert [node.text for node in tree.nodes[1:5]] == [branch.text for branch in root]
        return [(node.sentence, node.how, round(node.score, 3)) for node in tree.nodes[5:]]

    sentences = [
        (f" more {place}.", "end", round(-0.3 - 0.4 * (place + 1), 3)) for place in range(4)
    ]
    assert told(-1.7) == sentences
    assert told(-1.5) == [*sentences[:3], ("", "end", -1.8)]
    assert told(-0.1) == [*sentences[:3], ("", "end", -0.4)]


def test_a_text_is_final_at_its_end_or_at_its_length() -> None:
    def depth(**changes: Any) -> int:
        tree = grow(lambda *_: [*[step(" 45678.")] * 4, end(-9.0)], **changes)
        assert all(node.final == (node.text == tree.nodes[-1].text) for node in tree.nodes)
        return len(tree.nodes) - 1

    assert depth(max_chars=21) == 3
    assert depth(max_chars=22) == 4
    assert depth(max_chars=22, prompt_chars=0) == 2  # "describe ." has 10 characters
    assert depth(max_chars=22, prompt_chars=5) == 1


def test_sentences_are_cleaned_before_they_are_continued() -> None:
    root = [
        step("no."),
        step("ж is a letter."),
        step("go go go go go go."),
        step("a cat."),
        end(-9.0),
    ]
    tree = grow(fixed(root, [*ENDS[:1] * 4, ENDS[1]]))
    assert tree.dropped == {SHORT: 1, SCRIPT: 1, REPETITION: 1, EQUAL: 3, UNLIKELY: 1}
    assert [node.text for node in tree.nodes] == ["", "a cat.", "a cat. then it ends."]


def test_a_repeated_sentence_may_be_forbidden() -> None:
    def texts(repeats: bool) -> list[str]:
        script = fixed(
            [step("a cat.")] * 4 + [end(-9.0)],
            [step(" a cat."), step(" a dog."), *ENDS[:1] * 2, end(-9.0)],
        )
        tree = grow(script, repeats=repeats, max_chars=18)
        assert (tree.dropped[SAID_BEFORE] > 0) != repeats
        return [node.text for node in tree.nodes if node.final and node.how == "sentence"]

    assert texts(True) == [
        "a cat. a cat. a cat.",
        "a cat. a cat. a dog.",
        "a cat. a dog. a cat.",
        "a cat. a dog. a dog.",
    ]
    assert texts(False) == []
