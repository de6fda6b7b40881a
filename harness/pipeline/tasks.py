"""A study as a list of tasks. A task is data: what is done for whom, its folder and identity, and
which tasks come before it.

The exports come first and alone, because the identity of an answer depends on the exported
questions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from benchmarks.interface import Benchmark
from harness.artifacts.fingerprint import fingerprint
from harness.artifacts.results_folder import Results, Stage, read_jsonl
from harness.artifacts.stored_files import is_stored
from harness.engine.clip_scorer import ScorerCard, find_scorer, scorer_identity
from harness.models.base_cards import find_base
from harness.pipeline import foreign_answers, matched_baselines, stage_identity
from harness.pipeline.context import Context
from harness.pipeline.matched_baselines import CAPS, MatchedBaseline, matched_metric
from harness.pipeline.stage_identity import YES_NO, Checkpoint, Identity
from harness.study.study import Run
from methods.controls import Control
from methods.interface import Method, Recipe

Kind = Literal["export", "pairs", "train", "answer", "given", "choices", "grade", "caps", "derive"]
"""As in a stage's identity. ``given``: another program's answers, from a file. ``choices``: the
baseline's log-probabilities of yes and no. ``caps``: captions graded again, cut at several lengths.
``derive``: the answers of a matched baseline."""

FOLDERS: Mapping[Kind, str] = {
    "pairs": "pairs",
    "train": "train",
    **dict.fromkeys(("answer", "given", "derive"), "answers"),
    "choices": "choices",
    "grade": "grades",
    "caps": "caps",
}
"""The folder of a kind in that of its round."""

TITLES: Mapping[Kind, str] = {
    "pairs": "pairs",
    "train": "train",
    "answer": "answer {}",
    "given": "read the answers to {}",
    "choices": f"weigh {' and '.join(YES_NO)} in {{}}",
    "grade": "grade {}",
    "caps": "grade {} at several lengths",
    "derive": "{}",
}
"""A task's title behind its subject; the braces take the benchmark."""

Where = tuple[str, int, int, str]
"""Label, seed, round and benchmark; the last is empty where a task concerns none."""

ITEMS_A_SHARD = 64
QUESTIONS_A_SHARD = 256


@dataclass(frozen=True, kw_only=True)
class Task:
    """One stage of a study.

    ``key`` is unique in the study, such as ``answer/sena/seed0/round1/synthetic_pope``. ``name`` is
    the method or benchmark under which its speed is recorded. ``label``, ``seed``, ``round`` and
    ``benchmark`` say what it concerns; empty or 0 where it concerns none."""

    key: str
    kind: Kind
    title: str
    name: str
    stage: Stage
    label: str = ""
    seed: int = 0
    round: int = 0
    benchmark: str = ""
    checkpoint: Checkpoint | None = None
    """The model that works; None for a task without a model."""
    items: float | None = None
    """What its time is proportional to: images (times epochs, in training) or questions. None:
    not known yet, or a task of a second or less."""
    shard_items: int = 0
    """Images or questions a shard; 0: the task is one shard and writes no shard file."""
    depends_on: tuple[str, ...] = ()
    """Keys of the tasks whose results it reads. Where one of them fails, so does this."""
    after: tuple[str, ...] = ()
    """Keys of earlier tasks whose results it may copy. It waits for them, whatever becomes of
    them."""
    shards_of: Identity | None = None
    """The identity of a stage whose shards hold the rows that this one would write."""

    @property
    def where(self) -> Where:
        return (self.label, self.seed, self.round, self.benchmark)

    @property
    def needs_model(self) -> bool:
        """Tasks without a model take seconds. They are done again for a benchmark's newer version,
        while answers are kept."""
        return self.checkpoint is not None

    @property
    def shards(self) -> int:
        return math.ceil((self.items or 1) / self.shard_items) if self.shard_items else 1

    def shard_range(self, shard: int) -> range:
        """The numbers of the images or questions in a shard."""
        start = shard * self.shard_items
        return range(start, min(start + self.shard_items, int(self.items or 0)))

    @property
    def outdated(self) -> bool:
        """Whether it was done for another version of its benchmark, and is quickly done again."""
        return not self.needs_model and self.stage.differs_only_in("version")

    def missing(self) -> bool:
        """Whether there is work to do.

        Raises:
            UserError: the folder holds results of other settings.
        """
        if self.outdated:
            return True
        self.stage.check()
        return not self.stage.done


def without_dependents(tasks: Sequence[Task], failed: Task) -> list[Task]:
    """The tasks, in their order, that need neither ``failed`` nor anything made from it."""
    dropped_keys, remaining = {failed.key}, []
    for task in tasks:
        if task.key in dropped_keys or not dropped_keys.isdisjoint(task.depends_on):
            dropped_keys.add(task.key)
        else:
            remaining.append(task)
    return remaining


