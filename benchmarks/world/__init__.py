"""The embedded picture world: rendered pictures with exact truth (no torch in here)."""
