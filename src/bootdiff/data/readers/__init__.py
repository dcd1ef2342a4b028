"""Readers: one per format of the files that people have."""
