"""Commands beside Lightning's own, one file each."""
