"""``python -m etram_det sweep``: search loss variants and settings with Optuna."""
