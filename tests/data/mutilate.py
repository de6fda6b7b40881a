"""Mutilated copies of text files and Parquet files, drawn from a seed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from random import Random

VALUES = ("null", "[]", "{}", "-1", "true", "NaN", "1e999", "9" * 400, '""', '" "', '"\\ud83d"')
"""JSON values in the place of another."""


def _cut(content: bytes, rng: Random) -> bytes:
    return content[: rng.randrange(len(content))]


def _flip(content: bytes, rng: Random) -> bytes:
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


def _hole(content: bytes, rng: Random) -> bytes:
    place = rng.randrange(len(content))
    return content[:place] + content[place + rng.randrange(1, 60) :]


def _zeros(content: bytes, rng: Random) -> bytes:
    place = rng.randrange(len(content))
    return content[:place] + b"\0" * 8 + content[place + 8 :]


def _insert(content: bytes, rng: Random) -> bytes:
    place = rng.randrange(len(content))
    odd = rng.choice(
        (b"\xff\xfe", b"\0", b"\x1b[2J", b"\r", b"\n", b"\xef\xbb\xbf", b"[" * 100_000)
    )
    return content[:place] + odd + content[place:]


def _lines(content: bytes, rng: Random) -> bytes:
    """A line twice, gone, or in another place."""
    lines = content.split(b"\n")
    line = lines[place := rng.randrange(len(lines))]
    if rng.random() < 0.5:
        del lines[place]
    if rng.random() < 0.7:
        lines.insert(rng.randrange(len(lines) + 1), line)
    return b"\n".join(lines)


def _value(content: bytes, rng: Random) -> bytes:
    """Another JSON value, or a name less."""
    found = list(re.finditer(rb'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?', content))
    if not found:
        return content + b"\t"
    there = rng.choice(found)
    return content[: there.start()] + rng.choice(VALUES).encode() + content[there.end() :]


def _coded(content: bytes, rng: Random) -> bytes:
    text = content.decode("latin-1")
    return text.encode(rng.choice(("utf-16", "utf-8-sig", "utf-32"))) + b"caf\xe9" * rng.randrange(
        2
    )


def _other(content: bytes, rng: Random) -> bytes:
    pages = (b"", b"\n", b"<html>404</html>", b"version https://git-lfs.github.com/spec/v1\n")
    return rng.choice((*pages, json.dumps([[len(content)]]).encode(), b"[" * 100_000))


WAYS: tuple[Callable[[bytes, Random], bytes], ...] = (
    *(_cut, _flip, _hole, _zeros, _insert, _lines, _value, _value, _value, _coded, _other),
)


def mutilated(content: bytes, rng: Random) -> tuple[str, bytes]:
    """(how, the content) of a mutilated copy; it differs from the whole."""
    while True:
        way = rng.choice(WAYS)
        if (changed := way(content, rng)) != content:
            return way.__name__.strip("_"), changed
