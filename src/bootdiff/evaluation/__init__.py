"""Measuring finished models: losses, samples, restorations and costs."""
