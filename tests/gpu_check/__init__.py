"""One prepared check of a GPU: ``python -m tests.gpu_check --minutes 11 --out FOLDER``."""
