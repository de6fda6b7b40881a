"""Captions of the figures, by the beginning of their names; for the page and ``captions.md``."""

from __future__ import annotations

from collections.abc import Iterable

CAPTIONS = {
    "before-and-after": (
        "Each row's difference from the baseline, one panel a metric, with the 95 % interval."
        " A filled marker is a clear change of the method after Holm's correction; a ring means"
        " that it does not exceed a control. Ticks below a marker are training seeds; grey numbers"
        " are the metric's values."
    ),
    "rounds": (
        "The primary metrics after each round of training, from the baseline (round 0) on. Vertical"
        " lines are 95 % intervals of the difference from the baseline. Rows are drawn side by side"
        " so that they do not cover each other; each belongs to a whole round."
    ),
    "hallucination-against-recall": (
        "Hallucination (down is better) against recall (right is better) in captions. An arrow"
        " leads from the baseline to each row. Down and left is a more cautious model. Grey: the"
        " baseline's captions, cut to a row's length."
    ),
    "at-several-lengths": (
        "All rows' captions, cut at the same numbers of words. The large marker is the uncut row,"
        " the band one standard error over images."
    ),
    "prompts": "What became of each row's prompts: a preference pair, or a reason for dropping.",
    "training": (
        "Loss, pairs ranked right, reward margin, and the rewards of chosen and rejected answers"
        " (studies of earlier versions: not recorded). Thin lines are training seeds, thick lines"
        " their smoothed mean; the dashed line is an untrained model."
    ),
    "ablation": (
        "One setting changed at a time, with the paired 95 % interval. The ring marks the row's own"
        " value, the dashed line is the baseline."
    ),
    "noise": "Hallucination by noise step, and an image as the model sees it at each step.",
    "examples": (
        "Captions of the baseline and of a row for the same images; objects that are not in the"
        " image are marked."
    ),
}
"""The longest beginning that fits is used."""


def caption(name: str) -> str:
    """The caption of the figure with this name; "" for a figure of another kind."""
    fitting = [start for start in CAPTIONS if name.startswith(start)]
    return CAPTIONS[max(fitting, key=len)] if fitting else ""


def captions(names: Iterable[str]) -> str:
    """A Markdown file with the caption of each named figure."""
    texts = ((name, caption(name)) for name in dict.fromkeys(names))
    return "# Captions\n\n" + "".join(f"- **{name}**: {text}\n" for name, text in texts if text)
