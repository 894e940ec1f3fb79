"""Detection in recordings of any length: the command ``detect``."""
