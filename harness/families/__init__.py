"""What differs between model families: how pictures become tokens, which names train, how a prompt is written."""
