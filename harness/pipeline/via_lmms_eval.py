"""Lets lmms-eval evaluate one of our bases live, through our engine.

``python -m harness.pipeline.via_lmms_eval FOLDER`` runs in the toolkit's environment (``nox -s
toolkit_lmms_eval``), with this repository on PYTHONPATH and the data in the working directory.
``FOLDER/request.json`` gives ``task``, ``folder`` (of its YAML), ``base`` and, optionally,
``weights`` (a trained model's folder). ``FOLDER/reply.json`` receives the answers and the totals.

A test compares this with grading stored answers. Studies use stored answers, which can be graded
again. The toolkit's own wrappers count a model that raises as an empty answer; here an error ends
the evaluation.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmms_eval.api.model import lmms
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager, get_task_dict

from harness.artifacts.results_folder import read_json, write_json
from harness.engine.engine import Engine
from harness.engine.load import load_model
from harness.errors import UserError
from harness.models.base_cards import find_base
from methods.interface import VLM, Decoding, Prompt


class LiveModel(lmms):  # type: ignore[misc]
    """A :class:`methods.interface.VLM` as lmms-eval's model; the engine batches.

    Args:
        max_new_tokens: the bound where a task gives none.
    """

    def __init__(self, vlm: VLM, max_new_tokens: int = 1024) -> None:
        super().__init__()
        self.vlm, self.max_new_tokens = vlm, max_new_tokens

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Greedy answers, in order. Requests with equal settings share an engine call."""
        groups: dict[tuple[int, tuple[str, ...]], list[int]] = {}
        for index, request in enumerate(requests):
            options = request.args[1]
            key = (options.get("max_new_tokens") or self.max_new_tokens, stops(options))
            groups.setdefault(key, []).append(index)
        answers = [""] * len(requests)
        for (max_new_tokens, until), indices in groups.items():
            prompts = [self.prompt(index, requests[index]) for index in indices]
            decoding = Decoding(max_new_tokens=max_new_tokens, stop=until)
            completions = self.vlm.generate(prompts, decoding)
            for index, completion in zip(indices, completions, strict=True):
                text = completion.text
                for stop in until:
                    text = text.partition(stop)[0]
                answers[index] = text
        return answers

    def prompt(self, index: int, request: Any) -> Prompt:
        text, _, doc_to_visual, document, task, split = request.args
        images = doc_to_visual(self.task_dict[task][split][document])
        if len(images) > 1:
            raise UserError(
                f"Row {document + 1} of {task} has {len(images)} images; the engine answers about"
                " one."
            )
        return Prompt(key=f"{task}/{index}", text=text, image=images[0] if images else None)

    def loglikelihood(self, _requests: Sequence[Any]) -> Any:
        raise UserError(
            "This model answers in words; tasks that ask for log-likelihoods are not asked."
        )

    generate_until_multi_round = loglikelihood


def stops(options: Mapping[str, Any]) -> tuple[str, ...]:
    """The stop strings without the toolkit's default (an empty line); as in the child program."""
    until = options.get("until") or []
    texts = [until] if isinstance(until, str) else until
    return tuple(text for text in texts if text and text != "\n\n")


def evaluate(vlm: VLM, request: dict[str, Any]) -> dict[str, Any]:
    """The toolkit's evaluation of a model: ``answers`` in order, ``totals`` by metric."""
    name = request["task"]
    manager = TaskManager(include_path=request["folder"], include_defaults=False, verbosity="ERROR")
    task = get_task_dict([{"task": name, "dataset_kwargs": {}}], manager, "simple")[name]
    results = simple_evaluate(
        model=LiveModel(vlm),
        tasks=[task],
        task_manager=manager,
        bootstrap_iters=0,
        log_samples=True,
        process_docs_parallel=1,
    )
    return {
        "answers": [str(row["filtered_resps"][0]) for row in results["samples"][name]],
        "totals": {
            key.partition(",")[0]: float(value)
            for key, value in results["results"][name].items()
            if key.endswith(",none") and isinstance(value, int | float)
        },
    }


def main(folder: Path) -> None:
    request = read_json(folder / "request.json")
    weights = Path(request["weights"]) if request.get("weights") else None
    model, processor = load_model(find_base(request["base"]), "cpu", weights)
    write_json(folder / "reply.json", evaluate(Engine(model, processor), request))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
