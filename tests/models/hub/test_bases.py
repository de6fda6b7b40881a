"""Bases from a hub, through the command line: they are fetched, pinned and run; what is wrong with
one is said in a sentence."""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import pytest

from harness.models.base_cards import BASES, SYNTHETIC_WEIGHTS, find_base
from harness.models.hub_snapshots import load_error
from harness.pipeline.stage_identity import untrained
from tests.models.hub.conftest import TOKEN, Desk
from tests.models.test_checkpoints import save_adapter
from tests.models.twins import tiny_qwen
from tests.tiny_models import tiny_llava

pytestmark = pytest.mark.thorough
STUDY = "tests/models/hub/study.py"


@pytest.fixture(scope="module")
def llava(desk: Desk) -> str:
    """The commit of org/llava, whose weights lie in several files."""
    model, processor = tiny_llava()
    folder = desk.work / "llava"
    model.save_pretrained(folder, max_shard_size="100KB")
    processor.save_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(b"never to be asked for")
    return desk.hub.add("org/llava", folder)


@pytest.fixture(scope="module")
def done(desk: Desk, llava: str) -> Path:
    """A results folder on org/llava; it is in the cache then."""
    assert llava
    out = desk.work / "done"
    said = desk.harness("run", STUDY, "--base", "org/llava", "--only", "toy", "--out", out)
    assert said.code == 0, said.err
    assert "untrained" in said.out
    assert TOKEN not in said.out + said.err
    return out


