"""What is installed here, which commands work with it, and what to install for the others."""
