"""Image pools in the layouts that papers' data come in; harness/pool.py draws from them all alike."""
