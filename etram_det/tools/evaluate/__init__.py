"""Evaluation of detections in files, of any detector."""
