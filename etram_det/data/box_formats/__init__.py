"""Boxes in the formats of other tools: COCO JSON, CSV and NumPy."""
