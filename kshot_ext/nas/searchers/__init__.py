"""Search for architectures with a trained supernet."""
