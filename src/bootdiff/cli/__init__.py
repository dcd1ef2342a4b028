"""The command line, and what its verbs are made of."""
