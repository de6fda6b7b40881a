"""The harness: sees methods and benchmarks, moves files between them, is imported by neither."""
