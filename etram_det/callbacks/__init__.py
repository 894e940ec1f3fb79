"""What watches a run: its progress, results, predictions, pictures and safety."""
