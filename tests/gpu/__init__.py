"""Tests that need a CUDA GPU. ``GPU_TESTS_DEVICE=cpu`` rehearses on the CPU those that can be."""
