"""Self-improvement methods: they see images and a model, never a benchmark."""
