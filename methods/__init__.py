"""Self-improvement methods. They use images, tools and nothing of the harness or the benchmarks."""
