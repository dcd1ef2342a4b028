"""What a command leaves to look at: images, figures, curves, tables, files of samples and their units."""
