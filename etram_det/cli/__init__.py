"""The command line: its commands, flags, messages, and where runs resume."""
