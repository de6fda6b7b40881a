"""One chat request to an OpenAI-compatible server: paced, retried with exponential back-off and
jitter, and read with suspicion.

Only the standard library is used. Redirects are refused: following one would hand the key to
another host. The key stands in no error, and what a server sends is quoted short and on one line.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

PATIENCE = 600.0
"""Seconds; a server that asks to wait longer (a day's quota is spent) ends the judging instead."""
LONGEST_WAIT = 60.0
"""Seconds that a back-off grows to."""
LARGEST_REPLY = 4 * 2**20
"""Bytes that are read of a reply; a verdict has a few thousand."""
PASSING = frozenset({408, 409, 425, 429})
"""Status codes below 500 that are worth another try."""


class Stopped(Exception):  # noqa: N818  (no error: another request's failure, or Ctrl-C, ended the judging)
    """The request was not sent, because the judging has ended."""


class Passing(Exception):  # noqa: N818  (a reason to try again)
    """This try failed; ``wait`` is what the server asked for (seconds), None where it said nothing.
    ``busy``: all should wait."""

    def __init__(self, why: str, wait: float | None = None, busy: bool = False) -> None:
        super().__init__(why)
        self.wait, self.busy = wait, busy


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the judge said: its text, why it stopped, the model that the server names, and the
    tokens that it counted (None: the server does not count)."""

    text: str
    finish: str | None
    model: str | None
    tokens_in: int | None
    tokens_out: int | None


class Pace:
    """Lets requests start at most ``per_minute`` times a minute, evenly, from any thread; and holds
    all of them when told to."""

    def __init__(self, per_minute: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._gap, self._clock, self._lock, self._next = (
            60.0 / per_minute,
            clock,
            threading.Lock(),
            clock(),
        )

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
                left = self._next - now
            stop.wait(left)
        raise Stopped

    def hold(self, seconds: float) -> None:
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
) -> Reply:
    """Send the request until it is answered.

    Raises:
        ValueError: the server refuses, or has not given an answer after all retries; one sentence,
        without the key. Stopped: ``stop`` was set before it was sent.
    """
    for attempt in range(retries + 1):
        pace.turn(stop)
        try:
            return read_reply(_send(url, body, key, timeout))
        except Passing as error:
            why, wait = str(error), waiting(attempt, backoff, error.wait)
            if wait > PATIENCE:
                raise ValueError(
                    f"The judge at {url} asks to wait {wait:.0f} seconds ({why}); run again after"
                    " that."
                ) from None
            if attempt < retries:
                if error.busy:
                    pace.hold(wait)
                elif stop.wait(wait):
                    raise Stopped from None
    raise ValueError(
        f"The judge at {url} gave no usable answer in {retries + 1} tries; the last: {why}."
    )


def waiting(attempt: int, backoff: float, asked: float | None) -> float:
    """Seconds before the next try: what the server asked for, or ``backoff`` doubled with each
    attempt; with jitter on top, so that many requests do not come back at once."""
    grown = min(LONGEST_WAIT, backoff * 2.0**attempt)
    if asked is None:
        return grown * random.uniform(0.5, 1.0)
    return asked + random.uniform(0.0, min(grown, 1.0))


def retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header: a number, or a date (RFC 9110, section 10.2.3); None where
    there is none to read."""
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


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_arguments: Any, **_words: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def _send(url: str, body: Mapping[str, Any], key: str | None, timeout: float) -> bytes:
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="POST")
    began = time.monotonic()
    try:
        with _OPENER.open(request, timeout=timeout) as response:
            return _read(response, began + timeout)
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(url, error, key) from None
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise Passing(quoted(f"{type(reason).__name__}: {reason}", key)) from None


def _read(response: Any, until: float) -> bytes:
    """The whole body, piece by piece: a time-out of the socket alone would let a server drip for
    ever."""
    pieces, size = [], 0
    while piece := response.read1(65536):
        pieces.append(piece)
        size += len(piece)
        if size > LARGEST_REPLY:
            raise Passing(f"a reply of more than {LARGEST_REPLY // 2**20} MiB")
        if time.monotonic() > until:
            raise Passing("the reply took longer than the time-out")
    expected = response.headers.get("Content-Length", "")
    if expected.isdigit() and size < int(expected):
        raise Passing("the connection broke in the middle of the reply")
    return b"".join(pieces)


def _refusal(url: str, error: urllib.error.HTTPError, key: str | None) -> Exception:
    """What a status other than success means: another try, or the end."""
    try:
        content = error.read(65536)
    except (OSError, http.client.HTTPException):
        content = b""
    said, code = _message(content, key)
    if error.code in (401, 403):  # the message may show a part of the key
        return ValueError(
            f"The judge at {url} refuses the key (status {error.code}); check the environment"
            " variable."
        )
    if code == "insufficient_quota":
        return ValueError(
            f"The judge at {url} says that the quota is spent; top it up and run again."
        )
    if error.code in PASSING or error.code >= 500:
        wait = retry_after(error.headers.get("Retry-After"))
        return Passing(
            f"status {error.code}: {said}", wait, busy=error.code == 429 or wait is not None
        )
    return ValueError(f"The judge at {url} refuses the request (status {error.code}): {said}.")


def _message(content: bytes, key: str | None) -> tuple[str, str | None]:
    """The server's own words about an error, and its code for it."""
    try:
        error = json.loads(content)["error"]
        said = error["message"] if isinstance(error, dict) else error
        code = error.get("code") if isinstance(error, dict) else None
    except (ValueError, TypeError, KeyError, RecursionError):
        said, code = content.decode("utf-8", "replace"), None
    return quoted(str(said), key) or "no message", code if isinstance(code, str) else None


def read_reply(content: bytes) -> Reply:
    """
    Raises:
        Passing: it is no answer of a chat model.
    """
    try:
        value = json.loads(content)
        choice = value["choices"][0]
        text = choice["message"]["content"]
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        raise Passing(
            "no chat completion:"
            f" {quoted(content[:400].decode('utf-8', 'replace')) or 'an empty body'}"
        ) from None
    if text is not None and not isinstance(
        text, str
    ):  # None: the model declined; that is an answer
        raise Passing("no chat completion: the message's content is not text")
    usage = value.get("usage")
    count = usage if isinstance(usage, dict) else {}
    model, finish = value.get("model"), choice.get("finish_reason")
    return Reply(
        text=(text or "").encode("utf-8", "replace").decode(),
        finish=finish if isinstance(finish, str) else None,
        model=model if isinstance(model, str) else None,
        tokens_in=_count(count.get("prompt_tokens")),
        tokens_out=_count(count.get("completion_tokens")),
    )


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def quoted(text: str, key: str | None = None) -> str:
    """Untrusted text for an error: short, on one line, printable, without the key."""
    clean = text.replace(key, "***") if key else text
    clean = " ".join("".join(sign if sign.isprintable() else " " for sign in clean).split())
    return clean if len(clean) <= 200 else clean[:199] + "…"
