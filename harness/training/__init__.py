"""Training on preference pairs: one loop for all methods."""
