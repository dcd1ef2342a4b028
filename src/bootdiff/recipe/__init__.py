"""The recipe: a run as plain validated YAML, and the objects that are built from it."""
