"""Simulated traffic, and the event camera that sees it."""
