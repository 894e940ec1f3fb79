"""The detector, its assignment and its losses."""
