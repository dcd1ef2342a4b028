"""Gaussians from a few full samples and many partial ones: estimates, and the views' moments imposed on them."""
