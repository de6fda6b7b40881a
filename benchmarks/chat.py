"""One chat request to a server with OpenAI's interface: paced, retried with exponential back-off
and jitter, and limited in time and size.

Redirects are not followed: they could carry the key to another host. No error holds the key, and
text from the server is quoted short and on one line."""

from __future__ import annotations

import asyncio
import email.utils
import json
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl

    import httpx2

LONGEST_REQUESTED_WAIT = 600.0
"""Seconds. A server that asks for a longer wait (a day's quota is spent) ends the judging."""
LONGEST_WAIT = 60.0
"""Seconds; the upper bound of the back-off."""
LARGEST_REPLY = 4 * 2**20
"""Bytes; a verdict has a few thousand."""
RETRIED = frozenset({408, 409, 425, 429})
"""Status codes below 500 that are tried again."""
FILTERED = "content_filter"
"""The reason of a reply that the server's filter withheld."""
FILTER_CODES = frozenset({FILTERED, "content_policy_violation"})
"""The codes of an error that means the same."""


class Stopped(Exception):  # noqa: N818  (no error: another request failed, or Ctrl-C was pressed)
    """The request was not sent, because the judging has ended."""


class Declined(Exception):  # noqa: N818  (an answer, caught by ``ask``)
    """The server's filter refuses this prompt for good."""


