"""How the world's tokenizer, CLIP and LLaVA are built and trained; the shipped weights and their
card."""
