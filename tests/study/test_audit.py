"""The audit on tiny stand-ins: what is lacking is listed with its cure, what is there is compared
with published values, and the plan needs nothing."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import pandas as pd
import pytest

from benchmarks.catalogue import BENCHMARKS
from harness.artifacts.results_folder import Results
from harness.cli.main import main
from harness.errors import UserError
from harness.models import convert_llava
from harness.models.base_cards import BASES
from harness.models.chat_format import VICUNA_V1
from harness.models.released_cards import CARDS, cards_of
from harness.pipeline import runner
from harness.pipeline.context import Context
from harness.pipeline.progress import Display
from harness.reporting import literature
from harness.reporting.page import write as page
from harness.reporting.tables import build as tables
from harness.reporting.tables.text import terminal
from harness.study import audit
from tests.benchmarks import official_files
from tests.models.original_checkpoints import original_tensors, save_lora, save_original, tiny

IMAGES = 50


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder: POPE's files, a tiny base, and two downloads in the original format."""
    folder = tmp_path_factory.mktemp("audit") / "data"
    official_files.pope(folder / "coco", count=IMAGES)
    for path in (folder / "coco").glob("*.json"):  # one question an image is enough here
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        official_files.write_rows(path, [*{row["image"]: row for row in rows}.values()])
    base = folder / "base"
    model, processor = tiny(0)
    model.save_pretrained(base)
    processor.image_processor.image_aspect_ratio = "pad"
    processor.chat_template = VICUNA_V1 + processor.chat_template
    processor.save_pretrained(base)
    (folder / "original").mkdir()
    save_original(folder / "original" / "sima-7b", original_tensors(tiny(7)[0], True))
    save_lora(folder / "original" / "sentinel-7b", "liuhaotian/llava-v1.5-7b")
    return folder


@pytest.fixture(autouse=True)
def stand_in(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny base under the card's name, and no network."""
    monkeypatch.chdir(data.parent)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    card = replace(
        BASES["llava-1.5-7b"], source=data / "base", revision=None, dtype="float32", parameters=1e5
    )
    monkeypatch.setitem(BASES, "llava-1.5-7b", card)


@pytest.mark.thorough
def test_an_audit_from_download_to_table(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "run", "audit"]) == 0
    said = capsys.readouterr().out
    command = (
        "python -m harness convert data/original/sima-7b --out data/released/sima-7b"
        " --base llava-1.5-7b"
    )
    assert f"row SIMA released: data/original/sima-7b is not converted yet; run: {command}" in said
    assert "hf download charlesdj/CSR_LLaVA_1.5_7b_3Iteration --local-dir data/original/" in said
    assert "benchmark mme: data/mme lacks existence" in said
    assert "pope" not in said
    with pytest.raises(UserError, match=r"row SIMA released: .* is not converted yet"):
        audit.study(only=["sima-7b"])
    for name in ("sima-7b", "sentinel-7b"):
        convert_llava.convert(
            data / "original" / name, data / "released" / name, base="llava-1.5-7b"
        )
    assert main(["plan", "audit"]) == 0
    planned = capsys.readouterr().out
    assert re.search(r"SIMA released +here +14\.1 GB", planned)
    assert re.search(r"CSR released, round 3 +to download and convert +14\.1 GB", planned)
    assert "nothing is trained" in planned
    said, out = io.StringIO(), Path("results") / "audit-llava-1.5-7b"
    assert runner.run(Context(audit.study(), Results(out)), Display(said)) == []
    warning = "WARNING: the untrained base llava-1.5-7b does not have its published values: POPE"
    assert warning in said.getvalue()
    assert "images cut to the centre where the authors pad them" in said.getvalue()
    comparison = tables.load(out)
    tables.write(out, comparison=comparison)
    assert warning in terminal(tables.screen(comparison), 10_000)
    assert '<li class="warning">WARNING' in page.build(out, comparison)
    table = (out / "table.md").read_text()
    assert warning in table
    section = table.partition("## Against published values")[2].partition("\n## ")[0]
    lines = [[cell.strip() for cell in row.split("|")[1:-1]] for row in section.splitlines()]
    numbers = [
        number
        for number in literature.published()
        if number.base == "llava-1.5-7b" and number.benchmark.partition("_")[0] == "pope"
    ]
    names = {"untrained": "untrained", "SIMA released": "sima", "SENTINEL released": "sentinel"}
    rows = [line for line in lines if line and line[0] in names]
    for label, name in names.items():
        mine = [row for row in rows if row[0] == label]
        assert len(mine) == len(
            {
                (one.paper, one.benchmark, one.metric, one.value)
                for one in numbers
                if one.row == name
            }
        )
    cells = pd.read_csv(out / "table.csv").set_index(["label", "metric"])
    for label, _, metric, measured, published, difference, *_ in rows:
        value = cells.loc[(label, metric.lower().replace(" ", "_")), "value"]
        assert float(measured) == pytest.approx(value, abs=0.051)
        assert float(difference.split(" ")[0]) == pytest.approx(value - float(published), abs=0.051)
    assert set(cells.index.get_level_values(0)) == set(names)
    assert (cells["about"] != "method").all()  # nothing is said about methods
    assert main(["plan", "audit"]) == 0
    assert "all 7 stages are done" in capsys.readouterr().out


