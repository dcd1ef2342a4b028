"""Distributions whose denoiser is known exactly, to measure the learned ones by."""
