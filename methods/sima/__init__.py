"""SIMA: an in-context self-critic (arXiv 2405.15973)."""
