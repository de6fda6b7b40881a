"""Measurements run by hand: python -m tests.benches.<name>."""
