"""Small data sets with VLMEvalKit's real columns, answers of every kind, and the kit's replies.

``python -m tests.benchmarks.vlmevalkit_cases`` runs the kit and writes ``vlmevalkit_recorded.json``
again. Run with a folder, as ``via_vlmevalkit`` runs its child, the same file replays the recorded
replies, and fails if the request differs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

RECORDED = Path(__file__).with_name("vlmevalkit_recorded.json")
YES_NO = (
    "yes",
    "Yes, there is.",
    "no",
    "No, I see none.",
    "",
    "maybe",
    "yes and no",
    "NA",
    "YES!",
    "it is not there",
    "no\x00pe",
    "yes",
)
MME_KINDS = (
    "OCR artwork celebrity color count existence landmark position posters scene "
    "code_reasoning commonsense_reasoning numerical_calculation text_translation"
).split()


def pope(folder: Path) -> dict[str, str]:
    from benchmarks.synthetic import suite, vlmevalkit

    vlmevalkit.pope(folder / "POPE.tsv", "test", 3)
    return {
        str(number): YES_NO[number % len(YES_NO)]
        for number, _ in enumerate(suite.pope("test", 3).items())
    }


def vlmevalkit_pope(folder: Path, limit: int) -> None:
    from benchmarks.synthetic import vlmevalkit

    vlmevalkit.pope(folder / "POPE.tsv", "test", limit)


def mmbench(folder: Path) -> dict[str, str]:
    """Question 0 by letter, 1 by the option's text, 2 with one rotation wrong, 3 unreadable, 4 with
    an answer missing."""
    from benchmarks.synthetic import vlmevalkit
    from benchmarks.via_vlmevalkit_tsv import read_rows

    vlmevalkit.mmbench(folder / "MMBench_DEV_EN.tsv", "test", 1)
    answers = {}
    for row in read_rows(folder / "MMBench_DEV_EN.tsv", ()):
        letter, text = row.cells["answer"], row.cells[row.cells["answer"]]
        question, turn = int(row.index) % 1_000_000, int(row.index) // 1_000_000
        said = (f"{letter}.", f"it is {text} .", "A", "A or B", letter, f"The answer is {letter}")
        if (question, turn) != (4, 2):
            answers[row.index] = said[question % len(said)]
    return answers


def mme(folder: Path) -> dict[str, str]:
    rows = [
        {
            "index": 2 * number + place,
            "image": cell(number),
            "question": f"Is this {kind}? Please answer yes or no.",
            "answer": "No" if place else "Yes",
            "category": kind,
            "image_path": f"{kind}/1.png",
        }
        for number, kind in enumerate(MME_KINDS)
        for place in (0, 1)
    ]
    _write(folder / "MME.tsv", rows)
    return {str(row["index"]): "Yes" if number % 5 else "no." for number, row in enumerate(rows)}


def amber(folder: Path) -> dict[str, str]:
    kinds = (
        "discriminative-hallucination",
        "discriminative-attribute-state",
        "discriminative-attribute-number",
        "relation",
    )
    rows = [
        {
            "index": number,
            "image": cell(number // 2),
            "question": f"Is it {number}?",
            "answer": "yes" if number % 3 else "no",
            "category": kinds[number % len(kinds)],
            "image_path": f"AMBER_{number // 2}.jpg",
        }
        for number in range(10)
    ]
    _write(folder / "AMBER.tsv", rows)
    return {str(number): YES_NO[number] for number in range(10)}


def gqa(folder: Path) -> dict[str, str]:
    rows = [
        {"index": n, "image": cell(n), "question": f"What is {n}?", "answer": word}
        for n, word in enumerate(("ball", "left", "two", "ball"))
    ]
    _write(folder / "GQA_TestDev_Balanced.tsv", rows)
    return dict(zip("0123", ("Ball", "the left", "two", ""), strict=True))


CASES: Mapping[str, Callable[[Path], dict[str, str]]] = {
    "POPE": pope,
    "MMBench_DEV_EN+exact_matching": mmbench,
    "MME": mme,
    "AMBER": amber,
    "GQA_TestDev_Balanced": gqa,
}


def cell(number: int) -> str:
    """An image of one colour, large enough not to look like a reference."""
    from benchmarks.synthetic.vlmevalkit import image_cell

    return image_cell(Image.new("RGB", (8, 8), (number * 16 % 256, 40, 80)))


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    from benchmarks.synthetic.vlmevalkit import write

    write(path, rows)


def replay(folder: Path) -> None:
    request = json.loads((folder / "request.json").read_text())
    for entry in json.loads(RECORDED.read_text()):
        if entry["request"] == request:
            reply = json.dumps(entry["reply"]).replace("FOLDER", str(folder))
            for row in json.loads(reply).get("rows", []) if request["task"] == "export" else []:
                for part in row["parts"]:
                    if part["type"] == "image":
                        Path(part["value"]).parent.mkdir(parents=True, exist_ok=True)
                        Image.new("RGB", (4, 4)).save(part["value"])
            (folder / "reply.json").write_text(reply)
            return
    sys.exit(f"no recorded reply to this {request['task']}")


def record() -> None:
    import tempfile

    from benchmarks import via_vlmevalkit

    taken: list[dict[str, Any]] = []
    ask = via_vlmevalkit._ask

    def listening(
        folder: Path, task: str, request: Mapping[str, Any], interpreter: Path | None = None
    ) -> Any:
        reply = ask(folder, task, request, interpreter)
        taken.append(
            {
                "request": {"task": task, **request},
                "reply": json.loads(json.dumps(reply).replace(str(folder), "FOLDER")),
            }
        )
        return reply

    via_vlmevalkit._ask = listening
    for name, make in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            answers = make(Path(folder))
            opened = via_vlmevalkit.benchmark(name, "test", None, Path(folder))
            print(opened.version)
            if name == "POPE":
                list(opened.questions())
            opened.grade(answers)
    RECORDED.write_text(
        json.dumps(taken, ensure_ascii=True, indent=None).replace('}, {"request"', '},\n{"request"')
        + "\n"
    )


if __name__ == "__main__":
    if sys.argv[1:]:
        replay(Path(sys.argv[-1]))
    else:
        record()
