"""Tables and files that people look at."""
