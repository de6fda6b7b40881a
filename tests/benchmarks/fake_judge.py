"""A judge on this machine: an HTTP server that answers, refuses, breaks off and dawdles as its
script says."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "fake-judge-1"


@dataclass(frozen=True)
class Answer:
    """One HTTP answer. ``cut``: the connection closes after half of the body; ``silent``: without
    any answer. ``endless``: headers or a body, one piece at a time, or a flood, until the client
    goes away."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False
    silent: bool = False
    endless: str = ""


def said(text: str | None, *, model: str | None = MODEL, usage: bool = True) -> Answer:
    """A well-formed chat completion."""
    value: dict[str, Any] = {
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]
    }
    value |= {"model": model} if model is not None else {}
    value |= {"usage": {"prompt_tokens": 100, "completion_tokens": 10}} if usage else {}
    return Answer(body=json.dumps(value).encode())


def refused(status: int, message: str = "no", code: str | None = None, **headers: str) -> Answer:
    body = json.dumps({"error": {"message": message, "code": code}}).encode()
    return Answer(
        status=status,
        body=body,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


Script = Callable[[str, int], Answer]
"""From the prompt and how many times it has been asked before, to an answer."""


@dataclass
class FakeJudge:
    """``asked`` holds the bodies in the order they came, ``keys`` their Authorization headers;
    ``most`` is the largest number of requests that were under way at once."""

    script: Script
    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    under_way: int = 0
    most: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def prompts(self) -> list[str]:
        return [body["messages"][0]["content"] for body in self.asked]


@contextmanager
def serving(script: Script) -> Iterator[FakeJudge]:
    judge, closing = FakeJudge(script), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # a redirect that was followed would come here
            self.do_POST()

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or "{}")
            prompt = body["messages"][0]["content"]
            with judge.lock:
                before = sum(one["messages"][0]["content"] == prompt for one in judge.asked)
                judge.asked.append(body)
                judge.keys.append(self.headers["Authorization"])
                judge.under_way += 1
                judge.most = max(judge.most, judge.under_way)
            try:
                answer = judge.script(prompt, before)
            finally:
                with judge.lock:
                    judge.under_way -= 1
            self.close_connection = True
            if answer.silent:
                return
            self.send_response(answer.status)
            if answer.endless:
                self.send_for_ever(answer.endless)
                return
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body[: len(answer.body) // 2] if answer.cut else answer.body)

        def send_for_ever(self, what: str) -> None:
            if what != "headers":
                self.end_headers()
            piece = {"headers": b"X-More: 1\r\n", "body": b" ", "flood": b" " * 2**16}[what]
            self.flush_headers()
            with contextlib.suppress(OSError):  # the client has gone away
                while not closing.wait(0.0 if what == "flood" else 0.02):
                    self.wfile.write(piece)

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_arguments: None  # type: ignore[method-assign]  # a client that went away
    judge.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield judge
    finally:
        closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
