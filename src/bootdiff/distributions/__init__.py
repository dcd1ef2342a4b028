"""Distributions whose denoiser is known exactly: the rulers beside the learned ones."""
