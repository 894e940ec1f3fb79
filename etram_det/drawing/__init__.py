"""Frames, boxes, videos and plots: pixels and matplotlib, no metrics, no torch."""
