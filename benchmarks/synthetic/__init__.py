"""The embedded image world: rendered images with exact truth (no torch in here)."""
