"""Edits of stored results for tests."""

from __future__ import annotations

from pathlib import Path


def without_hashes(stage: Path) -> Path:
    """The stage as an earlier version finished it: ``DONE`` holds the fingerprint alone. Returns
    the stage."""
    done = stage / "DONE"
    done.write_text(done.read_text().split()[0] + "\n")
    return stage
