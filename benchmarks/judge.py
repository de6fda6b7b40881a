"""A judge: a language model behind an OpenAI-compatible address that reads answers, asked at
temperature 0 and recorded.

Every judgement is written to a recording as it arrives and replayed from then on: grading again,
here or elsewhere, asks nobody. Where there is no key, no server or no usable answer, grading stops
with one sentence and keeps what was judged; no rule of thumb ever takes the judge's place. The key
comes from an environment variable and is written nowhere.

The settings are a JSON file (its keys are the fields of :class:`Settings`), named by the
environment variable SELFSIGHT_JUDGE."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import sys
import threading
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import judgements
from benchmarks.chat import Pace, Reply, Stopped, ask, quoted

JUDGE_VARIABLE = "SELFSIGHT_JUDGE"
"""The environment variable with the path of the settings' file."""
CHARACTERS_A_TOKEN = 4
"""Of English text, about; for the estimate alone."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Which model judges, and how it is asked.

    ``base_url`` is what stands before ``/chat/completions``. ``version`` is the model that the
    server must name in its replies (empty: ``model`` itself), so that a silent change of model is
    found. ``key_variable`` names the environment variable with the key; None sends none (a local
    server). Each answer is judged ``repeats`` times. Times are seconds; prices are for a million
    tokens, in any currency, and serve the estimate alone. ``prompts`` gives a benchmark another
    prompt file than its own. Paths are relative to the settings' file."""

    base_url: str
    model: str
    version: str = ""
    key_variable: str | None = "OPENAI_API_KEY"
    repeats: int = 1
    max_tokens: int = 512
    concurrency: int = 4
    requests_per_minute: float = 60.0
    retries: int = 6
    backoff: float = 1.0
    timeout: float = 120.0
    price_in: float | None = None
    price_out: float | None = None
    recording: str = "judgements.jsonl"
    prompts: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in (("repeats", 1), ("max_tokens", 1), ("concurrency", 1), ("retries", 0)):
            if type(value := getattr(self, name)) is not int or value < least:
                raise ValueError(
                    f"The judge's {name} is {value!r}; it must be a whole number, at least {least}."
                )
        for name in ("requests_per_minute", "backoff", "timeout"):
            if not _number(value := getattr(self, name)) or not 0 < value < float("inf"):
                raise ValueError(f"The judge's {name} is {value!r}; it must be a number above 0.")
        for name in ("price_in", "price_out"):
            if (value := getattr(self, name)) is not None and not (_number(value) and value >= 0):
                raise ValueError(
                    f"The judge's {name} is {value!r}; give the price of a million tokens, or leave"
                    " it out."
                )
        for name in ("base_url", "model", "version", "recording"):
            if not isinstance(value := getattr(self, name), str) or (
                not value and name != "version"
            ):
                raise ValueError(f"The judge's {name} is {value!r}; it must be a text.")
        if self.key_variable is not None and not (
            isinstance(self.key_variable, str)
            and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.key_variable)
        ):  # perhaps the key itself: it is not repeated
            raise ValueError(
                "The judge's key_variable is no name of an environment variable; name the one that"
                " holds the key."
            )
        prompts: Any = self.prompts
        if not isinstance(prompts, Mapping) or not all(
            isinstance(value, str) for value in prompts.values()
        ):
            raise ValueError('The judge\'s prompts must look like {"mmhal": "path/to/prompt.txt"}.')
        parts = urllib.parse.urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                "The judge's base_url must be an address such as https://api.openai.com/v1."
            )
        if (
            parts.username or parts.password or parts.query or parts.fragment
        ):  # not repeated: it may be the key
            raise ValueError(
                "The judge's base_url holds a name, key or query; put the key into an environment"
                " variable."
            )

    @property
    def url(self) -> str:
        return self.base_url.rstrip("/") + "/chat/completions"

    @property
    def name(self) -> str:
        """What a column is headed with: the model's version, and the number of repeats."""
        return (self.version or self.model) + (f" x{self.repeats}" if self.repeats > 1 else "")


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One thing to be judged: the question's id, for the recording, and the whole prompt."""

    about: str
    prompt: str


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Requests and tokens. ``recorded`` requests need not be sent. ``uncounted`` replies came
    without a count of tokens.
    ``price`` is None where no prices are given or a count is missing."""

    requests: int
    recorded: int
    tokens_in: int
    tokens_out: int
    uncounted: int
    price: float | None


def to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A judge. Paths of its settings are relative to ``folder``; ``tell`` is given a line before
    and after asking."""

    settings: Settings
    folder: Path
    tell: Callable[[str], None] = to_stderr

    @property
    def recording(self) -> Path:
        return self.folder / self.settings.recording

    def estimate(self, asks: Sequence[Ask]) -> Cost:
        """What :meth:`ask` would still send: tokens in at four characters each, tokens out at
        most."""
        known = judgements.read(self.recording)
        wanted = self._requests(asks)
        missing = [one for name, (one, _) in wanted.items() if name not in known]
        tokens_in = sum(len(one.prompt) for one in missing) // CHARACTERS_A_TOKEN
        tokens_out = len(missing) * self.settings.max_tokens
        return self._cost(len(missing), len(wanted) - len(missing), tokens_in, tokens_out)

    def ask(self, asks: Sequence[Ask]) -> list[list[Reply]]:
        """The replies to each, one a repeat; from the recording where they are there, else from the
        server.

        Raises:
            ValueError: there is no key, the server cannot be used, or its answers are not this
                judge's; what was judged until then is in the recording.
        """
        known = judgements.read(self.recording)
        wanted = self._requests(asks)
        if any(name not in known for name in wanted):
            key = self._key()
            with judgements.writing(self.recording, self.tell) as writer:
                known = judgements.read(
                    self.recording
                )  # another process may have asked in the meantime
                missing = {name: one for name, one in wanted.items() if name not in known}
                estimate = self.estimate(asks)
                self.tell(f"judge {self.settings.name}: {in_words(estimate, 'about', 'at most')}")
                done = self._send(missing, key, writer)
                known |= done
                self.tell(
                    f"judge {self.settings.name}: asked"
                    f" {in_words(self._spent(list(done.values())))}"
                )
        for name in wanted:
            self._check(known[name])  # a recording is a file that anybody can write
        return [
            [known[self._name(one, repeat)] for repeat in range(self.settings.repeats)]
            for one in asks
        ]

    def _key(self) -> str | None:
        variable = self.settings.key_variable
        if variable is None:
            return None
        key = os.environ.get(variable, "").strip()
        if not key:
            raise ValueError(
                f"The judge {self.settings.name} needs a key in the environment variable"
                f" {variable}; set it, or grade with a recording that holds these judgements"
                f" ({self.recording} lacks some)."
            )
        if not key.isascii() or not key.isprintable():
            raise ValueError(
                f"The key in {variable} holds characters that no key has; set it again."
            )
        return key

    def _body(self, prompt: str) -> dict[str, Any]:
        return {
            "model": self.settings.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": self.settings.max_tokens,
        }

    def _name(self, one: Ask, repeat: int) -> str:
        """The fingerprint of a request: all that is sent, the version that must answer, and which
        repeat it is. The address is left out, so that a recording is good on another machine."""
        sent = {
            **self._body(one.prompt),
            "version": self.settings.version or self.settings.model,
            "repeat": repeat,
        }
        return hashlib.sha256(json.dumps(sent, sort_keys=True).encode()).hexdigest()

    def _requests(self, asks: Sequence[Ask]) -> dict[str, tuple[Ask, int]]:
        """By fingerprint; equal prompts are sent once."""
        return {
            self._name(one, repeat): (one, repeat)
            for one in asks
            for repeat in range(self.settings.repeats)
        }

    def _send(
        self, missing: Mapping[str, tuple[Ask, int]], key: str | None, writer: judgements.Writer
    ) -> dict[str, Reply]:
        settings, stop, done = self.settings, threading.Event(), {}
        pace = Pace(settings.requests_per_minute)

        def one(name: str) -> Reply:
            what, repeat = missing[name]
            try:
                reply = ask(
                    settings.url,
                    self._body(what.prompt),
                    key=key,
                    pace=pace,
                    retries=settings.retries,
                    backoff=settings.backoff,
                    timeout=settings.timeout,
                    stop=stop,
                )
                self._check(reply)
                writer.add(name, what.about, repeat, reply)
            except ValueError:
                stop.set()  # requests on their way are waited for and recorded: they are paid for
                raise
            return reply

        with ThreadPoolExecutor(max_workers=settings.concurrency) as threads:
            futures = {threads.submit(one, name): name for name in missing}
            failed: ValueError | None = None
            try:
                for future in as_completed(futures):
                    try:
                        done[futures[future]] = future.result()
                    except Stopped:
                        continue
                    except ValueError as error:
                        failed = failed or error
            finally:
                stop.set()
        if failed is not None:
            kept = (
                f"{len(done)} judgements of this run are kept in {self.recording}; run again to"
                " continue."
            )
            raise ValueError(f"{failed} {kept}") from failed
        return done

    def _check(self, reply: Reply) -> None:
        wanted = self.settings.version or self.settings.model
        if reply.model != wanted:
            said = (
                "names no model" if reply.model is None else f"answers as {quoted(reply.model)!r}"
            )
            raise ValueError(
                f"The judge is pinned to {wanted!r}, but the server {said}; put the one that is"
                " meant into the judge's settings."
            )

    def _spent(self, replies: Sequence[Reply]) -> Cost:
        """What these replies took, as the server counted."""
        uncounted = sum(reply.tokens_in is None or reply.tokens_out is None for reply in replies)
        tokens_in = sum(reply.tokens_in or 0 for reply in replies)
        return self._cost(
            len(replies), 0, tokens_in, sum(reply.tokens_out or 0 for reply in replies), uncounted
        )

    def _cost(
        self, requests: int, recorded: int, tokens_in: int, tokens_out: int, uncounted: int = 0
    ) -> Cost:
        a, b = self.settings.price_in, self.settings.price_out
        price = (
            None if a is None or b is None or uncounted else (tokens_in * a + tokens_out * b) / 1e6
        )
        return Cost(
            requests=requests,
            recorded=recorded,
            tokens_in=tokens_in,
            tokens_out=tokens_out,
            uncounted=uncounted,
            price=price,
        )


