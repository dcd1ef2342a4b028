"""Bootstrapping: views, gains, residual, stack."""