def test_a_plan_needs_nothing_and_names_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "audit", "--base", "llava-1.5-13b"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for card in cards_of("llava-1.5-13b"):
        assert f"row {card.label}: its weights are not in data/released/{card.name}" in said
        assert f"hf download {card.source}" in said
        assert card.revision is None or f"--revision {card.revision}" in said
    for name in audit.BENCHMARK_NAMES:
        assert f"benchmark {name}: data/" in said
    assert "Base 'llava-1.5-13b' is not in the local cache" in said
    assert "run leaves these out, but needs the base and one benchmark" in said
    few = audit.lines(limit=10)
    assert (
        f"for {sum(BENCHMARKS[name].questions for name in audit.BENCHMARK_NAMES):,} questions"
        in " ".join(audit.lines())
    )
    assert "for 361 questions a row" in " ".join(few)
    other = " ".join(audit.lines(benchmarks=["mmbench_dev_en"]))
    assert "for 0 questions a row (none; not counted: mmbench_dev_en)" in other
    _, lacking = audit.needs(benchmarks=["mme"], pool="nowhere")
    assert [one.about for one in lacking if "benchmark" in one.about] == ["benchmark mme"]


def test_mistakes_are_sentences() -> None:
    with pytest.raises(
        UserError, match=r"no released checkpoint of llava-1.5-7b 'sima-7'; did you"
    ):
        audit.study(only=["sima-7"])
    with pytest.raises(UserError, match=r"--limit is 0; it must be at least 1"):
        audit.study(limit=0)
    with pytest.raises(UserError, match=r"Left out: benchmark pope: nowhere/coco lacks"):
        audit.study(pool="nowhere")


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (["--lora"], "no option of the study audit '--lora'"),
        (["--limit", "0"], "--limit is 0"),
        (["--benchmarks", "pop"], "There is no benchmark 'pop'; did you mean 'pope'"),
    ],
)
def test_a_wrong_option_is_said_where_the_data_are_missing_too(
    option: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "audit", "--pool", str(tmp_path), *option]) == 2
    assert says in capsys.readouterr().err


def test_the_cards_are_whole() -> None:
    """No name, folder or row twice; commits are whole; each paper's row exists where it is of a
    paper in published.csv."""
    assert len({card.name for card in CARDS}) == len(CARDS)
    assert len({(card.base, card.label) for card in CARDS}) == len(CARDS)
    for card in CARDS:
        assert card.base in BASES
        assert re.fullmatch(r"[\w-]+/[\w.-]+", card.source)
        assert card.revision is None or re.fullmatch(r"[0-9a-f]{40}", card.revision)
        assert card.origin
        described = (Path(__file__).parents[2] / "PAPERS.md").read_text()
        assert f"| `{card.name}` | `{card.source}`" in described
