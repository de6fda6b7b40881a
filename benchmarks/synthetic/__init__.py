"""Synthetic images: rendered scenes with exact truth. Nothing here imports torch."""
