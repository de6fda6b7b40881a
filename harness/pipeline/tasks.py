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
from harness.pipeline import given_answers, matched_baselines, stage_identity
from harness.pipeline.context import Context
from harness.pipeline.matched_baselines import CAPS, YES_NO, MatchedBaseline, matched_metric
from harness.pipeline.stage_identity import Checkpoint, Identity
from harness.study.study import Run
from methods.controls import Control

Kind = Literal["export", "pairs", "train", "answer", "given", "choices", "grade", "caps", "derive"]
"""As in a stage's identity. ``given``: another program's answers, from a file. ``choices``: the
baseline's log-probabilities of yes and no. ``caps``: captions graded again, cut at several lengths.
``derive``: the answers of a matched baseline."""

FROM_QUESTIONS: frozenset[Kind] = frozenset(
    {"answer", "given", "choices", "grade", "caps", "derive"}
)
"""Kinds whose identity is known once the questions are exported."""

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
    lost, kept = {failed.key}, []
    for task in tasks:
        if task.key in lost or not lost.isdisjoint(task.depends_on):
            lost.add(task.key)
        else:
            kept.append(task)
    return kept


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
    return _copies_wait(tasks)


def _copies_wait(tasks: Iterable[Task]) -> list[Task]:
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
        return _evaluation(context, run, 0, None, None)
    card, trained_by = find_base(run.base), None
    checkpoint = stage_identity.untrained(card, results=context.results, download=context.download)
    if not run.last:
        return _evaluation(context, run, 0, checkpoint, None)
    tasks: list[Task] = []
    for round in range(1, run.last + 1):
        pairs = _pairs(context, run, round, checkpoint, trained_by)
        train = _train(context, run, round, checkpoint, pairs)
        checkpoint, trained_by = stage_identity.trained(train.stage, checkpoint.card), train.key
        tasks += [pairs, train, *_evaluation(context, run, round, checkpoint, trained_by)]
    return tasks


def scorer_of(run: Run, checkpoint: Checkpoint) -> ScorerCard | None:
    """The image-text model that the run's method needs: the method's own, else the base's."""
    if "scorer" not in run.method.needs:
        return None
    return find_scorer(run.method.scorer, checkpoint.card)


def _pairs(
    context: Context, run: Run, round: int, checkpoint: Checkpoint, trained_by: str | None
) -> Task:
    method, pool = run.method, context.pool(run.pool)
    pool.check(method.needs, method.name)
    card = scorer_of(run, checkpoint)
    scorer = None if card is None else scorer_identity(card)
    drawn = context.draw(run, round)
    identity, inner = (
        stage_identity.pairs_identity(checkpoint, made_by, drawn, run.seed, round, scorer)
        for made_by in (method, method.inner if isinstance(method, Control) else method)
    )
    return Task(
        key=_key("pairs", run.label, run.seed, round),
        kind="pairs",
        title=f"{_subject(run, round)}: pairs",
        name=method.name,
        stage=Stage(context.results.pairs(run.label, run.seed, round), identity),
        label=run.label,
        seed=run.seed,
        round=round,
        checkpoint=checkpoint,
        items=len(drawn.ids),
        shard_items=ITEMS_A_SHARD,
        depends_on=_known(trained_by),
        shards_of=inner if isinstance(method, Control) else None,
    )


def _train(context: Context, run: Run, round: int, checkpoint: Checkpoint, pairs: Task) -> Task:
    recipe, images = run.method.recipe, pairs.items
    assert recipe is not None  # a run without a recipe has no rounds
    assert images is not None
    identity = stage_identity.train_identity(
        checkpoint, pairs.stage.identity, recipe, run.steps, context.placement.identity
    )
    visits = images * recipe.epochs if run.steps is None else run.steps * recipe.global_batch
    return Task(
        key=_key("train", run.label, run.seed, round),
        kind="train",
        title=f"{_subject(run, round)}: train",
        name=run.method.name,
        stage=Stage(context.results.train(run.label, run.seed, round), identity),
        label=run.label,
        seed=run.seed,
        round=round,
        checkpoint=checkpoint,
        items=visits,
        depends_on=(pairs.key,),
    )


def _evaluation(
    context: Context, run: Run, round: int, checkpoint: Checkpoint | None, trained_by: str | None
) -> list[Task]:
    """``checkpoint`` None: the answers are given."""
    results, subject, last = context.results, _subject(run, round), round == run.last
    weighed = (
        matched_baselines.weighed(context.study) if run.label == context.study.baseline else ()
    )
    tasks = []
    for benchmark in context.study.benchmarks:
        if checkpoint is None:
            answer = _given(context, run, benchmark)
        else:
            answer = _answer(context, run, round, checkpoint, benchmark, trained_by)
        tasks += [answer, _grade(results, answer, benchmark, subject)]
        if last and run.varied is None and matched_metric(benchmark, "length"):
            tasks.append(_caps(results, answer, benchmark, subject))
        if last and benchmark.name in weighed:
            tasks.append(_choices(results, answer, subject))
    return tasks


