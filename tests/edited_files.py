"""Edits of stored results for tests."""

from __future__ import annotations

from pathlib import Path

OLD_DONE = "0" * 64 + "\n"
"""A ``DONE`` without the files' hashes, of an identity that is not compared."""


def without_hashes(stage: Path) -> Path:
    """The stage as an earlier version finished it: ``DONE`` holds the fingerprint alone. Returns
    the stage."""
    done = stage / "DONE"
    done.write_text(done.read_text().split()[0] + "\n")
    return stage
