"""Generation and log-probabilities: the one path by which any model is asked anything."""
