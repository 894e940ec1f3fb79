"""What a folder of recordings holds, before training on it."""