def in_words(cost: Cost, about: str = "", most: str = "") -> str:
    """ "96 requests (4 recorded already), about 61,000 tokens in, at most 49,152 out, at most 0.70
    at the given prices"."""
    words = f"{cost.requests:,} request{'' if cost.requests == 1 else 's'}"
    words += f" ({cost.recorded:,} recorded already)" if cost.recorded else ""
    words += f", {about} {cost.tokens_in:,} tokens in, {most} {cost.tokens_out:,} out"
    if cost.uncounted:
        words += f"; the server did not count {cost.uncounted:,} of them"
    if cost.price is not None:
        words += f", {most} {cost.price:,.2f} at the given prices"
    return " ".join(words.split()).replace(" ,", ",")


def open_judge(path: Path | None = None) -> Judge | None:
    """The judge of the settings' file: ``path``, else the one that SELFSIGHT_JUDGE names; None
    where neither is given.

    Raises:
        ValueError: the file is not there, or a setting is wrong.
    """
    if path is None:
        if not (named := os.environ.get(JUDGE_VARIABLE)):
            return None
        path = Path(named)
    return Judge(settings=read_settings(path), folder=path.parent)


def read_settings(path: Path) -> Settings:
    """
    Raises:
        ValueError: the file is not there or no JSON object, a key is unknown or missing, or a value
            is out of range.
    """
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"The judge's settings {path} cannot be read ({error.strerror}); {JUDGE_VARIABLE} names"
            " them."
        ) from None
    except ValueError as error:
        raise ValueError(f"The judge's settings {path} are no JSON: {error}.") from None
    allowed = [one.name for one in dataclasses.fields(Settings)]
    needed = [one.name for one in dataclasses.fields(Settings) if _needed(one)]
    if not isinstance(given, dict) or any(name not in given for name in needed):
        raise ValueError(
            f"The judge's settings {path} must be a JSON object with {' and '.join(needed)}."
        )
    if strange := sorted(set(given) - set(allowed)):  # a value is not repeated: it may be a key
        raise ValueError(
            f"The judge's settings {path} hold {strange[0]!r}, which is none of:"
            f" {', '.join(allowed)}."
        )
    try:
        return Settings(**given)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _needed(one: dataclasses.Field[Any]) -> bool:
    return one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING


def judge_prompt(judge: Judge | None, benchmark: str, own: Path) -> str:
    """The text of a benchmark's prompt: the file that the judge's settings name for it, else its
    own.

    Raises:
        ValueError: the file cannot be read.
    """
    named = judge.settings.prompts.get(benchmark) if judge is not None else None
    path = own if judge is None or named is None else judge.folder / named
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"The judge's prompt {path} for {benchmark} cannot be read: {error}."
        ) from None