def _answer(
    context: Context,
    run: Run,
    round: int,
    checkpoint: Checkpoint,
    benchmark: Benchmark,
    trained_by: str | None,
) -> Task:
    name, questions = benchmark.name, context.results.questions(benchmark.name)
    path = questions / "questions.jsonl"
    return Task(
        key=_key("answer", run.label, run.seed, round, name),
        kind="answer",
        title=f"{_subject(run, round)}: answer {name}",
        name=name,
        stage=Stage(
            context.results.answers(run.label, run.seed, round, name),
            stage_identity.answers_identity(checkpoint, name, questions),
        ),
        label=run.label,
        seed=run.seed,
        round=round,
        benchmark=name,
        checkpoint=checkpoint,
        items=len(read_jsonl(path)) if is_stored(path) else None,
        shard_items=QUESTIONS_A_SHARD,
        depends_on=_known(f"export/{name}", trained_by),
    )


def _given(context: Context, run: Run, benchmark: Benchmark) -> Task:
    name, results = benchmark.name, context.results
    identity = given_answers.identity(context.study, results, run, name)
    return Task(
        key=_key("answer", run.label, run.seed, 0, name),
        kind="given",
        title=f"{run.label}: read the answers to {name}",
        name=name,
        stage=Stage(results.answers(run.label, run.seed, 0, name), identity),
        label=run.label,
        seed=run.seed,
        benchmark=name,
        depends_on=(f"export/{name}",),
    )


def _grade(results: Results, answer: Task, benchmark: Benchmark, subject: str) -> Task:
    """The grading of a model's answers, or of a matched baseline's."""
    where = (answer.label, answer.seed, answer.round, benchmark.name)
    identity = stage_identity.grade_identity(answer.stage.identity, benchmark)
    return Task(
        key=_key("grade", *where),
        kind="grade",
        title=f"{subject}: grade {benchmark.name}",
        name=benchmark.name,
        stage=Stage(results.grades(*where), identity),
        label=answer.label,
        seed=answer.seed,
        round=answer.round,
        benchmark=benchmark.name,
        depends_on=(answer.key,),
    )


def _caps(results: Results, answer: Task, benchmark: Benchmark, subject: str) -> Task:
    where = (answer.label, answer.seed, answer.round, benchmark.name)
    identity = stage_identity.caps_identity(answer.stage.identity, benchmark, CAPS)
    return replace(
        _grade(results, answer, benchmark, subject),
        key=_key("caps", *where),
        kind="caps",
        title=f"{subject}: grade {benchmark.name} at several lengths",
        stage=Stage(results.caps(*where), identity),
    )


def _choices(results: Results, answer: Task, subject: str) -> Task:
    where = (answer.label, answer.seed, answer.round, answer.benchmark)
    identity = stage_identity.choices_identity(answer.stage.identity, YES_NO)
    return replace(
        answer,
        key=_key("choices", *where),
        kind="choices",
        title=f"{subject}: weigh {' and '.join(YES_NO)} in {answer.benchmark}",
        stage=Stage(results.choices(*where), identity),
    )


def _matched(
    results: Results, tasks: Mapping[str, Task], matched: MatchedBaseline, benchmark: Benchmark
) -> tuple[Task, Task]:
    """A matched baseline's answers and grades on one benchmark."""
    run, base, name = matched.run, matched.baseline, benchmark.name
    method = (run.label, run.seed, run.last, name)
    where = (base.label, base.seed, base.last, name)
    source = tasks[_key(matched.source, *where)]
    identity = stage_identity.matched_identity(
        matched.kind,
        source.stage.identity,
        tasks[_key("answer", *method)].stage.identity,
        benchmark,
    )
    of_base = [source.key]
    if matched.kind == "yes-ratio":
        of_base += [_key("answer", *where), _key("grade", *where)]
    subject = f"{matched.label}, seed {run.seed}"
    derive = Task(
        key=_key("derive", matched.label, run.seed, 0, name),
        kind="derive",
        title=f"{subject}: {name}",
        name=name,
        stage=Stage(results.answers(matched.label, run.seed, 0, name), identity),
        label=matched.label,
        seed=run.seed,
        benchmark=name,
        depends_on=(_key("grade", *method), *of_base),
    )
    return derive, _grade(results, derive, benchmark, subject)


def _key(kind: Kind, label: str, seed: int, round: int, benchmark: str = "") -> str:
    key = f"{kind}/{label}/seed{seed}/round{round}"
    return f"{key}/{benchmark}" if benchmark else key


def _known(*keys: str | None) -> tuple[str, ...]:
    return tuple(key for key in keys if key is not None)


def _subject(run: Run, round: int) -> str:
    return f"{run.label}, seed {run.seed}, round {round}" if round else run.label
