"""Simulated traffic, and the event camera that records it."""
