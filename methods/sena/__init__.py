"""SENA: image-only self-evolution (arXiv 2412.15650)."""
