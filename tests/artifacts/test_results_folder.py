"""The store: whole files or none, identities compared before work, locks that die with their
process."""

import errno
import fcntl
import json
import multiprocessing
import os
import re
import signal
import time
from pathlib import Path

import pytest

from harness.artifacts import results_folder
from harness.artifacts.results_folder import (
    FORMAT,
    Results,
    Stage,
    check_name,
    explain_disk_errors,
    lock,
    read_json,
    read_jsonl,
    records,
)
from harness.artifacts.safe_files import partial_folder
from harness.cli.main import main
from harness.errors import UserError

FAILING = (errno.EINVAL, errno.EIO, errno.EBUSY, errno.EXDEV, errno.ESTALE, errno.ENAMETOOLONG)
IDENTITY = {
    "stage": "pairs",
    "format": FORMAT,
    "method": {"name": "toy", "noise_step": 420},
    "seed": 0,
}


def test_the_layout_is_the_contract(tmp_path: Path) -> None:
    results = Results(tmp_path)
    assert results.study == tmp_path / "study.json"
    assert results.questions("pope") == tmp_path / "questions/pope"
    assert results.pairs("sena", 1, 2) == tmp_path / "runs/sena/seed1/round2/pairs"
    assert results.train("sena", 1, 2) == tmp_path / "runs/sena/seed1/round2/train"
    assert results.answers("sena", 1, 2, "pope") == tmp_path / "runs/sena/seed1/round2/answers/pope"
    assert results.grades("sena", 1, 2, "pope") == tmp_path / "runs/sena/seed1/round2/grades/pope"


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", " a", "a ", "a\nb", "é", "x" * 121])
def test_a_name_that_is_no_folder_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="folder's name"):
        check_name("label", name)


def test_an_ablation_label_is_a_folder() -> None:
    check_name("label", "sena recipe.lr=5e-05 check=seen")


def test_text_comes_back_as_it_went(tmp_path: Path) -> None:
    rows = [{"answer": "a\u2028b\u0085c\nd\r\né 你"}, {"answer": ""}]
    results_folder.write_jsonl(tmp_path / "deep" / "a.jsonl", rows)
    assert read_jsonl(tmp_path / "deep" / "a.jsonl") == rows


def test_a_cut_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    results_folder.write_json(path, {"old": True})

    def cut(_handle: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", cut)
        with pytest.raises(KeyboardInterrupt):
            results_folder.write_json(path, {"new": True})
    assert read_json(path) == {"old": True}
    results_folder.write_json(path, {"new": True})
    assert read_json(path) == {"new": True}
    assert [child.name for child in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EDQUOT, "disk is full"),
        (errno.EACCES, "may not write"),
        *((number, "file system failed") for number in FAILING),
    ],
)
def test_full_disk_and_forbidden_folder_are_sentences(
    tmp_path: Path, number: int, words: str
) -> None:
    with (
        pytest.raises(UserError, match=f"{words}.*Nothing finished is lost"),
        explain_disk_errors(tmp_path),
    ):
        raise OSError(number, os.strerror(number))


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="defect"), explain_disk_errors(tmp_path):
        raise OSError(errno.EBADF, "defect")


@pytest.mark.parametrize("number", FAILING)
@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace"])
def test_a_failing_file_system_is_a_sentence_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: str
) -> None:
    path = tmp_path / "a.json"
    results_folder.write_json(path, {"old": True})

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(call, fail)
        with pytest.raises(UserError, match=re.escape(os.strerror(number))):
            results_folder.write_json(path, {"new": True})
    assert read_json(path) == {"old": True}
    assert [child.name for child in tmp_path.iterdir()] == ["a.json"]


def test_a_file_system_without_locks_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(UserError, match="has no locks"), lock(tmp_path):
        pass


@pytest.mark.parametrize("name", ["x" * 300, os.fsdecode(b"caf\xe9"), "/".join(["x" * 200] * 30)])
def test_a_name_that_no_folder_can_have_is_a_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"give another|give an"), lock(tmp_path / name):
        pass
    assert main(["run", "smoke", "--out", str(tmp_path / name)]) == 2


def test_a_model_s_files_are_flushed_before_its_folder_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed, fsync = list[str](), os.fsync

    def noted(handle: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    with partial_folder(tmp_path / "model") as partial:
        (partial / "model.safetensors").write_bytes(b"weights")
        (partial / "config.json").write_bytes(b"{}")
    assert flushed[0] == partial.name
    assert sorted(flushed[1:3]) == ["config.json", "model.safetensors"]
    assert flushed[3:] == [tmp_path.name]


def test_broken_json_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": ')
    with pytest.raises(UserError, match=r"a\.json is not readable"):
        read_json(tmp_path / "a.json")


def test_identity_is_written_before_work_and_done_last(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "pairs", IDENTITY)
    stage.open()
    assert read_json(stage.folder / "identity.json") == IDENTITY
    before = stage.done
    stage.finish({"seconds": 1.0})
    assert (before, stage.done) == (False, True)
    assert read_json(stage.folder / "record.json") == {"seconds": 1.0}
    stage.open()  # the same settings again are no problem


def test_other_settings_are_a_problem_with_every_difference(tmp_path: Path) -> None:
    Stage(tmp_path, IDENTITY).open()
    asked = Stage(tmp_path, {**IDENTITY, "method": {"name": "toy", "noise_step": 600}, "seed": 1})
    with pytest.raises(UserError) as caught:
        asked.open()
    text = str(caught.value)
    assert "method.noise_step: 420 stored, 600 requested; seed: 0 stored, 1 requested" in text
    assert "another --out" in text
    assert "move" in text
    assert "delete" not in text
    assert read_json(tmp_path / "identity.json") == IDENTITY


def test_another_format_is_a_problem(tmp_path: Path) -> None:
    Stage(tmp_path, {**IDENTITY, "format": FORMAT + 1}).open()
    with pytest.raises(
        UserError, match=f"results format {FORMAT + 1}, this version writes format {FORMAT}"
    ):
        Stage(tmp_path, IDENTITY).open()


def test_outdated_is_one_field_alone(tmp_path: Path) -> None:
    Stage(tmp_path, {**IDENTITY, "version": "1"}).open()
    assert Stage(tmp_path, {**IDENTITY, "version": "2"}).differs_only_in("version")
    assert not Stage(tmp_path, {**IDENTITY, "version": "1"}).differs_only_in("version")
    assert not Stage(tmp_path, {**IDENTITY, "version": "2", "seed": 3}).differs_only_in("version")
    assert not Stage(tmp_path / "new", IDENTITY).differs_only_in("version")


def _hold(out: Path, ready: "multiprocessing.synchronize.Event") -> None:
    with lock(out):
        ready.set()
        time.sleep(3600)  # until it is killed


def test_a_lock_keeps_others_out_and_dies_with_its_process(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, ready), daemon=True)
    holder.start()
    try:
        assert ready.wait(600)
        with pytest.raises(UserError, match="Another process is writing"), lock(tmp_path):
            pass
    finally:
        assert holder.pid is not None
        os.kill(holder.pid, signal.SIGKILL)
        holder.join()
    with lock(tmp_path):
        pass


def test_records_skip_what_is_broken(tmp_path: Path) -> None:
    results_folder.write_json(tmp_path / "a" / "record.json", {"seconds": 1})
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "record.json").write_text("{")
    assert records(tmp_path) == [{"seconds": 1}]
    assert json.loads((tmp_path / "a" / "record.json").read_text())


def test_a_place_that_cannot_be_a_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(UserError, match=r"cannot be a folder .*another --out"),
        lock(tmp_path / "file" / "out"),
    ):
        pass
