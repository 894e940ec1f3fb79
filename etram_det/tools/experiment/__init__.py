"""``python -m etram_det experiment``: variants trained with several seeds, and compared."""
