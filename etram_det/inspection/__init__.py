"""Looking into checkpoints and recordings, as the notebooks do."""
