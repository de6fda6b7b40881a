"""The synthetic models (tokenizer, CLIP, LLaVA): architecture, training, the shipped weights and
their card."""
