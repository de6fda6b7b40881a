"""What ``doctor`` reports: one check per thing, as text or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple


class State(NamedTuple):
    """Whether a thing is ready, details, and how to get it where it is not."""

    name: str
    ready: bool
    says: str
    mend: str = ""


@dataclass(frozen=True)
class Check:
    """The state of one thing, in its group."""

    group: str
    name: str
    ready: bool
    says: str
    mend: str = ""


def check(group: str, state: State) -> Check:
    """``mend`` is left out where the thing is ready."""
    return Check(group, *state) if not state.ready else Check(group, *state[:3])


def as_text(checks: Sequence[Check]) -> str:
    """The checks by group, a line each, and how many are ready."""
    width = max(len(check.name) for check in checks)
    lines = []
    for group in dict.fromkeys(check.group for check in checks):
        lines.append(group)
        for check in checks:
            if check.group == group:
                state = "ready  " if check.ready else "lacking"
                mend = f"; {check.mend}" if check.mend else ""
                lines.append(f"  {state}  {check.name:<{width}}  {check.says}{mend}")
    ready = sum(check.ready for check in checks)
    return "\n".join([*lines, f"{ready} ready, {len(checks) - ready} lacking."])


def as_json(checks: Sequence[Check]) -> str:
    """The checks as a JSON list of objects."""
    return json.dumps([asdict(check) for check in checks], indent=1, ensure_ascii=False)
