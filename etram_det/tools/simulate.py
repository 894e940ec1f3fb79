"""``python -m etram_det simulate``: write simulated traffic in eTraM's own layout."""
