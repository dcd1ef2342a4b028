"""Exact cases, the rulers beside the learned ones: laws whose denoiser is known in closed form (`exact`)."""
