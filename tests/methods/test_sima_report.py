"""The report on SIMA's critic: every share, computed from records made by hand."""

from __future__ import annotations

from methods.interface import JSON, Dropped, PreferencePair
from methods.sima.critic import CriticReport, critic_report


def asked(first: str, verdict: int | None) -> JSON:
    second = "sample" if first == "greedy" else "greedy"
    winner = None if verdict is None else first if verdict == 1 else second
    return {"first": first, "verdict": verdict, "winner": winner}


def pair(key: str, chosen: str, rejected: str, greedy_won: bool, *critic: JSON) -> PreferencePair:
    trace: dict[str, JSON] = {"greedy_won": greedy_won, "critic": list(critic)}
    return PreferencePair(
        key=key, item=key, prompt="what ?", chosen=chosen, rejected=rejected, trace=trace
    )


def drop(key: str, *critic: JSON) -> Dropped:
    return Dropped(
        key=key, item=key, reason="some", trace={"critic": list(critic)} if critic else {}
    )


RECORDS = (
    pair("a", "xx", "x", True, asked("greedy", 1), asked("sample", 2)),
    pair("b", "x", "xxx", False, asked("greedy", 2), asked("sample", 1)),
    pair("c", "x", "y", True, asked("greedy", 1)),
    drop("d", asked("greedy", 1), asked("sample", 1)),
    drop("e", asked("greedy", None), asked("sample", 2)),
    drop("f"),
)


def test_the_critics_report() -> None:
    assert critic_report(RECORDS) == CriticReport(
        compared=5,
        asked=9,
        pairs=3,
        verdict_rate=8 / 9,
        greedy_wins=2 / 3,
        first_wins=5 / 8,
        inconsistent=1 / 3,
    )


def test_nothing_asked_gives_no_shares() -> None:
    nothing = CriticReport(
        compared=0,
        asked=0,
        pairs=0,
        verdict_rate=None,
        greedy_wins=None,
        first_wins=None,
        inconsistent=None,
    )
    assert critic_report([]) == critic_report([drop("f")]) == nothing