def test_a_hub_id_a_card_and_a_folder_are_one_identity(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each small file is changed in turn: the three stay one, and are another than before."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(desk.home / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    folder, seen = desk.work / "one", set[str]()
    for part in tiny_qwen():
        part.save_pretrained(folder)
    files = [None, *(path.name for path in sorted(folder.iterdir()) if path.suffix == ".json")]
    assert len(files) >= 5
    for number, file in enumerate(files):
        version = desk.work / f"one-{number}"
        shutil.copytree(folder, version)
        if file is not None:
            fields = json.loads((version / file).read_text())
            (version / file).write_text(json.dumps({**fields, "something": number}))
        commit = f"{number:040x}"
        snapshot = desk.home / "hub" / "models--org--one" / "snapshots" / commit
        shutil.copytree(version, snapshot)  # as a download leaves it
        cards = [
            find_base(f"org/one@{commit}"),
            replace(BASES["qwen2.5-vl-3b"], source="org/one", revision=commit, dtype="float32"),
            find_base(str(version)),
        ]
        ids = {untrained(card).id for card in cards}
        assert len(ids) == 1, file
        assert seen.isdisjoint(ids), file
        seen |= ids


def test_a_hub_model_that_is_not_here_is_known_from_the_results(
    desk: Desk, llava: str, done: Path
) -> None:
    """A finished folder stays finished where the model was never downloaded."""
    asked = len(desk.hub.asked)
    cache = desk.home / "hub" / "models--org--llava"
    moved = cache.with_name("moved")
    folder = next((cache / "snapshots").iterdir()).parent / llava
    kept = {path.name: path.resolve() for path in folder.glob("model-*.safetensors")}
    for name in kept:
        (folder / name).rename(folder / f"{name}.away")
    try:
        said = desk.harness(
            "plan", STUDY, "--base", f"org/llava@{llava}", "--only", "toy", "--out", done
        )
        assert "all 7 stages are done" in said.out, said
        got = desk.hub.asked[asked:]
        assert not any(path.endswith(".safetensors") for _, path, _ in got)
        planned = desk.harness("plan", STUDY, "--base", f"org/llava@{llava}", "--out", moved)
        assert "0 of 3 stages are" in planned.out, planned
    finally:
        for name in kept:
            (folder / f"{name}.away").rename(folder / name)


def test_a_damaged_file_of_the_cache_is_named(desk: Desk, llava: str, tmp_path: Path) -> None:
    """One bit of a weight: its size and header are right, its SHA-256 is not."""
    assert llava
    copied(desk, "rotten")
    run = ("run", STUDY, "--base", "org/rotten", "--out", tmp_path / "out")
    assert desk.harness(*run).code == 0
    snapshot = next((desk.home / "hub" / "models--org--rotten" / "snapshots").iterdir())
    blob = (snapshot / "model-00002-of-00006.safetensors").resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    shutil.rmtree(tmp_path / "out")
    assert f"is cut or damaged in the local cache; delete {blob}" in desk.refused(*run)


def identity(out: Path, stage: str) -> dict[str, object]:
    return dict(
        json.loads(next(out.glob(f"runs/*/seed*/round*/{stage}/**/identity.json")).read_text())
    )


def test_a_hub_id_is_fetched_pinned_trained_and_answered(
    desk: Desk, llava: str, done: Path
) -> None:
    for stage in ("answers", "pairs", "train"):
        assert identity(done, stage)["revision"] == llava
    assert not any("/org/llava/" in path and path.endswith(".bin") for _, path, _ in desk.hub.asked)
    again = desk.harness(
        "plan", STUDY, "--base", f"org/llava@{llava}", "--only", "toy", "--out", done
    )
    assert "nothing is left to do" in " ".join(again.out.split()), again


def test_the_token_goes_to_the_hub_and_into_no_record(desk: Desk, done: Path) -> None:
    assert any(TOKEN in headers.get("authorization", "") for _, _, headers in desk.hub.asked)
    written = [path for path in done.rglob("*") if path.is_file()]
    assert len(written) > 20
    assert not any(TOKEN.encode() in path.read_bytes() for path in written)


def test_a_branch_is_pinned_to_the_commit_it_is_at(desk: Desk, llava: str, tmp_path: Path) -> None:
    """A folder of results goes on with one commit alone; the branch may move."""
    model, processor = tiny_llava(seed=1)
    other = desk.work / "other"
    model.save_pretrained(other)
    processor.save_pretrained(other)
    desk.hub.add("org/llava", desk.work / "llava", ref="trial/one")
    out = tmp_path / "out"
    said = desk.harness("run", STUDY, "--base", "org/llava@trial/one", "--out", out)
    assert said.code == 0, said.err
    assert identity(out, "answers")["revision"] == llava
    moved = desk.hub.add("org/llava", other, ref="trial/one")
    refused = desk.refused("run", STUDY, "--base", "org/llava@trial/one", "--out", out)
    assert "revision: " in refused
    assert llava in refused
    assert moved in refused
    assert desk.harness("plan", STUDY, "--base", f"org/llava@{llava}", "--out", out).code == 0


def test_an_adapter_and_a_row_come_from_the_hub(desk: Desk, llava: str, tmp_path: Path) -> None:
    adapter = desk.work / "adapter"
    save_adapter(adapter, Path("org/llava"), revision=llava)
    desk.hub.add("org/adapter", adapter)
    model, processor = tiny_qwen()
    qwen = desk.work / "qwen"
    model.save_pretrained(qwen)
    processor.save_pretrained(qwen)
    desk.hub.add("org/qwen", qwen)
    out = tmp_path / "out"
    rows = ("--row", "theirs=org/adapter", "--row", "qwen=org/qwen")
    said = desk.harness("run", STUDY, "--base", "org/llava", *rows, "--out", out)
    assert said.code == 0, said.err
    answers = {
        path.parts[-6]: path.read_text()
        for path in out.glob("runs/*/seed0/round0/answers/words/answers.jsonl")
    }
    assert set(answers) == {"untrained", "theirs", "qwen"}
    assert len(set(answers.values())) == 3
    asked = [path for _, path, _ in desk.hub.asked if "/adapter/resolve/" in path]
    assert any(path.endswith("adapter_model.safetensors") for path in asked)


@pytest.mark.parametrize(
    ("base", "words"),
    [
        (
            "org/nowhere",
            (
                "there is no such repository, or it is private: check the id, or log in with `hf"
                " auth login`"
            ),
        ),
        ("org/closed", "it is gated: accept its terms on its page and log in"),
        ("org/llava@v9", "it has no revision 'v9': give one of its commits, tags or branches"),
        (
            "org/blip",
            r"a model of type 'blip-2' (Blip2ForConditionalGeneration); supported are llava-1.5",
        ),
        ("org/empty", "it lacks a file that is needed (config.json, or safetensors weights)"),
    ],
)
def test_what_is_no_base_is_said_before_any_work(
    desk: Desk, llava: str, base: str, words: str, tmp_path: Path
) -> None:
    assert llava
    desk.hub.gate("org/closed")
    for name, files in {
        "blip": {
            "config.json": (
                '{"model_type": "blip-2", "architectures": ["Blip2ForConditionalGeneration"]}'
            )
        },
        "empty": {"README.md": "Nothing."},
    }.items():
        for file, text in files.items():
            (desk.work / name).mkdir(exist_ok=True)
            (desk.work / name / file).write_text(text)
        desk.hub.add(f"org/{name}", desk.work / name)
    for command in ("plan", "run"):
        said = desk.refused(command, "smoke", "--base", base, "--out", tmp_path / "out")
        assert words in said
        assert TOKEN not in said
    assert not (tmp_path / "out").exists()


def copied(desk: Desk, name: str, leave: str = "") -> str:
    """Another repository with org/llava's files, but those of that end."""
    folder = desk.work / name
    shutil.copytree(desk.work / "llava", folder, ignore=shutil.ignore_patterns(leave))
    return desk.hub.add(f"org/{name}", folder)


def test_a_repository_of_torch_files_alone_is_refused_with_the_way_out(
    desk: Desk, llava: str, tmp_path: Path
) -> None:
    assert llava
    commit = copied(desk, "torch", "*.safetensors*")
    refused = desk.refused("run", STUDY, "--base", "org/torch", "--out", tmp_path / "out")
    assert (
        f"at {commit[:12]} it has pytorch_model.bin alone, a torch file, which is not read"
        in refused
    )
    assert "org/torch@refs/pr/N" in refused
    assert not any(method == "GET" and path.endswith(".bin") for method, path, _ in desk.hub.asked)
    # What the hub's bot offers for it:
    desk.hub.add("org/torch", desk.work / "llava", ref="refs/pr/3")
    said = desk.harness("run", STUDY, "--base", "org/torch@refs/pr/3", "--out", tmp_path / "other")
    assert said.code == 0, said.err


def test_a_download_that_was_cut_is_completed_by_the_same_command(
    desk: Desk, llava: str, tmp_path: Path
) -> None:
    assert llava
    copied(desk, "cut")
    desk.hub.cut(
        "org/cut", "model-00003-of-00006.safetensors", times=1
    )  # once: the library tries again
    said = desk.harness("run", STUDY, "--base", "org/cut", "--out", tmp_path / "out")
    assert said.code == 0, said.err
    got = [
        path
        for method, path, _ in desk.hub.asked
        if method == "GET" and path.startswith("/org/cut/")
    ]
    assert sum(path.endswith("model-00003-of-00006.safetensors") for path in got) == 2
    # A cache that a killed process, or a full disk, has left: a blob that is too short, and one
    # that is not there.
    blobs = desk.home / "hub" / "models--org--cut" / "blobs"
    snapshot = next((desk.home / "hub" / "models--org--cut" / "snapshots").iterdir())
    short, gone = (snapshot / f"model-0000{number}-of-00006.safetensors" for number in (1, 2))
    short_blob, gone_blob = short.resolve(), gone.resolve()
    assert short_blob.parent == blobs
    short_blob.write_bytes(short_blob.read_bytes()[:-100])
    gone_blob.rename(gone_blob.with_name(f"{gone_blob.name}.1234abcd.incomplete"))
    shutil.rmtree(tmp_path / "out")
    refused = desk.refused("run", STUDY, "--base", "org/cut", "--out", tmp_path / "out")
    assert "model-00001-of-00006.safetensors is cut or damaged in the local cache" in refused
    assert f"delete {short_blob} and run the same command again" in refused
    short_blob.unlink()
    assert desk.harness("run", STUDY, "--base", "org/cut", "--out", tmp_path / "out").code == 0


def test_a_full_cache_is_enough_without_a_hub(desk: Desk, done: Path, tmp_path: Path) -> None:
    asked = len(desk.hub.asked)
    said = desk.harness(
        "run", STUDY, "--base", "org/llava", "--out", tmp_path / "out", HF_HUB_OFFLINE="1"
    )
    assert said.code == 0, said.err
    assert len(desk.hub.asked) == asked
    answers = "runs/untrained/seed0/round0/answers/words/answers.jsonl"
    assert (tmp_path / "out" / answers).read_bytes() == (done / answers).read_bytes()


@pytest.mark.slow
def test_a_hub_that_hangs_up_is_said(desk: Desk, llava: str, tmp_path: Path) -> None:
    assert llava
    copied(desk, "silent")
    desk.hub.silence("org/silent")
    assert "the connection to the hub broke off: run the same command again" in desk.refused(
        "plan", STUDY, "--base", "org/silent"
    )
    desk.hub.silence("org/silent", False)
    desk.hub.cut("org/silent", ".safetensors")  # as long as the library tries
    said = desk.harness("run", STUDY, "--base", "org/silent", "--out", tmp_path / "out")
    assert said.code == 2
    assert said.err.splitlines()[-1].endswith(
        "run the same command again, which continues the download."
    )
    assert "Traceback" not in said.err


def test_a_full_disk_is_said() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    sentence = str(load_error("Base 'a'", "org/a", None, full))
    assert "the disk is full; free some space below" in sentence


def test_offline_and_without_a_cache(desk: Desk, llava: str) -> None:
    assert llava
    said = desk.harness("plan", STUDY, "--base", "org/never", HF_HUB_OFFLINE="1")
    assert said.code == 2
    assert said.err.endswith(
        "it is not in the local cache and the hub cannot be reached: go online, or give a folder"
        " that holds it.\n"
    )


@pytest.mark.slow
def test_a_hub_that_is_down(desk: Desk, done: Path, tmp_path: Path) -> None:
    """In an interpreter of its own: nobody listens there. The cache is enough, and without it there
    is one sentence."""
    nobody = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    said = desk.fresh(
        "run", STUDY, "--base", "org/llava", "--only", "toy", "--out", tmp_path / "out", **nobody
    )
    assert said.code == 0, said.err
    answers = "runs/toy/seed0/round1/answers/words/answers.jsonl"
    assert (tmp_path / "out" / answers).read_bytes() == (done / answers).read_bytes()
    said = desk.fresh("run", STUDY, "--base", "org/never", "--out", tmp_path / "none", **nobody)
    assert said.code == 2
    assert said.err.splitlines()[-1].endswith("go online, or give a folder that holds it.")
    assert "Traceback" not in said.err


@pytest.mark.slow
def test_the_comparison_runs_on_a_hub_base(desk: Desk, llava: str, tmp_path: Path) -> None:
    """The shipped base as a stranger's repository, so that texts are texts: its prompts are then
    those of real models, which are longer."""
    shipped = tmp_path / "shipped"
    shutil.copytree(SYNTHETIC_WEIGHTS, shipped)
    config = json.loads((shipped / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 4096
    (shipped / "config.json").write_text(json.dumps(config))
    desk.hub.add("org/shipped", shipped)
    asked = (
        *("--base", "org/shipped", "--only", "sima", "--limit", "8"),
        *("--benchmarks", "synthetic_pope", "--row", "other=org/llava"),
    )
    said = desk.fresh("run", "compare", *asked, "--out", tmp_path / "out", "--log-to", "none")
    assert said.code == 0, said.err
    for row in ("untrained", "sima", "other"):
        assert row in said.out
    assert (
        llava
        in (
            tmp_path / "out/runs/other/seed0/round0/answers/synthetic_pope/identity.json"
        ).read_text()
    )


def test_doctor_asks_the_hub_for_what_the_cards_pin(desk: Desk, llava: str) -> None:
    assert llava
    card = BASES["llava-1.5-7b"]
    desk.hub.add(str(card.source), desk.work / "llava", commit=card.revision)
    said = desk.harness("doctor", "--online", "--base", "org/llava", "--base", "org/nowhere")
    assert said.code == 0, said.err
    lines = [line.split(maxsplit=2) for line in said.out.splitlines()]
    assert any(
        line[:2] == ["lacking", "org/nowhere"] and "there is no such repository" in line[2]
        for line in lines
    )
    assert f"ready    {card.name:<10}" in said.out.split("\nhub\n")[1]
    assert f"{card.source} has commit {card.revision}" in said.out
    assert (
        "Qwen/Qwen2.5-VL-7B-Instruct at cc594898137f460bfe9f0759e9844b3ce807cfb5:"
        " RepositoryNotFoundError" in said.out
    )
    assert TOKEN not in said.out + said.err
