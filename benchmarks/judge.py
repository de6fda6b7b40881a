"""A judge: a language model with OpenAI's chat interface that reads answers, asked at temperature 0
and recorded. A model that answers a benchmark's questions is asked in the same way.

Every judgement is written to a recording as it arrives and replayed later: grading again, here or
elsewhere, sends nothing. Without a key, a server or a usable reply, grading stops with one sentence
and keeps what was judged; no rule ever replaces the judge. The key comes from an environment
variable and is written nowhere."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import judgements
from benchmarks.chat import FILTERED, Pace, Reply, Stopped, ask, quote
from benchmarks.files import read_text
from benchmarks.interface import Cost
from benchmarks.judge_settings import JUDGE_VARIABLE, Settings, read_settings

CHARACTERS_A_TOKEN = 4
"""Of English text, roughly; for the estimate alone."""


@dataclass(frozen=True, kw_only=True)
class JudgeRequest:
    """One prompt; ``about`` is the question's id, for the recording."""

    about: str
    prompt: str
    images: tuple[SentImage, ...] = ()
    """Sent in front of the prompt."""
    max_tokens: int | None = None
    """Of the reply; None: the settings'."""


@dataclass(frozen=True, kw_only=True)
class SentImage:
    """A PNG image; ``name`` is derived from the content and represents it in the fingerprint."""

    name: str
    read: Callable[[], bytes]

    @property
    def url(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.read()).decode()


def to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def no_progress(_unit: str, _done: int, _total: int) -> None:
    """No progress shown."""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A judge. Paths of its settings are relative to ``folder``. ``tell`` gets a line before and
    after asking, ``progress`` the number of replies. ``role``: as sentences name it."""

    settings: Settings
    folder: Path
    tell: Callable[[str], None] = to_stderr
    progress: Callable[[str, int, int], None] = no_progress
    role: str = "judge"

    @property
    def recording(self) -> Path:
        return self.folder / self.settings.recording

    def estimate(self, requests: Sequence[JudgeRequest]) -> Cost:
        """What :meth:`ask` would still send: tokens in at four characters each, tokens out at
        most."""
        recorded, by_key = judgements.read(self.recording), self._by_key(requests)
        missing = [request for key, (request, _) in by_key.items() if key not in recorded]
        tokens_in = sum(len(request.prompt) for request in missing) // CHARACTERS_A_TOKEN
        tokens_out = sum(self._max_tokens(request) for request in missing)
        return Cost(
            requests=len(missing),
            recorded=len(by_key) - len(missing),
            tokens_in=tokens_in,
            tokens_out=tokens_out,
            price=self._price(tokens_in, tokens_out),
        )

    def ask(self, requests: Sequence[JudgeRequest]) -> list[list[Reply]]:
        """The replies to each request, one a repeat, from the recording or from the server.

        Raises:
            ValueError: there is no key, the server cannot be used, or another model replies; what
                was judged until then is in the recording.
        """
        name = self.settings.name
        recorded, by_key = judgements.read(self.recording), self._by_key(requests)
        if any(key not in recorded for key in by_key):
            secret = self._secret()
            with judgements.open_writer(self.recording, self.tell) as writer:
                # Another process may have judged in the meantime.
                recorded = judgements.read(self.recording)
                missing = {key: request for key, request in by_key.items() if key not in recorded}
                cost = cost_in_words(self.estimate(requests), "about", "at most")
                images = (
                    ", images not counted" if any(request.images for request in requests) else ""
                )
                self.tell(f"{self.role} {name}: {cost}{images}")
                replies = self._send(missing, secret, writer)
                recorded |= replies
                spent = cost_in_words(self._cost_of(list(replies.values())))
                self.tell(f"{self.role} {name}: asked {spent}")
        for key in by_key:
            self._check_model(recorded[key])  # anybody can write a recording
        repeats = range(self.settings.repeats)
        return [
            [recorded[self._key(request, repeat)] for repeat in repeats] for request in requests
        ]

    def _secret(self) -> str | None:
        """The key that the server asks for."""
        variable = self.settings.key_variable
        if variable is None:
            return None
        secret = os.environ.get(variable, "").strip()
        if not secret:
            raise ValueError(
                f"The {self.role} {self.settings.name} needs a key in the environment variable"
                f" {variable}; set it, or use a recording that holds all these replies"
                f" ({self.recording} lacks some)."
            )
        if not secret.isascii() or not secret.isprintable():
            raise ValueError(
                f"The key in {variable} holds characters that no key has; set it again."
            )
        return secret

    def _max_tokens(self, request: JudgeRequest) -> int:
        return self.settings.max_tokens if request.max_tokens is None else request.max_tokens

    def _body(self, request: JudgeRequest, *, image_content: bool) -> dict[str, Any]:
        """What is sent; not ``image_content``: with the images' names in place of their content."""
        content: str | list[dict[str, Any]] = request.prompt
        if request.images:
            urls = [image.url if image_content else image.name for image in request.images]
            content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
            content.append({"type": "text", "text": request.prompt})
        return {
            "model": self.settings.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": self._max_tokens(request),
        }

    def _key(self, request: JudgeRequest, repeat: int) -> str:
        """The fingerprint of a request: all that is sent, the model that must reply, and the number
        of the repeat. The address is left out, so a recording is valid on another machine."""
        pinned = self.settings.pinned_model
        hashed_fields = {
            **self._body(request, image_content=False),
            "version": pinned,
            "repeat": repeat,
        }
        return hashlib.sha256(json.dumps(hashed_fields, sort_keys=True).encode()).hexdigest()

    def _by_key(self, requests: Sequence[JudgeRequest]) -> dict[str, tuple[JudgeRequest, int]]:
        """Fingerprint -> (request, repeat); equal prompts are sent once."""
        return {
            self._key(request, repeat): (request, repeat)
            for request in requests
            for repeat in range(self.settings.repeats)
        }

    def _send(
        self,
        missing: Mapping[str, tuple[JudgeRequest, int]],
        secret: str | None,
        writer: judgements.Writer,
    ) -> dict[str, Reply]:
        settings, stop = self.settings, threading.Event()
        pace = Pace(settings.requests_per_minute)

        def send(key: str) -> Reply:
            request, repeat = missing[key]
            try:
                reply = ask(
                    settings.url,
                    self._body(request, image_content=True),
                    key=secret,
                    pace=pace,
                    retries=settings.retries,
                    backoff=settings.backoff,
                    timeout=settings.timeout,
                    stop=stop,
                    role=self.role,
                )
                self._check_model(reply)
                writer.add(key, request.about, repeat, reply)
            except ValueError:
                stop.set()  # requests under way are waited for and recorded: they are paid for
                raise
            return reply

        replies: dict[str, Reply] = {}
        failure: ValueError | None = None
        with ThreadPoolExecutor(max_workers=settings.concurrency) as threads:
            futures = {threads.submit(send, key): key for key in missing}
            try:
                for future in as_completed(futures):
                    try:
                        replies[futures[future]] = future.result()
                        self.progress("replies", len(replies), len(missing))
                    except Stopped:
                        continue
                    except ValueError as error:
                        failure = failure or error
            finally:
                stop.set()
        if failure is not None:
            raise ValueError(
                f"{failure} {len(replies)} replies of this run are kept in {self.recording};"
                " run again to continue."
            ) from failure
        return replies

    def _check_model(self, reply: Reply) -> None:
        pinned = self.settings.pinned_model
        if reply.model != pinned and not (reply.model == "" and reply.finish == FILTERED):
            unnamed = reply.model is None
            problem = "names no model" if unnamed else f"answers as {quote(reply.model or '')!r}"
            raise ValueError(
                f"The {self.role} is pinned to {pinned!r}, but it {problem}; give the right name."
            )

    def _cost_of(self, replies: Sequence[Reply]) -> Cost:
        """The cost of these replies, as the server counted."""
        tokens_in = sum(reply.tokens_in or 0 for reply in replies)
        tokens_out = sum(reply.tokens_out or 0 for reply in replies)
        uncounted = sum(None in (reply.tokens_in, reply.tokens_out) for reply in replies)
        return Cost(
            requests=len(replies),
            tokens_in=tokens_in,
            tokens_out=tokens_out,
            uncounted=uncounted,
            price=None if uncounted else self._price(tokens_in, tokens_out),
        )

    def _price(self, tokens_in: int, tokens_out: int) -> float | None:
        """None: the settings give no prices."""
        price_in, price_out = self.settings.price_in, self.settings.price_out
        if price_in is None or price_out is None:
            return None
        return (tokens_in * price_in + tokens_out * price_out) / 1e6


