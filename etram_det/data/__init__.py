"""From recordings on disk, or simulated traffic, to batches."""
