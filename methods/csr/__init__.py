"""CSR: calibrated self-rewarding (arXiv 2405.14622)."""