class TryAgain(Exception):  # noqa: N818  (a reason, caught by ``ask``)
    """This try failed. ``wait``: seconds that the server asked for (None: none). ``busy``: all
    requests should wait."""

    def __init__(self, reason: str, wait: float | None = None, busy: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.busy = wait, busy


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A model's reply: its text, the reason it ended, the model that the server names, and the
    tokens that the server counted (None: not counted). A filtered prompt has an empty text and an
    empty model."""

    text: str
    finish: str | None
    model: str | None
    tokens_in: int | None
    tokens_out: int | None


class Pace:
    """Starts requests evenly, at most ``per_minute`` a minute, from any thread."""

    def __init__(self, per_minute: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._gap, self._clock = 60.0 / per_minute, clock
        self._lock, self._next = threading.Lock(), clock()

    def turn(self, stop: threading.Event) -> None:
        """Wait for a turn and take it.

        Raises:
            Stopped: ``stop`` was set.
        """
        while not stop.is_set():
            with self._lock:
                now = self._clock()
                if now >= self._next:
                    self._next = now + self._gap
                    return
                remaining = self._next - now
            stop.wait(remaining)
        raise Stopped

    def hold(self, seconds: float) -> None:
        """Start no request for this many seconds."""
        with self._lock:
            self._next = max(self._next, self._clock() + seconds)


def ask(
    url: str,
    body: Mapping[str, Any],
    *,
    key: str | None,
    pace: Pace,
    retries: int,
    backoff: float,
    timeout: float,
    stop: threading.Event,
    role: str = "judge",
) -> Reply:
    """Send the request until it is answered. ``timeout``: seconds for a whole try, from connecting
    to the last byte. ``role``: as errors name the server.

    Raises:
        ValueError: the server refuses, or gave no answer after all retries; without the key.
        Stopped: ``stop`` was set before it was sent.
    """
    for attempt in range(retries + 1):
        pace.turn(stop)
        try:
            return read_reply(_send(url, body, key, timeout, f"The {role} at {url}"))
        except Declined:
            return Reply(text="", finish=FILTERED, model="", tokens_in=None, tokens_out=None)
        except TryAgain as error:
            reason, wait = str(error), wait_seconds(attempt, backoff, error.wait)
            if wait > LONGEST_REQUESTED_WAIT:
                raise ValueError(
                    f"The {role} at {url} asks to wait {wait:.0f} seconds ({reason}); run again"
                    " after that."
                ) from None
            if attempt < retries:
                if error.busy:
                    pace.hold(wait)
                elif stop.wait(wait):
                    raise Stopped from None
    raise ValueError(
        f"The {role} at {url} gave no usable answer in {retries + 1} tries; the last: {reason}."
    )


def wait_seconds(attempt: int, backoff: float, requested: float | None) -> float:
    """Seconds before the next try: ``requested`` by the server, or ``backoff`` doubled at each
    attempt. Jitter keeps many requests from coming back at once."""
    delay = min(LONGEST_WAIT, backoff * 2.0**attempt)
    if requested is None:
        return delay * random.uniform(0.5, 1.0)
    return requested + random.uniform(0.0, min(delay, 1.0))


def retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header: a number or a date (RFC 9110, section 10.2.3); None: it
    cannot be read."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if seconds == seconds and seconds != float("inf") else None


@cache
def _certificates() -> ssl.SSLContext:
    """The trusted certificates; slow to load."""
    import httpx2

    return httpx2.create_ssl_context()


def _send(url: str, body: Mapping[str, Any], key: str | None, timeout: float, role: str) -> bytes:
    """The body of the reply.

    Raises:
        TryAgain: the connection broke, the time is over, or the server is busy.
        Declined: the server's filter refuses the prompt.
        ValueError: the server refuses.
    """
    # Imported here: commands that ask no judge need no HTTP client.
    import httpx2

    _certificates()  # outside of the time limit

    async def post() -> tuple[httpx2.Response, bytes]:
        # The client limits single reads and writes. This limit holds for the whole try, so that a
        # server that sends headers or body slowly cannot hold it for ever.
        async with (
            asyncio.timeout(timeout),
            httpx2.AsyncClient(timeout=None, headers=headers, verify=_certificates()) as client,
            client.stream("POST", url, json=dict(body)) as response,
        ):
            content = b""
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > LARGEST_REPLY:
                    raise TryAgain(f"a reply of more than {LARGEST_REPLY // 2**20} MiB")
            return response, content

    headers = {"Accept": "application/json"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    try:
        response, content = asyncio.run(post())
    except TimeoutError:
        raise TryAgain("the reply took longer than the time-out") from None
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        raise TryAgain(quote(f"{type(error).__name__}: {error}", key)) from None
    if response.is_success:
        return content
    raise _refusal(role, response, content, key)


def _refusal(role: str, response: httpx2.Response, content: bytes, key: str | None) -> Exception:
    """What a status other than success means: another try, or the end."""
    message, code = _error_message(content, key)
    status = response.status_code
    if status in (401, 403):  # the message may show a part of the key
        return ValueError(
            f"{role} refuses the key (status {status}); check the environment variable."
        )
    if code == "insufficient_quota":
        return ValueError(f"{role} says that the quota is spent; top it up and run again.")
    if status == 400 and code in FILTER_CODES:
        return Declined()
    if status in RETRIED or status >= 500:
        wait = retry_after(response.headers.get("Retry-After"))
        return TryAgain(f"status {status}: {message}", wait, busy=status == 429 or wait is not None)
    return ValueError(f"{role} refuses the request (status {status}): {message}.")


def _error_message(content: bytes, key: str | None) -> tuple[str, str | None]:
    """The server's own words about an error, and its code for it."""
    try:
        error = json.loads(content)["error"]
        message = error["message"] if isinstance(error, dict) else error
        code = error.get("code") if isinstance(error, dict) else None
    except (ValueError, TypeError, KeyError, RecursionError):
        message, code = content.decode("utf-8", "replace"), None
    return quote(str(message), key) or "no message", code if isinstance(code, str) else None


def read_reply(content: bytes) -> Reply:
    """
    Raises:
        TryAgain: it is no chat completion.
    """
    try:
        value = json.loads(content)
        choice = value["choices"][0]
        text = choice["message"]["content"]
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        start = quote(content[:400].decode("utf-8", "replace")) or "an empty body"
        raise TryAgain(f"no chat completion: {start}") from None
    # None: the model declined to answer. That is an answer.
    if text is not None and not isinstance(text, str):
        raise TryAgain("no chat completion: the message's content is not text")
    usage = value.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    model, finish = value.get("model"), choice.get("finish_reason")
    return Reply(
        text=(text or "").encode("utf-8", "replace").decode(),
        finish=finish if isinstance(finish, str) and storable(finish) else None,
        model=model if isinstance(model, str) and storable(model) else None,
        tokens_in=_token_count(counts.get("prompt_tokens")),
        tokens_out=_token_count(counts.get("completion_tokens")),
    )


def _token_count(value: object) -> int | None:
    """A count of tokens; None: it is none."""
    return value if type(value) is int and storable(value) else None


def storable(value: object) -> bool:
    """Whether a recording may hold it: text that UTF-8 can hold, a whole number that a float
    holds exactly, or None."""
    if isinstance(value, str):
        return not any("\ud800" <= character <= "\udfff" for character in value)
    return value is None or (type(value) is int and 0 <= value < 2**53)


def quote(text: str, key: str | None = None) -> str:
    """Untrusted text for an error: short, on one line, printable, without the key."""
    clean = text.replace(key, "***") if key else text
    clean = " ".join(
        "".join(character if character.isprintable() else " " for character in clean).split()
    )
    return clean if len(clean) <= 200 else clean[:199] + "…"
