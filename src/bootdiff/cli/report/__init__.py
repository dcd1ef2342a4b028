"""The visible output of a command: images, figures, curves, tables, sample files and their units."""
