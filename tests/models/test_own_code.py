"""A checkpoint that brings its own code: it is loaded without that code, or refused in one
sentence. The user would answer yes to every question."""

import ast
import builtins
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from transformers import AutoModel, AutoProcessor

from harness.engine.clip_scorer import ScorerCard, load_scorer
from harness.errors import UserError
from harness.models import checkpoints
from harness.models.load_base import load_base
from harness.models.qwen import load_qwen_processor
from harness.reporting.page import images as page_images
from tests.engine.test_clip_scorer import tiny_clip
from tests.models.twins import tiny_qwen
from tests.toy_method import card_of, save_base

CODE = """
from pathlib import Path
Path({path!r}).write_text("run")
class Evil:
    pass
"""
CLASSES = (
    *("AutoConfig", "AutoModel", "AutoModelForImageTextToText", "AutoProcessor"),
    *("AutoImageProcessor",),
)
OWN_CLASSES = ("processor_class", "image_processor_type", "tokenizer_class", "model_type")


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that the checkpoint's code writes."""
    monkeypatch.setattr(builtins, "input", lambda *_: "y")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "hf"))
    return tmp_path / "marker"


def poison(folder: Path, names: tuple[str, ...], marker: Path, *, drop: bool) -> None:
    """Name the folder's own code in these JSON files. ``drop``: in place of transformers' class."""
    (folder / "evil.py").write_text(CODE.format(path=str(marker)))
    for name in names:
        path = folder / name
        content = json.loads(path.read_text()) if path.exists() else {}
        for part in (content, content.get("image_processor", {})):
            for key in OWN_CLASSES if drop else ():
                part.pop(key, None)
            part["auto_map"] = dict.fromkeys(CLASSES, "evil.Evil")
            part["auto_map"]["AutoTokenizer"] = ["evil.Evil", "evil.Evil"]
        path.write_text(json.dumps(content))


FILES = ("config.json", "processor_config.json", "preprocessor_config.json")
TOKENIZER = "tokenizer_config.json"


def saved_clip(folder: Path) -> Path:
    model, processor = tiny_clip()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_the_poison_works(tmp_path: Path, marker: Path) -> None:
    """Without the harness it runs."""
    poison(saved_clip(tmp_path / "clip"), FILES, marker, drop=True)
    with suppress(Exception):  # the code is no model
        AutoModel.from_pretrained(tmp_path / "clip")
    assert marker.exists()
    marker.unlink()
    poison(saved_clip(tmp_path / "other"), FILES, marker, drop=True)
    with suppress(Exception):
        AutoProcessor.from_pretrained(tmp_path / "other")
    assert marker.exists()


def base(folder: Path) -> None:
    load_base(card_of(folder))


def scorer(folder: Path) -> None:
    load_scorer(ScorerCard(name="evil", source=folder, revision=None))


def page(folder: Path) -> None:
    page_images.image_processor(card_of(folder))


def skeleton(folder: Path) -> None:
    checkpoints.count_parameters(folder)


@pytest.mark.parametrize("load", [base, scorer, page, skeleton])
def test_needed_code_is_refused_in_one_sentence(
    load: Callable[[Path], None], tmp_path: Path, marker: Path
) -> None:
    folder = tmp_path / "evil"
    if load is scorer:
        saved_clip(folder)
    else:
        save_base(folder)
    poison(folder, FILES, marker, drop=True)
    with pytest.raises(UserError, match="no such code is run") as refused:
        load(folder)
    assert "\n" not in str(refused.value)
    assert not marker.exists()


@pytest.mark.parametrize("load", [base, page, skeleton])
def test_code_that_is_not_needed_is_not_run(
    load: Callable[[Path], None], tmp_path: Path, marker: Path
) -> None:
    save_base(tmp_path / "evil")
    poison(tmp_path / "evil", (*FILES[:2], TOKENIZER), marker, drop=False)
    load(tmp_path / "evil")
    assert not marker.exists()


def test_a_qwen_processor_runs_no_code(tmp_path: Path, marker: Path) -> None:
    tiny_qwen()[1].save_pretrained(tmp_path / "evil")
    poison(tmp_path / "evil", (*FILES[1:], TOKENIZER), marker, drop=True)
    with pytest.raises(ValueError, match="custom code"):
        load_qwen_processor(str(tmp_path / "evil"))
    assert not marker.exists()


@pytest.mark.parametrize("named", ["evil/kernel", {"text_config": "evil/kernel"}])
def test_kernels_of_the_hub_are_refused(named: object, tmp_path: Path) -> None:
    save_base(tmp_path / "evil")
    path = tmp_path / "evil" / "config.json"
    content = json.loads(path.read_text())
    content["text_config"]["_attn_implementation"] = named
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="attention code 'evil/kernel'"):
        load_base(card_of(tmp_path / "evil"))


def test_every_load_forbids_own_code() -> None:
    root = Path(checkpoints.__file__).parents[1]
    forbidding = 0
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("from_pretrained", "from_config")
                and ast.unparse(node.func.value).startswith("Auto")
            ):
                options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert options.get("trust_remote_code") == "False", f"{path}, line {node.lineno}"
                forbidding += 1
    assert forbidding >= 9
