"""Benchmarks: they see questions and answers, never a model."""