def missing_tasks(exports: Sequence[Task], tasks: Sequence[Task]) -> tuple[list[Task], list[Task]]:
    """The exports, and the tasks after them, that are still to be done. While questions are to be
    exported, the identities that depend on them are not known, and not compared.

    Raises:
        UserError: the folder holds results of other settings.
    """
    exporting = [task for task in exports if task.missing()]
    return exporting, [
        task
        for task in tasks
        if (
            not task.stage.done
            if exporting and task.kind not in ("pairs", "train")
            else task.missing()
        )
    ]


def export_tasks(context: Context) -> list[Task]:
    """The first tasks: each benchmark's questions and images as files."""
    study = context.study
    return [
        Task(
            key=f"export/{benchmark.name}",
            kind="export",
            title=f"export {benchmark.name}",
            name=benchmark.name,
            benchmark=benchmark.name,
            stage=Stage(
                context.results.questions(benchmark.name),
                stage_identity.export_identity(benchmark, study.split, study.limit),
            ),
        )
        for benchmark in study.benchmarks
    ]


def run_tasks(context: Context) -> list[Task]:
    """Every task after the exports: run by run, so that a checkpoint is loaded once and used until
    it is done with; then the matched baselines.

    Raises:
        UserError: a method needs what its pool has not, or a pool has too few images.
    """
    tasks = [task for run in context.study.runs for task in _tasks_of_run(context, run)]
    by_key = {task.key: task for task in tasks}
    tasks += [
        task
        for matched in matched_baselines.planned(context.study)
        for benchmark in matched.benchmarks
        for task in _matched(context.results, by_key, matched, benchmark)
    ]
    return _wait_for_copies(tasks)


def _wait_for_copies(tasks: Iterable[Task]) -> list[Task]:
    """Let a task wait for an earlier one with the same identity, or with the same shards."""
    first: dict[str, str] = {}
    waiting = []
    for task in tasks:
        if task.needs_model:
            same = fingerprint(task.stage.identity)
            sources = [same] if task.shards_of is None else [same, fingerprint(task.shards_of)]
            earlier = tuple(first[name] for name in sources if name in first)
            first.setdefault(same, task.key)
            waiting.append(replace(task, after=earlier))
        else:
            waiting.append(task)
    return waiting


def _tasks_of_run(context: Context, run: Run) -> list[Task]:
    if run.answers is not None:
        return _evaluation(_Round(context, run, 0, None))
    checkpoint = stage_identity.untrained(
        find_base(run.base), results=context.results, download=context.download
    )
    if not run.last:
        return _evaluation(_Round(context, run, 0, checkpoint))
    tasks: list[Task] = []
    trained_by: tuple[str, ...] = ()
    for number in range(1, run.last + 1):
        this_round = _Round(context, run, number, checkpoint, trained_by)
        pairs = _pairs(this_round, checkpoint)
        train = _train(this_round, checkpoint, pairs)
        checkpoint, trained_by = stage_identity.trained(train.stage, checkpoint.card), (train.key,)
        trained = _Round(context, run, number, checkpoint, trained_by)
        tasks += [pairs, train, *_evaluation(trained)]
    return tasks


@dataclass(frozen=True)
class _Round:
    """A round of a run, and the model that works in it."""

    context: Context
    run: Run
    number: int
    """0: nothing is trained."""
    checkpoint: Checkpoint | None
    """None: another program's answers are given."""
    trained_by: tuple[str, ...] = ()
    """The key of the checkpoint's training, if there is one."""

    @property
    def subject(self) -> str:
        run, number = self.run, self.number
        return f"{run.label}, seed {run.seed}, round {number}" if number else run.label

    def where(self, benchmark: str = "") -> Where:
        return (self.run.label, self.run.seed, self.number, benchmark)


def scorer_of(run: Run, checkpoint: Checkpoint) -> ScorerCard | None:
    """The image-text model that the run's method needs: the method's own, else the base's."""
    if "scorer" not in run.method.needs:
        return None
    return find_scorer(run.method.scorer, checkpoint.card)


def _pairs(this_round: _Round, checkpoint: Checkpoint) -> Task:
    context, run, method = this_round.context, this_round.run, this_round.run.method
    context.pool(run.pool).check(method.needs, method.name)
    card = scorer_of(run, checkpoint)
    scorer = None if card is None else scorer_identity(card)
    drawn = context.draw(run, this_round.number)

    def identity(made_by: Method) -> Identity:
        return stage_identity.pairs_identity(
            checkpoint, made_by, drawn, run.seed, this_round.number, scorer
        )

    return replace(
        _task(context.results, "pairs", this_round.where(), identity(method), this_round.subject),
        name=method.name,
        checkpoint=checkpoint,
        items=len(drawn.ids),
        shard_items=ITEMS_A_SHARD,
        depends_on=this_round.trained_by,
        shards_of=identity(method.inner) if isinstance(method, Control) else None,
    )


