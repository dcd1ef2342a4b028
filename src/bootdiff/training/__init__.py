"""Training anything, once: the loop, its settings, checkpoints, the run folder and its stages.  Knows no diffusion."""
