"""Tools beside the method."""
