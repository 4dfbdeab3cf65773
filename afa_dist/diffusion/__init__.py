"""Class-conditional diffusion models: training, sampling, and what becomes of samples.

All modules but `available` need diffusers (the extra `diffusion`).
"""
