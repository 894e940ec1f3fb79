"""Checkpoints: read without running code, compared, carried over, imported from RVT."""
