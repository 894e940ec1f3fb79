"""What watches a training run: checkpoints, resume, results, progress, non-finite steps."""