def cost_in_words(cost: Cost, estimate_word: str = "", bound_word: str = "") -> str:
    """ "96 requests (4 recorded already), about 61,000 tokens in, at most 49,152 out, at most 0.70
    at the given prices"."""
    words = f"{cost.requests:,} request{'' if cost.requests == 1 else 's'}"
    words += f" ({cost.recorded:,} recorded already)" if cost.recorded else ""
    words += f", {estimate_word} {cost.tokens_in:,} tokens in, {bound_word} {cost.tokens_out:,} out"
    if cost.uncounted:
        words += f"; the server did not count {cost.uncounted:,} of them"
    if cost.price is not None:
        words += f", {bound_word} {cost.price:,.2f} at the given prices"
    return " ".join(words.split()).replace(" ,", ",")


def open_judge() -> Judge | None:
    """The judge of the settings' file that SELFSIGHT_JUDGE names; None: it names none.

    Raises:
        ValueError: the file is missing, or a setting is wrong.
    """
    if not (settings_path := os.environ.get(JUDGE_VARIABLE)):
        return None
    path = Path(settings_path)
    return Judge(settings=read_settings(path), folder=path.parent)


def judge_prompt(judge: Judge | None, benchmark: str, default_path: Path) -> str:
    """The text of a benchmark's prompt: the file that the judge's settings name, else its own.

    Raises:
        ValueError: the file cannot be read.
    """
    custom_path = judge.settings.prompts.get(benchmark) if judge is not None else None
    path = default_path if judge is None or custom_path is None else judge.folder / custom_path
    try:
        return read_text(path, "give a text file in UTF-8")
    except ValueError as error:
        raise ValueError(f"The judge's prompt for {benchmark} cannot be read: {error}") from None
