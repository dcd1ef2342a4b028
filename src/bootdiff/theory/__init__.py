"""Exact cases, the rulers beside the learned ones, and what follows from them.

`exact`: laws whose denoiser is known in closed form. `information`: what views leave over, in nats. `linear`: linear
denoisers at one noise level. `bounds`: generalization bounds. `experiments`: the paper's claims as tests.
"""