def _train(this_round: _Round, checkpoint: Checkpoint, pairs: Task) -> Task:
    context, run = this_round.context, this_round.run
    recipe, images = run.method.recipe, pairs.items
    assert recipe is not None  # a run without a recipe has no rounds
    assert images is not None
    identity = stage_identity.train_identity(
        checkpoint, pairs.stage.identity, recipe, run.steps, context.placement.identity
    )
    return replace(
        _task(context.results, "train", this_round.where(), identity, this_round.subject),
        name=run.method.name,
        checkpoint=checkpoint,
        items=visits(recipe, images, run.steps),
        depends_on=(pairs.key,),
    )


def visits(recipe: Recipe, images: float, steps: int | None) -> float:
    """What a training's time is proportional to; ``steps``: of its optimizer, where they are
    fixed."""
    return images * recipe.epochs if steps is None else steps * recipe.global_batch


def _evaluation(trained: _Round) -> list[Task]:
    """The answers of a round's model, or the given ones, with their grades."""
    study, run, results = trained.context.study, trained.run, trained.context.results
    with_choices = (
        matched_baselines.benchmarks_with_choices(study) if run.label == study.baseline else ()
    )
    tasks, subject, last = list[Task](), trained.subject, trained.number == run.last
    for benchmark in study.benchmarks:
        answer = _answer(trained, benchmark)
        tasks += [answer, _grade(results, answer, benchmark, subject)]
        where, answers = answer.where, answer.stage.identity
        if last and run.varied is None and matched_metric(benchmark, "length"):
            caps = stage_identity.caps_identity(answers, benchmark, CAPS)
            tasks.append(_task(results, "caps", where, caps, subject, answer.key))
        if last and benchmark.name in with_choices:
            identity = stage_identity.choices_identity(answers, YES_NO)
            choices = _task(results, "choices", where, identity, subject)
            key, title, stage = choices.key, choices.title, choices.stage
            tasks.append(replace(answer, key=key, kind="choices", title=title, stage=stage))
    return tasks


def _answer(trained: _Round, benchmark: Benchmark) -> Task:
    name, context, checkpoint = benchmark.name, trained.context, trained.checkpoint
    results, where = context.results, trained.where(name)
    if checkpoint is None:
        given_identity = foreign_answers.identity_of_given(
            context.study, results, trained.run, name
        )
        return _task(results, "given", where, given_identity, trained.subject, f"export/{name}")
    questions = results.questions(name)
    identity = stage_identity.answers_identity(checkpoint, name, questions)
    path = questions / "questions.jsonl"
    return replace(
        _task(results, "answer", where, identity, trained.subject),
        checkpoint=checkpoint,
        items=len(read_jsonl(path)) if is_stored(path) else None,
        shard_items=QUESTIONS_A_SHARD,
        depends_on=(f"export/{name}", *trained.trained_by),
    )


def _grade(results: Results, answer: Task, benchmark: Benchmark, subject: str) -> Task:
    """The grading of a model's answers, or of a matched baseline's."""
    identity = stage_identity.grade_identity(answer.stage.identity, benchmark)
    return _task(results, "grade", answer.where, identity, subject, answer.key)


def _matched(
    results: Results, tasks: Mapping[str, Task], matched: MatchedBaseline, benchmark: Benchmark
) -> tuple[Task, Task]:
    """A matched baseline's answers and grades on one benchmark."""
    run, base, name = matched.run, matched.baseline, benchmark.name
    method_where: Where = (run.label, run.seed, run.last, name)
    base_where: Where = (base.label, base.seed, base.last, name)
    source, answers = tasks[_key(matched.source, base_where)], tasks[_key("answer", method_where)]
    reads = [_key("grade", method_where), source.key]
    if matched.kind == "yes-ratio":
        reads += [_key("answer", base_where), _key("grade", base_where)]
    identity = stage_identity.matched_identity(
        matched.kind, source.stage.identity, answers.stage.identity, benchmark
    )
    subject, matched_where = f"{matched.label}, seed {run.seed}", (matched.label, run.seed, 0, name)
    derive = _task(results, "derive", matched_where, identity, subject, *reads)
    return derive, _grade(results, derive, benchmark, subject)


def _task(
    results: Results, kind: Kind, where: Where, identity: Identity, subject: str, *depends_on: str
) -> Task:
    """A task without a model; the caller adds what one with a model needs."""
    label, seed, round, benchmark = where
    return Task(
        key=_key(kind, where),
        kind=kind,
        title=f"{subject}: {TITLES[kind].format(benchmark)}",
        name=benchmark,
        stage=Stage(results.round(label, seed, round) / FOLDERS[kind] / benchmark, identity),
        label=label,
        seed=seed,
        round=round,
        benchmark=benchmark,
        depends_on=depends_on,
    )


def _key(kind: Kind, where: Where) -> str:
    label, seed, round, benchmark = where
    name = "answer" if kind == "given" else kind
    return f"{name}/{label}/seed{seed}/round{round}/{benchmark}".rstrip("/")
