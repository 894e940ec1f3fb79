"""What training would make of a folder of recordings, seen before training."""
