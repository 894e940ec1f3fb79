"""``python -m etram_det bench``: how fast it is, and how far from what the machine could do."""
