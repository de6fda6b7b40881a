"""Batched generation, beam search and log-probabilities; all models are called through it."""
