"""A model hub on localhost: as much of the real one's protocol as huggingface_hub, transformers and
datasets ask for.

Files by ``resolve`` (with ETag and commit), the tree, the paths and the revisions of a repository;
and its ways to refuse: not there, gated, another revision, a file cut in the middle. Repositories
are folders handed to :meth:`Hub.add`; a commit is the hash of what is in it. What was asked for,
with its headers, is kept in ``Hub.asked``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = 4096
"""Bytes from which a file is served as the hub serves large ones: named by its SHA-256."""

Kind = Literal["models", "datasets"]


@dataclass
class Repository:
    """A repository's commits, and its branches and tags by name. ``gated``: nobody may read it.
    ``cut``: how often files of that name's end are still to be cut in the middle. ``silent``: every
    connection is closed without an answer."""

    commits: dict[str, Path] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    silent: bool = False
    cut: dict[str, int] = field(default_factory=dict)

    def commit(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.refs.get(revision)


@dataclass
class Hub:
    """The repositories by kind and id, and every request: method, path, headers."""

    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    asked: list[tuple[str, str, Mapping[str, str]]] = field(default_factory=list)
    endpoint: str = ""

    def add(
        self,
        id: str,
        folder: Path,
        *,
        kind: Kind = "models",
        ref: str = "main",
        commit: str | None = None,
    ) -> str:
        """Put the folder there as what the branch (or tag) ``ref`` is at; its commit."""
        content = hashlib.sha1(id.encode(), usedforsecurity=False)
        for path in files(folder):
            content.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
        repository = self.repositories.setdefault((kind, id), Repository())
        name = commit or content.hexdigest()
        repository.commits[name] = folder
        repository.refs[ref] = name
        return name

    def gate(self, id: str, kind: Kind = "models") -> None:
        """A repository that nobody may read."""
        self.repositories[kind, id] = Repository(gated=True)

    def silence(self, id: str, silent: bool = True) -> None:
        """From now on, connections that ask for the repository are closed without an answer, or
        answered again."""
        self.repositories["models", id].silent = silent

    def cut(self, id: str, end: str, times: int = 1000) -> None:
        """From now on, so many answers with a file of that end break off in the middle."""
        self.repositories["models", id].cut[end] = times


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@contextmanager
def serving(hub: Hub) -> Iterator[str]:
    """The hub's address while it answers."""

    class Bound(Handler):
        pass

    Bound.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub.endpoint
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing: the test speaks."""

    def do_HEAD(self) -> None:
        self.answer(b"")

    def do_GET(self) -> None:
        self.answer(b"")

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers.get("Content-Length", "0"))))

    def answer(self, body: bytes) -> None:
        self.hub.asked.append(
            (self.command, self.path, {name.lower(): value for name, value in self.headers.items()})
        )
        path = urlsplit(self.path).path.strip("/")
        api = path.startswith("api/")
        parts = path.removeprefix("api/").split("/")
        kind = parts.pop(0) if parts[0] in ("models", "datasets") else "models"
        id, rest = "/".join(parts[:2]), parts[2:]
        repository = self.hub.repositories.get((kind, id))
        if repository is None:
            return self.refuse(401 if "Authorization" not in self.headers else 404, "RepoNotFound")
        if repository.silent:
            self.close_connection = True
            return None
        if repository.gated:
            return self.refuse(403, "GatedRepo")
        verb = rest[0] if rest else "revision"
        revision = unquote(rest[1]) if len(rest) > 1 else "main"
        commit = repository.commit(revision)
        if commit is None:
            return self.refuse(404, "RevisionNotFound")
        folder = repository.commits[commit]
        if not api and verb == "resolve":
            return self.file(repository, commit, folder / unquote("/".join(rest[2:])))
        if api and verb == "revision":
            return self.json(self.info(id, commit, folder))
        if api and verb == "tree":
            below = unquote("/".join(rest[2:]))
            recursive = (
                parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() == "true"
            )
            entries = tree(folder, below, recursive)
            return self.json(entries) if entries else self.refuse(404, "EntryNotFound", commit)
        if api and verb == "paths-info":
            wanted = {path.strip("/") for path in parse_qs(body.decode()).get("paths", [])}
            return self.json([entry for entry in tree(folder, "", True) if entry["path"] in wanted])
        return self.refuse(404, "EntryNotFound", commit)

    def info(self, id: str, commit: str, folder: Path) -> dict[str, object]:
        siblings = [{"rfilename": path.relative_to(folder).as_posix()} for path in files(folder)]
        told: dict[str, object] = {
            "id": id,
            "modelId": id,
            "sha": commit,
            "private": False,
            "gated": False,
            "tags": [],
        }
        return {**told, "disabled": False, "downloads": 0, "likes": 0, "siblings": siblings}

    def file(self, repository: Repository, commit: str, path: Path) -> None:
        if not path.is_file():
            return self.refuse(404, "EntryNotFound", commit)
        content = path.read_bytes()
        digest = oid(content)
        start = (
            int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
            if "Range" in self.headers
            else 0
        )
        headers = {"ETag": f'"{digest}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if len(content) >= LARGE:
            headers |= {"X-Linked-ETag": f'"{digest}"', "X-Linked-Size": str(len(content))}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.send(
            206 if start else 200, content[start:], headers, cut=self.cuts(repository, path.name)
        )
        return None

    def cuts(self, repository: Repository, name: str) -> bool:
        """Whether this answer is one that is to break off."""
        end = next(
            (end for end, times in repository.cut.items() if name.endswith(end) and times > 0), None
        )
        if end is None or self.command == "HEAD":
            return False
        repository.cut[end] -= 1
        return True

    def json(self, value: object) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def refuse(self, status: int, code: str, commit: str | None = None) -> None:
        headers = {
            "X-Error-Code": code,
            "X-Error-Message": code,
            **({"X-Repo-Commit": commit} if commit else {}),
        }
        self.send(status, json.dumps({"error": code}).encode(), headers)

    def send(
        self, status: int, content: bytes, headers: Mapping[str, str], cut: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.close_connection = True


def tree(folder: Path, below: str, recursive: bool) -> list[dict[str, object]]:
    """What the tree of a folder of the repository lists."""
    root = folder / below
    return [
        entry(folder, path) for path in sorted(root.rglob("*") if recursive else root.glob("*"))
    ]


def entry(folder: Path, path: Path) -> dict[str, object]:
    name = path.relative_to(folder).as_posix()
    if path.is_dir():
        return {"type": "directory", "path": name, "size": 0, "oid": oid(name.encode())}
    content = path.read_bytes()
    large = (
        {"lfs": {"oid": oid(content), "size": len(content), "pointerSize": 130}}
        if len(content) >= LARGE
        else {}
    )
    return {
        "type": "file",
        "path": name,
        "size": len(content),
        "oid": hashlib.sha1(content).hexdigest(),
        **large,
    }


def oid(content: bytes) -> str:
    """A small file's git name is a SHA-1, a large one's a SHA-256."""
    return (hashlib.sha1(content) if len(content) < LARGE else hashlib.sha256(content)).hexdigest()
