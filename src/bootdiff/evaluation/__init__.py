"""Measuring samples: feature networks (`features`), figures on their features (`metrics`)."""
