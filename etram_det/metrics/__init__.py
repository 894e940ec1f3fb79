"""Evaluation: size-binned average precision, protocols and confusion."""
