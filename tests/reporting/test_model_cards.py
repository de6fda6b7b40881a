"""A trained model carries a card that tells what it was made from, and nothing that was not
measured."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData, parse_eval_result_entries

from benchmarks.catalogue import BENCHMARKS
from benchmarks.interface import Metric
from harness.artifacts.results_folder import Results, read_jsonl
from harness.models.base_cards import BASES, find_base
from harness.reporting.comparison import MetricResult
from harness.reporting.display_names import UNGRADED
from harness.reporting.model_card_results import (
    results_of,
    with_model_index,
    write_eval_results,
    write_results,
)
from harness.reporting.model_cards import card
from harness.reporting.results import BenchmarkColumns, StudyResults
from harness.reporting.stored import Stored
from harness.reporting.study_row import Row
from harness.reporting.tables import build as tables
from harness.study.study import Run, Study
from methods.controls import Control
from methods.interface import Lora
from methods.untrained import Untrained
from tests.running import run_study
from tests.toy_method import RECIPE, Toy, Words, save_base, save_pictures


@pytest.mark.thorough
def test_a_run_writes_a_card_and_its_model_is_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BASES, "tiny", save_base(tmp_path / "llava"))
    pictures = str(save_pictures(tmp_path / "pictures", 6))
    baseline = Run(label="untrained", base="tiny", method=Untrained())
    toy = Run(label="toy", base="tiny", method=Toy(), pool=pictures, images=6)
    study = Study(
        name="carded",
        question="Does it run?",
        runs=(baseline, toy),
        benchmarks=(Words(pictures=1),),
    )
    run_study(study, tmp_path / "out")
    train = tmp_path / "out" / "runs" / "toy" / "seed0" / "round1" / "train"
    text = (train / "model" / "README.md").read_text(encoding="utf-8")
    pairs = json.loads((train.parent / "pairs" / "record.json").read_text())
    assert text.startswith("---\nlibrary_name: transformers\n")
    for said in (
        pairs["pool"]["fingerprint"],
        f"{pairs['counts']['pairs']}, {pairs['counts']['dropped']} |",
        '"lr": 0.001',
        "Licences",
    ):
        assert said in text
    # The model's folder is a base of its own: as a ready-made row it answers as it did in its run.
    found = find_base(str(train / "model"))
    rows = (baseline, Run(label="ready made", base=str(train / "model"), method=Untrained()))
    run_study(
        Study(name="rows", question="?", runs=rows, benchmarks=(Words(pictures=1),)),
        tmp_path / "rows",
    )
    mine, its = (
        [row["answer"] for row in read_jsonl(folder / "answers" / "words" / "answers.jsonl")]
        for folder in (tmp_path / "rows" / "runs" / "ready made" / "seed0" / "round0", train.parent)
    )
    assert mine == its
    assert found.family == "llava-1.5"
    study_json = json.loads((tmp_path / "rows" / "study.json").read_text())
    assert study_json["runs"][1]["base"] == str(train / "model")


ADAPTED = Toy(recipe=replace(RECIPE, lr=3e-2, epochs=2, lora=Lora(r=4, alpha=8)))


@dataclass(frozen=True, kw_only=True)
class Brief(Words):
    """Fewer words are better: a primary metric that goes somewhere."""

    metrics: tuple[Metric, ...] = (
        Metric(
            name="words",
            better="lower",
            unit="words",
            numerator="words",
            denominator="answers",
            scale=1.0,
            primary=True,
        ),
    )


def results_on(card: Path) -> str:
    return card.read_text(encoding="utf-8").partition("\n## Results\n")[2]


@pytest.mark.thorough
def test_once_the_table_is_made_the_cards_say_what_came_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BASES, "tiny", save_base(tmp_path / "llava"))
    pictures = str(save_pictures(tmp_path / "pictures", 8))
    more: dict[str, Any] = {"base": "tiny", "pool": pictures, "images": 4}
    baseline = Run(label="untrained", base="tiny", method=Untrained())
    rows = [Run(label="toy", method=ADAPTED, rounds=2, seed=seed, **more) for seed in range(2)]
    spoilt = Run(label="spoilt", method=Control(inner=ADAPTED, kind="sft"), **more)
    study = Study(
        name="told",
        question="<b>Does|it?",
        runs=(baseline, *rows, spoilt),
        benchmarks=(Brief(pictures=4),),
    )
    out = tmp_path / "out"
    run_study(study, out)
    last = out / "runs" / "toy" / "seed1" / "round2" / "train"
    assert UNGRADED in results_on(last / "model" / "README.md")
    before = (last / "model" / "README.md").read_bytes()

    made = tables.load(out)
    write_results(out, made.study, made.cells)
    cell = next(cell for cell in made.cells if cell.label == "toy" and cell.last)
    own = cell.seed_values.split()[1]
    for kind in ("model", "adapter"):
        said = results_on(last / kind / "README.md")
        assert UNGRADED not in said
        line = next(line for line in said.splitlines() if line.startswith("| words"))
        texts = [text.strip() for text in line.strip("|").split(" | ")]
        change = f"{cell.difference:+.2f} [{cell.lo:.2f}, {cell.hi:.2f}]"
        assert texts == [
            "words ↓",
            f"{float(own):.2f}",
            f"{cell.value:.2f}",
            change,
            cell.verdict,
            "2 of 2",
            "4, 8",
        ]
        assert "&lt;b&gt;Does\\|it?" in said
        assert "- words: " in said
        (result,) = ModelCard.load(last / kind / "README.md").data.eval_results
        assert (result.dataset_type, result.metric_type) == ("words", "words")
        assert result.metric_value == pytest.approx(float(own), abs=1e-4)
        assert result.dataset_args == {"version": "1", "images": 4}
        assert not (last / kind / ".eval_results").exists()  # no benchmark of the hub
    # An earlier round's model is not tested, a control's card says what it is, and the untrained
    # row has no card.
    early = results_on(
        out / "runs" / "toy" / "seed0" / "round1" / "train" / "adapter" / "README.md"
    )
    assert "This is round 1 of 2: only the last round is tested." in early
    assert "| not tested |" in early
    assert "This row is a control of toy" in results_on(
        out / "runs" / "spoilt" / "seed0" / "round1" / "train" / "model" / "README.md"
    )
    # Written again it is the same; with the grades gone it says so again.
    after = (last / "model" / "README.md").read_bytes()
    made = tables.load(out)
    write_results(out, made.study, made.cells)
    assert (last / "model" / "README.md").read_bytes() == after
    for path in out.glob("runs/*/seed*/round*/grades/*/DONE"):
        path.unlink()
    made = tables.load(out)
    write_results(out, made.study, made.cells)
    assert (last / "model" / "README.md").read_bytes() == before


def test_whole_benchmarks_of_the_hub_are_eval_results(tmp_path: Path) -> None:
    toy = row_of('a"\n---\n- b: [')
    study = replace(records_of(toy), name="s", limit=None)
    pope = cell_of(
        toy.label,
        benchmark="pope",
        metric="accuracy",
        unit="%",
        images=BENCHMARKS["pope"].size,
        version="1: x\n- dataset",
        seed_values="85.12346",
    )
    second = replace(pope, metric="f1", seed_values="80")
    other = replace(pope, benchmark="synthetic_pope")
    path = tmp_path / ".eval_results" / "selfsight.yaml"
    write_eval_results(tmp_path, study, [pope, second, other], seed=0)
    (entry,) = parse_eval_result_entries(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("lmms-lab/POPE", "default", 85.1235)
    assert entry.notes == f"POPE accuracy (%), graded by SelfSight ({pope.version})"
    write_eval_results(tmp_path, study, [replace(pope, unscored=3)], seed=0)
    assert "; 3 unscored answers of all seeds left out" in path.read_text(encoding="utf-8")
    for part in (replace(pope, images=100), replace(pope, seed_values="nan")):
        write_eval_results(tmp_path, study, [pope], seed=0)
        write_eval_results(tmp_path, study, [part], seed=0)
        assert not path.exists()
    # The hub's parser reads back a name that tries to end the metadata.
    text = with_model_index(ModelCardData(tags=["x"]), toy.label, study, [pope], seed=0)
    data = ModelCard(f"---\n{text}\n---\n# card").data
    assert (data.model_name, data.tags) == (toy.label, ["x"])
    assert data.eval_results[0].dataset_args["version"] == pope.version


def test_metadata_that_the_owner_changed_stay(tmp_path: Path) -> None:
    toy = row_of("toy")
    train = Results(tmp_path).train("toy", 0, 1)
    (train / "model").mkdir(parents=True)
    (train / "DONE").write_text("")
    for start in ("---\nlicense: [\n---\n", "# mine\n"):
        (train / "model" / "README.md").write_text(f"{start}\n## Results\nold")
        write_results(tmp_path, records_of(toy), [cell_of("toy")])
        text = (train / "model" / "README.md").read_text()
        assert text.startswith(start)
        assert "old" not in text


def records_of(*rows: Row) -> StudyResults:
    metric = Metric(
        name="words",
        better="lower",
        unit="words",
        numerator="words",
        denominator="answers",
        primary=True,
    )
    columns = BenchmarkColumns(name="words", group="general", version="1", metrics=(metric,))
    empty = pd.DataFrame()
    return StudyResults(
        stored=Stored(Path("s")), name="s", question="?", baseline="untrained", split="test",
        limit=3, rows=rows,
        benchmarks=(columns,), grades=empty, rounds=empty, drops=empty, log=empty, missing=(),
        facts={"leaks": ("2 images <leaked>.",)},
    )  # fmt: skip


def row_of(label: str, **changes: Any) -> Row:
    return Row(
        label=label,
        base="b",
        method="m",
        pool="p",
        needs=(),
        images=1,
        rounds=1,
        seeds=(0, 1),
        **changes,
    )


def cell_of(label: str, **changes: Any) -> MetricResult:
    fixed: dict[str, Any] = {
        "label": label, "round": 1, "last": True, "seeds": "0", "seeds_planned": 2,
        "benchmark": "words", "group": "general", "version": "1", "metric": "words",
        "better": "lower", "unit": "words", "primary": True, "scale": 1.0, "value": 3.0,
        "difference": -1.0, "lo": -2.0, "hi": -0.5, "seed_values": "3.0", "verdict": "better",
        "questions": 8, "images": 4,
    }  # fmt: skip
    return MetricResult(**{**fixed, **changes})


def test_a_gain_says_whether_a_control_reaches_it() -> None:
    toy, control = row_of("toy"), row_of("con|trol", role="control", of="toy")
    alone, beside = records_of(toy), records_of(toy, control)

    def said(records: StudyResults, *cells: MetricResult, seed: int = 0) -> str:
        return "\n".join(results_of(records, cells, toy, seed, 1))

    assert "the study has no control of this row" in said(alone, cell_of("toy"))
    assert "none of its controls is graded after this round" in said(beside, cell_of("toy"))
    named = ("con|trol",)
    assert "truly exceeds its controls (con\\|trol)" in said(beside, cell_of("toy", exceeds=named))
    assert "it cannot be told yet whether the method exceeds con\\|trol" in said(
        beside, cell_of("toy", untold_by=named)
    )
    assert "does not exceed con\\|trol, so the gain is not the method's own" in said(
        beside, cell_of("toy", reached_by=named)
    )
    assert "no clear gain of the method, so controls are not compared" in said(
        beside, cell_of("toy", verdict="worse")
    )
    # What is not there is not made up.
    other = said(alone, cell_of("toy"), seed=1)
    assert "| not graded yet | 3.00 | -1.00 [-2.00, -0.50] | better | 1 of 2 | 4, 8 |" in other
    assert "2 images &lt;leaked&gt;." in other
    assert "limited to 3 images per benchmark" in other
    assert said(alone, cell_of("toy", value=float("nan"), difference=float("nan"))) == UNGRADED


def test_an_adapters_card_says_how_to_load_it() -> None:
    identity = {
        "base": "qwen2.5-vl-3b",
        "model": "ab",
        "pairs": "cd",
        "round": 1,
        "seed": 0,
        "recipe": {"lr": 1e-6},
    }
    made = {"method": {"name": "sena"}}
    counted = {"counts": {"images": 3, "pairs": 2, "dropped": 1}}
    told = {"base_model_name_or_path": "Qwen/Qwen2.5-VL-3B-Instruct", "revision": "66"}
    text = card(identity, {}, made, counted, told)
    for said in (
        "base_model: Qwen/Qwen2.5-VL-3B-Instruct\nlibrary_name: peft\n",
        "base_model_relation: adapter\n",
        "license: other\nlicense_name: qwen-research\n",
        'from_pretrained("Qwen/Qwen2.5-VL-3B-Instruct", revision="66")',
        "--row",
        UNGRADED,
    ):
        assert said in text
    second = card(
        {**identity, "round": 2}, {}, made, counted, {"base_model_name_or_path": "../`x`/model"}
    )
    assert "It belongs to `../'x'/model`" in second
    assert "the model of round 1" in second


def test_the_card_of_a_known_base_names_its_licence_and_markup_stays_text() -> None:
    identity = {
        "base": "llava-1.5-7b",
        "model": "ab",
        "pairs": "cd",
        "round": 2,
        "seed": 0,
        "recipe": {"lr": 1e-6},
    }
    made = {"method": {"name": "sena", "prompts": {"ask": "``` <script> |"}}}
    counts = {"images": 3, "pairs": 2, "dropped": 1, "drops_by_reason": {"a|b <i>": 1}}
    text = card(
        identity,
        {"training": {"steps": 1}},
        made,
        {"counts": counts, "pool": {"name": "x|y", "fingerprint": "ef"}},
    )
    assert "license: llama2\n" in text
    assert "llava-hf/llava-1.5-7b-hf" in text
    assert "a\\|b &lt;i&gt;" in text
    assert "````json" in text
    assert "x\\|y" in text
